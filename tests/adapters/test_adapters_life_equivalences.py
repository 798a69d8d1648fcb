"""What trainers do around a training: several fits, averages, best checkpoints, several optimizers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from boxwood._internal.core.masks import sparsity
from boxwood._internal.core.policies import Gradual
from boxwood._internal.core.schedules import Cubic
from boxwood.errors import BoxwoodError

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, about loggers, workers and devices

UNFINISHED = r"after 4 steps, at a sparsity of 0\.70. on the way to 0\.800, .* due at step 6"
POLICY = Gradual(schedule=Cubic(final=0.8, end=8), every=2)
ROWS = 16
BATCH = 4  # so four steps to an epoch


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, 6, generator=generator)
    return TensorDataset(inputs, inputs.sum(1).gt(0).long())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 2))


def outside(net: nn.Module, masks: dict[str, Tensor]) -> int:
    return sum(int((net.get_parameter(n).detach()[~m] != 0).sum()) for n, m in masks.items())


class TestLightning:
    """`boxwood._internal.adapters.lightning`."""

    @pytest.fixture
    def lightning(self):
        return pytest.importorskip("lightning.pytorch")

    def module(self, lightning, *, optimizers: int = 1):
        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net = network()
                self.automatic_optimization = optimizers == 1
                self.seen: list[int] = []

            def loss(self, batch):
                return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

            def training_step(self, batch, _):
                loss = self.loss(batch)
                if optimizers > 1:
                    each = self.optimizers()
                    for one in each:
                        one.zero_grad()
                    self.manual_backward(loss)
                    for one in each:
                        one.step()
                return loss

            def validation_step(self, batch, _):
                self.loss(batch)
                self.seen.append(int((self.net[0].weight == 0).sum()))

            def configure_optimizers(self):
                layers = [self.net] if optimizers == 1 else [self.net[0], self.net[2]]
                return [torch.optim.Adam(layer.parameters(), lr=0.02) for layer in layers]

        return Module()

    def trainer(self, lightning, epochs: int, callbacks: list, **settings):
        return lightning.Trainer(
            max_epochs=epochs, callbacks=callbacks, logger=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            num_sanity_val_steps=0, **settings,
        )  # fmt: skip

    def callback(self):
        from boxwood._internal.adapters.lightning import SparseTrainingCallback

        return SparseTrainingCallback(POLICY)

    def test_a_second_fit_goes_on(self, lightning) -> None:
        """What was pruned stays, and the steps of all fits count; another module starts afresh."""
        module, callback = self.module(lightning), self.callback()
        with pytest.warns(UserWarning, match=UNFINISHED):
            self.trainer(lightning, 1, [callback]).fit(module, DataLoader(data(), BATCH))
        first = callback.training.masks
        self.trainer(lightning, 2, [callback]).fit(module, DataLoader(data(), BATCH))
        second = callback.training.masks
        assert callback.training.steps == 12
        assert not any((second[name] & ~mask).any() for name, mask in first.items())
        assert round(sparsity(second), 2) == 0.8
        assert not outside(module, second)
        other = self.module(lightning)
        with pytest.warns(UserWarning, match=UNFINISHED):
            self.trainer(lightning, 1, [callback]).fit(other, DataLoader(data(), BATCH))
        assert callback.training.steps == 4
        assert sparsity(callback.training.masks) < 0.8

    def test_several_optimizers(self, lightning) -> None:
        """A step is over when both have stepped."""
        module, callback = self.module(lightning, optimizers=2), self.callback()
        self.trainer(lightning, 2, [callback]).fit(module, DataLoader(data(), BATCH))
        assert callback.training.steps == 8
        assert round(sparsity(callback.training.masks), 2) == 0.8
        assert not outside(module, callback.training.masks)

    def test_averages_are_as_sparse(self, lightning, tmp_path) -> None:
        """Those that are evaluated, those in checkpoints, and those that are left at the end."""
        kind = getattr(lightning.callbacks, "EMAWeightAveraging", None)
        if kind is None:
            pytest.skip("this Lightning has no callback that averages weights")
        module, callback = self.module(lightning), self.callback()
        loader = DataLoader(data(), BATCH)
        trainer = self.trainer(lightning, 3, [kind(decay=0.5), callback])
        trainer.fit(module, loader, loader)
        masks = callback.training.masks
        pruned = int((~masks["net.0.weight"]).sum())
        assert pruned == 48
        assert module.seen[-ROWS // BATCH :] == [pruned] * (ROWS // BATCH)
        assert not outside(module, masks)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        saved = torch.load(tmp_path / "end.ckpt", weights_only=False)["state_dict"]
        assert not any(saved[name][~mask].any() for name, mask in masks.items())
        with pytest.raises(BoxwoodError, match="after EMAWeightAveraging, got it before"):
            self.trainer(lightning, 1, [self.callback(), kind()]).fit(
                self.module(lightning), loader
            )

    def test_masks_follow_a_checkpoint_that_is_tested(self, lightning, tmp_path) -> None:
        """An early checkpoint comes with its own masks."""
        module, callback = self.module(lightning), self.callback()
        loader = DataLoader(data(), BATCH)
        trainer = self.trainer(lightning, 1, [callback])
        with pytest.warns(UserWarning, match=UNFINISHED):
            trainer.fit(module, loader)
        early = callback.training.masks
        trainer.save_checkpoint(tmp_path / "early.ckpt")
        trainer = self.trainer(lightning, 2, [callback])
        trainer.fit(module, loader)
        assert sparsity(callback.training.masks) > sparsity(early)
        trainer.validate(module, loader, ckpt_path=tmp_path / "early.ckpt", weights_only=False)
        assert all(torch.equal(callback.training.masks[n], mask) for n, mask in early.items())
        assert not outside(module, early)


class TestTransformers:
    """`boxwood._internal.adapters.transformers`."""

    @pytest.fixture
    def transformers(self):
        pytest.importorskip("accelerate")
        return pytest.importorskip("transformers")

    def trained(self, transformers, model, callback, folder: Path, epochs: int, **settings):
        def collate(rows):
            inputs, targets = zip(*rows, strict=True)
            return {"inputs": torch.stack(inputs), "labels": torch.stack(targets)}

        scores = iter((0.9, 0.8, 0.7, 0.6))
        arguments = transformers.TrainingArguments(
            output_dir=str(folder), per_device_train_batch_size=BATCH, num_train_epochs=epochs,
            report_to=[], disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
            logging_strategy="no", **settings,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=data(), eval_dataset=data(),
            data_collator=collate, callbacks=[callback],
            compute_metrics=lambda _: {"score": next(scores)},
        )  # fmt: skip
        trainer.train()
        return trainer

    def model(self) -> nn.Module:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = network()

            def forward(self, inputs, labels):
                logits = self.net(inputs)
                return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

        return Model()

    def callback(self):
        from boxwood._internal.adapters.transformers import SparseTrainerCallback

        return SparseTrainerCallback(POLICY)

    def test_a_second_training_goes_on(self, transformers, tmp_path) -> None:
        """What was pruned stays, and the steps of both trainings count."""
        model, callback = self.model(), self.callback()
        with pytest.warns(UserWarning, match=UNFINISHED):
            self.trained(transformers, model, callback, tmp_path, 1, save_strategy="no")
        first = callback.training.masks
        self.trained(transformers, model, callback, tmp_path, 2, save_strategy="no")
        second = callback.training.masks
        assert callback.training.steps == 12
        assert not any((second[name] & ~mask).any() for name, mask in first.items())
        assert round(sparsity(second), 2) == 0.8
        assert not outside(model, second)
        other = self.model()
        with pytest.warns(UserWarning, match=UNFINISHED):
            self.trained(transformers, other, callback, tmp_path, 1, save_strategy="no")
        assert callback.training.steps == 4

    def test_the_best_model_comes_with_its_masks(self, transformers, tmp_path) -> None:
        """And with a warning, where it was saved before pruning was done."""
        model, callback = self.model(), self.callback()
        with pytest.warns(UserWarning, match=r"as the training left it, 0\.800, got one of sparsi"):
            self.trained(
                transformers, model, callback, tmp_path, 3, load_best_model_at_end=True,
                metric_for_best_model="score", save_strategy="epoch", eval_strategy="epoch",
            )  # fmt: skip
        assert callback.training.steps == 4
        assert round(sparsity(callback.training.masks), 2) == 0.7
        assert not outside(model, callback.training.masks)
        zeros = sum(int((p == 0).sum()) for p in (model.net[0].weight, model.net[2].weight))
        assert zeros == 56
