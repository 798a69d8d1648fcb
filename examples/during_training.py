"""Prune while a network trains: in a plain loop, in Lightning, with the Hugging Face Trainer.

python examples/during_training.py
"""

import tempfile
import warnings

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import boxwood
from boxwood.data import digits
from boxwood.policies import Gradual
from boxwood.schedules import Cubic


def network() -> nn.Module:
    """Return a small network for handwritten digits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


def loaders(batch: int = 60) -> tuple[DataLoader, DataLoader]:
    """Return batches to train on and to test with."""
    data = digits()
    train, test = (
        TensorDataset(*part.take(torch.arange(len(part)))) for part in (data.train, data.test)
    )
    return DataLoader(train, batch, shuffle=True), DataLoader(test, 360)


def policy(steps: int) -> Gradual:
    """Go to 90 % zeros, from a tenth to two thirds of the training."""
    return Gradual(Cubic(final=0.9, begin=steps // 10, end=steps * 2 // 3), every=steps // 30)


def in_a_plain_loop(epochs: int) -> nn.Module:
    """Add one line before the loop."""
    net, (train, _) = network(), loaders()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    training = boxwood.SparseTraining(net, optimizer, policy(epochs * len(train)))
    for _ in range(epochs):
        for images, labels in train:
            optimizer.zero_grad()
            functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    training.detach()
    return net


def in_lightning(epochs: int) -> nn.Module:
    """Add one callback."""
    import lightning

    from boxwood.integrations.lightning import SparseTrainingCallback

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch, _):
            images, labels = batch
            return functional.cross_entropy(self.net(images), labels)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=2e-3)

    train, _ = loaders()
    model = Classifier()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[SparseTrainingCallback(policy(epochs * len(train)))],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, train)
    return model.net


def with_the_trainer(epochs: int) -> nn.Module:
    """Add one callback."""
    import transformers

    from boxwood.integrations.transformers import SparseTrainerCallback

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, images, labels):
            logits = self.net(images)
            return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    train, _ = loaders()
    examples = [{"images": image, "labels": label} for image, label in train.dataset]
    model = Classifier()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=60,
            learning_rate=2e-3,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        )
        transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            callbacks=[SparseTrainerCallback(policy(epochs * len(train)))],
        ).train()
    return model.net


def report(name: str, net: nn.Module) -> tuple[float, float]:
    """Print and return the share of zeros in the matrices, and the accuracy on test examples."""
    _, test = loaders()
    weights = torch.cat([each.detach().flatten() for each in net.parameters() if each.dim() > 1])
    zeros = (weights == 0).float().mean().item()
    with torch.no_grad():
        right = torch.cat([net(images).argmax(1) == labels for images, labels in test])
    accuracy = right.float().mean().item()
    print(f"{name:12} {zeros:.1%} zeros, {accuracy:.1%} right")
    return zeros, accuracy


def main(epochs: int = 30) -> list[tuple[float, float]]:
    """Prune in three ways."""
    return [
        report("plain loop", in_a_plain_loop(epochs)),
        report("Lightning", in_lightning(epochs)),
        report("Trainer", with_the_trainer(epochs)),
    ]


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)
    main()
