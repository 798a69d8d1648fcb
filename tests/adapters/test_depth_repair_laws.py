"""What dropped blocks did is folded into the block before: exactly where it can be, and by least squares."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from boxwood._internal.adapters.depth import drop_blocks, without_blocks  # noqa: E402
from boxwood._internal.adapters.depth_folders import drop_blocks_pretrained  # noqa: E402
from boxwood._internal.adapters.depth_repair import RIDGE, NothingToFoldIntoError  # noqa: E402

spec = importlib.util.spec_from_file_location(
    "tiny_decoders", Path(__file__).parent / "tiny_decoders.py"
)
tiny: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
FAMILIES = {**tiny.DECODERS, **tiny.MIXTURES, **tiny.PAIRS}
BATCHES = [
    {"input_ids": torch.randint(3, 60, (8, 24), generator=torch.Generator().manual_seed(seed))}
    for seed in range(2)
]


def saved(name: str, folder: Path) -> Any:
    model = tiny.made(name, FAMILIES[name])
    model.save_pretrained(folder / "dense")
    return model


def seen_of(model: Any, module: Any, *, outputs: bool) -> torch.Tensor:
    """What a module reads, or makes, over all batches, in rows."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_hook(
        lambda _, args, out: seen.append((out if outputs else args[0]).flatten(0, -2))
    )
    with torch.no_grad():
        for batch in BATCHES:
            model(**batch, use_cache=False)
    handle.remove()
    return torch.cat(seen).double()


def test_the_map_is_that_of_a_least_squares_solver(tmp_path: Path) -> None:
    """Weighted, with the pull towards the identity, as one system for a general solver."""
    model = saved("LlamaForCausalLM", tmp_path)
    dropped = ["model.layers.1", "model.layers.2"]
    done = drop_blocks_pretrained(tmp_path / "dense", tmp_path / "small", dropped, repair=BATCHES)
    (fold,) = done.folds
    assert fold.layer == "model.layers.0.mlp.down_proj"
    assert fold.after < fold.before
    layers = model.model.layers
    added = seen_of(model, layers[0].mlp.down_proj, outputs=True)
    made, wanted = (seen_of(model, layers[at], outputs=False) for at in (1, 3))
    root = wanted.norm(dim=1, keepdim=True).reciprocal()
    ridge = (RIDGE * (root * added).square().sum(0).mean()).sqrt() * torch.eye(32)
    target = torch.cat([root * (wanted - made), torch.zeros(32, 32)])
    turn = torch.eye(32) + torch.linalg.lstsq(torch.cat([root * added, ridge]), target).solution
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small").eval()
    weight = layers[0].mlp.down_proj.weight
    expected = turn.T @ weight.double()
    folded = again.model.layers[0].mlp.down_proj.weight
    torch.testing.assert_close(folded.double(), expected, rtol=0, atol=1e-5)
    error = (root * (made + added @ (turn - torch.eye(32)) - wanted)).square().sum(1).mean()
    assert fold.after == pytest.approx(float(error), rel=1e-4)
    # Nothing else has changed.
    mine, theirs = again.state_dict(), drop_blocks(model, dropped).state_dict()
    changed = {name for name in mine if not torch.equal(mine[name], theirs[name])}
    assert changed == {"model.layers.0.mlp.down_proj.weight"}


def test_blocks_that_do_nothing_leave_nothing_to_fold(tmp_path: Path) -> None:
    """The map is the identity, to the last bits."""
    model = tiny.made("LlamaForCausalLM", FAMILIES["LlamaForCausalLM"])
    with torch.no_grad():
        for layer in (model.model.layers[2].self_attn.o_proj, model.model.layers[2].mlp.down_proj):
            layer.weight.zero_()
    model.save_pretrained(tmp_path / "dense")
    done = drop_blocks_pretrained(
        tmp_path / "dense", tmp_path / "small", ["model.layers.2"], repair=BATCHES
    )
    assert done.folds[0].before == 0
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small").eval()
    torch.testing.assert_close(tiny.logits(again), tiny.logits(model), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("GPT2LMHeadModel", "transformer.h.{}.mlp.c_proj"),  # whose weights lie transposed
        ("GPTNeoXForCausalLM", "gpt_neox.layers.{}.mlp.dense_4h_to_h"),  # attention beside it
        ("DeepseekV3ForCausalLM", "model.layers.{}.mlp.shared_experts.down_proj"),
    ],
)
def test_each_run_of_blocks_is_folded_before_it(name: str, layer: str, tmp_path: Path) -> None:
    """Layers with biases too; every fold makes the hidden states nearer to the dense model's."""
    model = saved(name, tmp_path)
    outer = layer.partition(".{}")[0]
    places = (3,) if name.startswith("Deep") else (1, 3)
    dropped = [f"{outer}.{place}" for place in places]
    done = drop_blocks_pretrained(tmp_path / "dense", tmp_path / "small", dropped, repair=BATCHES)
    assert [fold.layer for fold in done.folds] == [layer.format(place - 1) for place in places]
    assert all(fold.after < fold.before for fold in done.folds)
    again = type(model).from_pretrained(tmp_path / "small").eval()
    with without_blocks(model, dropped):
        cut = tiny.logits(model)
    dense, repaired = tiny.logits(model), tiny.logits(again)
    assert (repaired - dense).square().mean() < (cut - dense).square().mean()


def test_the_first_block_has_none_before_it(tmp_path: Path) -> None:
    """Nothing is folded for it; what comes later is."""
    saved("LlamaForCausalLM", tmp_path)
    dropped = ["model.layers.0", "model.layers.3"]
    done = drop_blocks_pretrained(tmp_path / "dense", tmp_path / "small", dropped, repair=BATCHES)
    assert [fold.layer for fold in done.folds] == ["model.layers.2.mlp.down_proj"]


@pytest.mark.parametrize("name", ["Gemma3ForCausalLM", "Olmo2ForCausalLM", "MixtralForCausalLM"])
def test_a_block_that_nothing_can_be_folded_into(name: str, tmp_path: Path) -> None:
    """A norm follows its last layer, or its experts are one tensor: nothing is written."""
    saved(name, tmp_path)
    with pytest.raises(
        NothingToFoldIntoError, match=r"Expected a linear layer .*model.layers.1 adds"
    ):
        drop_blocks_pretrained(
            tmp_path / "dense", tmp_path / "small", ["model.layers.2"], repair=BATCHES
        )
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]
