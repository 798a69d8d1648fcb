"""Callbacks of trainers, and language models, on the device: see `devices_at_work.py`.

The trainers themselves know nothing of a pretend device; their callbacks are called as they would.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from devices_at_work import Device, Numbers, chain, rows
from torch import nn

import boxwood
from boxwood.policies import RigL

POLICY = RigL(sparsity=0.5, until=9, every=1)


def step(net: nn.Module, optimizer: torch.optim.Optimizer, device: Device) -> None:
    inputs, targets = rows().take(torch.arange(20))
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(inputs.to(device)), targets.to(device)).backward()
    optimizer.step()


def lightning(device: Device) -> Numbers:
    from boxwood.integrations.lightning import MaskCallback, SparseTrainingCallback

    found: dict[str, Any] = {}
    masks = {f"0.{name}": mask for name, mask in boxwood.find_masks(chain(), 0.5).items()}
    for callback in (SparseTrainingCallback(POLICY), MaskCallback(masks)):
        module: Any = nn.Sequential(chain()).to(device)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        trainer: Any = SimpleNamespace(optimizers=[optimizer], callbacks=[callback])
        callback.on_train_start(trainer, module)
        step(module, optimizer, device)
        saved = {name: each.cpu() for name, each in callback.state_dict().items()}
        callback.on_load_checkpoint(trainer, module, {})
        callback.load_state_dict(saved)
        checkpoint = {"state_dict": module.state_dict()}
        callback.on_save_checkpoint(trainer, module, checkpoint)
        step(module, optimizer, device)
        callback.on_train_end(trainer, module)
        callback.teardown(trainer, module, "fit")
        kind = type(callback).__name__
        found |= {f"{kind} {name}": each for name, each in module.state_dict().items()}
        found |= {f"{kind} saved {n}": each for n, each in checkpoint["state_dict"].items()}
    return found


def trainer_of_transformers(device: Device) -> Numbers:
    import tempfile

    from boxwood.integrations.transformers import MaskTrainerCallback, SparseTrainerCallback

    found: dict[str, Any] = {}
    for callback in (
        SparseTrainerCallback(POLICY),
        MaskTrainerCallback(boxwood.find_masks(chain(), 0.5)),
    ):
        net = chain().to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "checkpoint-1").mkdir()
            arguments: Any = SimpleNamespace(
                output_dir=folder, resume_from_checkpoint=None, load_best_model_at_end=False
            )
            state: Any = SimpleNamespace(
                global_step=0, is_world_process_zero=True, best_model_checkpoint=None
            )
            control: Any = None
            callback.on_train_begin(arguments, state, control, model=net, optimizer=optimizer)
            step(net, optimizer, device)
            state.global_step = 1
            callback.on_save(arguments, state, control)
            callback.on_train_begin(arguments, state, control, model=net, optimizer=optimizer)
            step(net, optimizer, device)
            callback.on_train_end(arguments, state, control)
        found |= {f"{type(callback).__name__} {n}": each for n, each in net.state_dict().items()}
    return found


def language_model(device: Device) -> Numbers:
    import transformers

    from boxwood.integrations.transformers import (
        block_influences,
        block_perplexities,
        drop_blocks,
        greedy_blocks,
        perplexity,
        shrink_pretrained,
    )

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=40, max_position_embeddings=32, use_cache=False,
    )  # fmt: skip
    model: Any = transformers.LlamaForCausalLM(config).eval().to(device)
    ids = torch.arange(24).view(2, 12)
    units = boxwood.find_units(model, ids[:1].to(device))
    done = shrink_pretrained(
        model, units, lambda multiple: boxwood.select_units(units, 0.5, multiple=multiple)
    )
    batches = [{"input_ids": ids}]
    small = drop_blocks(model, list(greedy_blocks(model, 1, batches)))
    found = {
        "influence": block_influences(model, batches),
        "left": block_perplexities(model, batches),
    }
    return {
        "perplexity": round(perplexity(model, batches), 4),
        "shallower": round(perplexity(small, batches), 4),
        **{f"{how} {n}": round(each, 4) for how, by in found.items() for n, each in by.items()},
        **dict(done.built.named_parameters()),
    }


def mixture(device: Device) -> Numbers:
    import transformers

    from boxwood.integrations.transformers import drop_experts, expert_scores, least_experts

    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, vocab_size=40, max_position_embeddings=32,
        experts_implementation="eager",
    )  # fmt: skip
    model: Any = transformers.MixtralForCausalLM(config).eval().to(device)
    batches = [{"input_ids": torch.arange(24).view(2, 12)}]
    scores = expert_scores(model, batches)
    chosen = least_experts(model, scores, 1)
    small = drop_experts(model, chosen, merge=batches)
    return {
        **{
            f"{name} {at}": round(each, 4)
            for name, by in scores.items()
            for at, each in enumerate(by)
        },
        **dict(small.named_parameters()),
    }


SCENARIOS: dict[str, Callable[[Device], Numbers]] = {}
if find_spec("lightning") is not None:
    SCENARIOS["lightning"] = lightning
if find_spec("transformers") is not None:
    SCENARIOS |= {
        "transformers": trainer_of_transformers,
        "language model": language_model,
        "mixture": mixture,
    }
