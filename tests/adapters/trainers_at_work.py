"""What one rank does in `test_ranks_in_trainers.py`: a training by somebody's trainer.

Run as ``python trainers_at_work.py TRAINER FOLDER``, with torchrun's variables in the environment;
masks and weights at the end go into FOLDER/RANK.pt, or what a refusal says.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from boxwood.errors import BoxwoodError
from boxwood.policies import RigL

POLICY = RigL(sparsity=0.5, until=100, every=2)
STEPS = 6
Found = tuple[dict[str, Tensor], nn.Module]


class Points(Dataset[dict[str, Tensor]]):
    """As many as are shown, so that both ranks see others."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(STEPS * 16, 10, generator=chance)

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


def by_transformers(folder: Path) -> Found:
    import transformers

    from boxwood._internal.adapters.transformers import SparseTrainerCallback

    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=8, max_steps=STEPS, learning_rate=0.05,
        save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, ddp_backend="gloo",
        remove_unused_columns=False,
    )  # fmt: skip
    callback, model = SparseTrainerCallback(POLICY), Model()
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=Points(), callbacks=[callback]
    )
    trainer.train()
    assert callback.training is not None
    return callback.training.masks, model


def by_lightning(folder: Path) -> Found:
    import lightning.pytorch as lightning
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    from boxwood._internal.adapters.lightning import SparseTrainingCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.05)

        def train_dataloader(self) -> Any:
            return DataLoader(Points(), batch_size=8)

    callback, module = SparseTrainingCallback(POLICY), Module()
    strategy = DDPStrategy(
        cluster_environment=TorchElasticEnvironment(), process_group_backend="gloo"
    )
    lightning.Trainer(
        max_epochs=1, callbacks=[callback], logger=False, accelerator="cpu", devices=2,
        strategy=strategy, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)  # fmt: skip
    assert callback.training is not None
    return callback.training.masks, module


def by_accelerate(folder: Path) -> Found:
    from accelerate import Accelerator

    from boxwood._internal.model.sparse_training import SparseTraining

    accelerator = Accelerator(cpu=True)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    wrapped, prepared, loader = accelerator.prepare(
        model, optimizer, DataLoader(Points(), batch_size=8)
    )
    training = SparseTraining(model, prepared.optimizer, POLICY)
    for batch in loader:
        prepared.zero_grad()
        accelerator.backward(wrapped(**batch)["loss"])
        prepared.step()
    accelerator.end_training()
    return training.masks, model


TRAINERS: dict[str, Callable[[Path], Found]] = {
    "transformers": by_transformers,
    "lightning": by_lightning,
    "accelerate": by_accelerate,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        masks, model = TRAINERS[sys.argv[1]](Path(sys.argv[2]))
        found: Any = {f"mask {name}": mask for name, mask in masks.items()}
        found |= {f"weight {name}": p.detach().clone() for name, p in model.named_parameters()}
    except BoxwoodError as error:
        found = str(error)
    torch.save(found, Path(sys.argv[2]) / f"{os.environ['RANK']}.pt")
