"""Trainings of two ranks by somebody's trainer, for `test_ranks_in_trainers_equivalences.py`.

Run as ``python trainers_at_work.py FOLDER [CASE...]``. Trainers take seconds to import, so one process imports
them all and forks two ranks for each case. Masks and weights at the end go into
FOLDER/CASE.RANK.pt, or what a refusal says; those of one process that sees all of the data into
FOLDER/CASE.alone.pt.
"""

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import boxwood
from boxwood.errors import BoxwoodError
from boxwood.policies import RigL

POLICY = RigL(sparsity=0.5, until=100, every=2)
STEPS, RANKS, BATCH = 6, 2, 8
PATIENCE = 120  # seconds
Found = tuple[dict[str, Tensor], nn.Module]


class Points(Dataset[dict[str, Tensor]]):
    """As many as are shown, so that both ranks see others."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(STEPS * BATCH * RANKS, 10, generator=chance)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[index], "targets": (self.inputs[index].sum() > 0).long()}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        logits = self.net(inputs)
        return {"loss": nn.functional.cross_entropy(logits, targets), "logits": logits}


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.05)


def masks(prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": mask for name, mask in boxwood.find_masks(Model(), 0.5).items()}


def alone(*, policy: bool, within: str = "") -> Found:
    """Train by a plain loop; what is random in a policy depends on the names of the weights."""
    model = Model()
    named = nn.ModuleDict({within: model}) if within else model
    optimizer = adamw(model)
    prefix = f"{within}." if within else ""
    held: Any = (
        boxwood.SparseTraining(named, optimizer, POLICY)
        if policy
        else boxwood.MaskBinding(named, optimizer, masks(prefix))
    )
    for batch in DataLoader(Points(), batch_size=BATCH * RANKS):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
    return held.masks, named


def by_transformers(folder: Path, *, policy: bool) -> Found:
    import transformers

    from boxwood.integrations.transformers import MaskTrainerCallback, SparseTrainerCallback

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=BATCH, max_steps=STEPS, max_grad_norm=0,
        save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, ddp_backend="gloo",
        remove_unused_columns=False,
    )  # fmt: skip
    callback = SparseTrainerCallback(POLICY) if policy else MaskTrainerCallback(masks())
    model = Model()
    optimizer = adamw(model)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    InOrder(
        model=model, args=arguments, train_dataset=Points(), callbacks=[callback],
        optimizers=(optimizer, constant),
    ).train()  # fmt: skip
    assert callback.training is not None
    return callback.training.masks, model


def by_lightning(folder: Path, *, policy: bool, how: str = "ddp") -> Found:
    import lightning.pytorch as lightning
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    from boxwood.integrations.lightning import MaskCallback, SparseTrainingCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def configure_model(self) -> None:
            if how == "fsdp2":
                fully_shard(self.model, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self)

        def train_dataloader(self) -> Any:
            points = Points()
            return DataLoader(
                points, batch_size=BATCH, sampler=DistributedSampler(points, shuffle=False)
            )

    class OnCPU(FSDPStrategy):
        """Lightning keeps the class itself to GPUs."""

        def _setup_model(self, model: nn.Module) -> nn.Module:
            return FullyShardedDataParallel(
                model, device_id=torch.device("cpu"), use_orig_params=True
            )

    callback = SparseTrainingCallback(POLICY) if policy else MaskCallback(masks("model."))
    sharded = partial(ModelParallelStrategy, data_parallel_size=RANKS, tensor_parallel_size=1)
    kind: Any = {"ddp": DDPStrategy, "fsdp1": OnCPU, "fsdp2": sharded}[how]
    strategy = kind(process_group_backend="gloo")
    strategy.cluster_environment = TorchElasticEnvironment()
    module = Module()
    lightning.Trainer(
        max_epochs=1, callbacks=[callback], logger=False, use_distributed_sampler=False, accelerator="cpu", devices=RANKS,
        strategy=strategy, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)  # fmt: skip
    assert callback.training is not None
    return callback.training.masks, module


def by_accelerate(folder: Path, *, policy: bool) -> Found:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(
        net := Model(), adamw(net), DataLoader(Points(), batch_size=BATCH)
    )
    held: Any = (
        boxwood.SparseTraining(model, optimizer, POLICY)
        if policy
        else boxwood.MaskBinding(model, optimizer, masks())
    )
    accelerator.register_for_checkpointing(held)

    def train(batches: Any, *, save: bool) -> None:
        for step, batch in enumerate(batches):
            optimizer.zero_grad()
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            if save and step == STEPS // 2:
                accelerator.save_state(str(folder / "saved"))

    train(loader, save=True)
    accelerator.load_state(str(folder / "saved"))  # and once more from there
    train(accelerator.skip_first_batches(loader, STEPS // 2 + 1), save=False)
    accelerator.end_training()
    return held.masks, net


Case = tuple[Callable[..., Found], Callable[..., Found] | None]
CASES: dict[str, Case] = {}
if find_spec("accelerate") is not None:
    for policy in (True, False):
        what = "policy" if policy else "masks"
        CASES[f"accelerate, {what}"] = partial(by_accelerate, policy=policy), partial(alone, policy=policy)  # fmt: skip
        if find_spec("transformers") is not None:
            CASES[f"transformers, {what}"] = partial(by_transformers, policy=policy), partial(alone, policy=policy)  # fmt: skip
if find_spec("lightning") is not None:
    for policy in (True, False):
        what, plain = "policy" if policy else "masks", partial(alone, policy=policy, within="model")
        CASES[f"lightning, {what}"] = partial(by_lightning, policy=policy), plain
        CASES[f"lightning fsdp2, {what}"] = partial(by_lightning, policy=policy, how="fsdp2"), plain
        CASES[f"lightning fsdp1, {what}"] = partial(by_lightning, policy=policy, how="fsdp1"), None


def written(train: Callable[..., Found], path: Path) -> None:
    try:
        kept, model = train()
        found: Any = {f"mask {name}": _whole(mask) for name, mask in kept.items()}
        found |= {f"weight {name}": _whole(p.detach()) for name, p in model.named_parameters()}
    except BoxwoodError as error:
        found = str(error)
    torch.save(found, path)


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()


def rank(case: str, number: int, port: int, folder: Path) -> int:
    """Fork a rank of torchrun."""
    child = os.fork()
    if child:
        return child
    os.environ |= {
        "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS), "RANK": str(number), "LOCAL_RANK": str(number),
        "GROUP_RANK": "0",
    }  # fmt: skip
    code = 1
    try:
        signal.alarm(PATIENCE)
        train = partial(CASES[case][0], folder)
        written(train, folder / f"{case}.{number}.pt")
        code = 0
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(folder: Path, wanted: list[str]) -> None:
    torch.set_num_threads(1)
    for name in ("accelerate", "transformers", "lightning.pytorch"):
        if find_spec(name.partition(".")[0]) is not None:
            __import__(name)
    for case in wanted or CASES:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [rank(case, number, port, folder) for number in range(RANKS)]
        for child in children:
            os.waitpid(child, 0)
    for case, (_, plain) in CASES.items():
        if plain is not None:
            written(plain, folder / f"{case}.alone.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
