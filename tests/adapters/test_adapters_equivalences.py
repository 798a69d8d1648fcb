"""Sparse training under other people's trainers is that under a plain loop."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from boxwood._internal.core.schedules import Cubic
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood.policies import Gradual, Policy, RigL

EPOCH = 12  # steps
POLICIES = [
    Gradual(schedule=Cubic(final=0.8, begin=2, end=18), every=2),
    RigL(sparsity=0.7, until=20, every=4),
]
quiet = pytest.mark.filterwarnings("ignore")  # theirs, about loggers, workers and devices


class Points(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(EPOCH * 8, 10, generator=generator)
        self.targets = (self.inputs.sum(1) > 0).long()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2))


def plain(policy: Policy) -> tuple[nn.Module, dict[str, Tensor]]:
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    # Named as in the trainers' models: what is random in a policy depends on the names.
    training = SparseTraining(nn.ModuleDict({"net": net}), optimizer, policy)
    for inputs, targets in [*DataLoader(Points(), batch_size=8)] * 2:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    return net, training.masks


@quiet
@pytest.mark.parametrize("policy", POLICIES)
def test_lightning(policy, tmp_path):
    """Trained by Lightning, in one go or resumed, the weights are those of the plain loop."""
    lightning = pytest.importorskip("lightning.pytorch")
    from boxwood._internal.adapters.lightning import SparseTrainingCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.net.parameters(), lr=0.01)

        def train_dataloader(self):
            return DataLoader(Points(), batch_size=8)

    def trainer(epochs: int, callback):
        return lightning.Trainer(
            max_epochs=epochs, callbacks=[callback], logger=False, accelerator="cpu",
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    expected, masks = plain(policy)
    whole, callback = Module(), SparseTrainingCallback(policy)
    trainer(2, callback).fit(whole)
    assert_same(whole.net, expected, callback.training.masks, masks)
    half = trainer(1, SparseTrainingCallback(policy))
    half.fit(Module())
    half.save_checkpoint(tmp_path / "half.ckpt")
    again, callback = Module(), SparseTrainingCallback(policy)
    trainer(2, callback).fit(again, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert_same(again.net, expected, callback.training.masks, masks)


@quiet
@pytest.mark.parametrize("policy", POLICIES)
def test_transformers(policy, tmp_path):
    """Trained by the Trainer, in one go or resumed, the weights are those of the plain loop."""
    transformers = pytest.importorskip("transformers")
    from boxwood._internal.adapters.transformers import SparseTrainerCallback

    pytest.importorskip("accelerate")
    from boxwood.errors import BoxwoodError

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, inputs, targets):
            logits = self.net(inputs)
            return {"loss": nn.functional.cross_entropy(logits, targets), "logits": logits}

    class Sequential(transformers.Trainer):
        def _get_train_sampler(self, *_, **__):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    def collate(rows):
        inputs, targets = zip(*rows, strict=True)
        return {"inputs": torch.stack(inputs), "targets": torch.stack(targets)}

    def trainer(callback):
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=8, max_steps=2 * EPOCH,
            learning_rate=0.01, lr_scheduler_type="constant", weight_decay=0.01, max_grad_norm=1e9,
            save_steps=EPOCH, report_to=[], disable_tqdm=True, use_cpu=True, seed=0,
            remove_unused_columns=False,
        )  # fmt: skip
        model = Model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        return Sequential(
            model=model, args=arguments, train_dataset=Points(), data_collator=collate,
            callbacks=[callback], optimizers=(optimizer, None),
        )  # fmt: skip

    expected, masks = plain(policy)
    whole = trainer(callback := SparseTrainerCallback(policy))
    whole.train()
    assert_same(whole.model.net, expected, callback.training.masks, masks)
    checkpoint = tmp_path / f"checkpoint-{EPOCH}"
    again = trainer(callback := SparseTrainerCallback(policy))
    again.train(resume_from_checkpoint=str(checkpoint))
    assert_same(again.model.net, expected, callback.training.masks, masks)
    path = checkpoint / "sparse_training.safetensors"
    one_bit(path)
    with pytest.raises(BoxwoodError, match="Expected undamaged masks of the resumed training at"):
        trainer(SparseTrainerCallback(policy)).train(resume_from_checkpoint=str(checkpoint))
    path.unlink()
    with pytest.raises(BoxwoodError, match="Expected the masks of the resumed training at"):
        trainer(SparseTrainerCallback(policy)).train(resume_from_checkpoint=str(checkpoint))


def one_bit(path: Path) -> None:
    """Flip the last bit of a file, which is a tensor's."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def assert_same(
    net: nn.Module, expected: nn.Module, masks: dict[str, Tensor], wanted: dict[str, Tensor]
) -> None:
    for one, other in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert [torch.equal(a, b) for a, b in zip(masks.values(), wanted.values(), strict=True)] == [
        True,
        True,
    ]
