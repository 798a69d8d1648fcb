"""Masks under other people's trainers, without a policy: as `MaskBinding` under a plain loop."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import boxwood
from boxwood.errors import BoxwoodError

quiet = pytest.mark.filterwarnings("ignore")  # theirs, about loggers, workers and devices


def points() -> TensorDataset:
    inputs = torch.randn(96, 10, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2))


def masks() -> dict[str, Tensor]:
    found = boxwood.find_masks(network(), 0.6)
    return {f"net.{name}": mask for name, mask in found.items()}


def plain() -> nn.Module:
    model = nn.ModuleDict({"net": network()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    boxwood.MaskBinding(model, optimizer, masks())
    for inputs, targets in DataLoader(points(), batch_size=8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model["net"](inputs), targets).backward()
        optimizer.step()
    return model["net"]


def assert_same(net: nn.Module) -> None:
    for one, other in zip(net.parameters(), plain().parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(float(net.get_parameter(n[4:])[~m].abs().sum()) == 0 for n, m in masks().items())


@quiet
def test_lightning() -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from boxwood._internal.adapters.lightning import MaskCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.net.parameters(), lr=0.01)

        def train_dataloader(self) -> Any:
            return DataLoader(points(), batch_size=8)

    def trainer(callback: Any) -> Any:
        return lightning.Trainer(
            max_epochs=1, callbacks=[callback], logger=False, accelerator="cpu",
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    module = Module()
    trainer(MaskCallback(masks())).fit(module)
    assert_same(module.net)
    with pytest.raises(BoxwoodError, match=r"match a parameter, got 'other\.weight'"):
        trainer(MaskCallback({"other.weight": torch.ones(2).bool()})).fit(Module())


@quiet
def test_transformers(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from boxwood._internal.adapters.transformers import MaskTrainerCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
            logits = self.net(inputs)
            return {"loss": nn.functional.cross_entropy(logits, targets), "logits": logits}

    class Sequential(transformers.Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    model = Model()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_train_epochs=1, use_cpu=True,
        report_to="none", save_strategy="no", max_grad_norm=0, disable_tqdm=True,
        remove_unused_columns=False, label_names=["targets"],
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    trainer = Sequential(
        model=model, args=arguments, train_dataset=points(), callbacks=[MaskTrainerCallback(masks())],
        optimizers=(optimizer, constant),
        data_collator=lambda rows: {
            "inputs": torch.stack([x for x, _ in rows]), "targets": torch.stack([y for _, y in rows])
        },
    )  # fmt: skip
    trainer.train()
    assert_same(model.net)


def test_no_masks_are_refused() -> None:
    from boxwood._internal.core.fixed_masks import FixedMasks

    with pytest.raises(BoxwoodError, match="Expected masks to hold, got none"):
        FixedMasks({})
