"""Methods side by side: four tasks, eighteen methods with their controls, four sparsities, three seeds.

One task after another in one store; the last command finds all of them there and makes the page:

    boxwood compare experiments/league.py:lenet_league --seeds 3 --workers 2 --store league
    boxwood compare experiments/league.py:resnet_league --seeds 3 --workers 2 --store league
    boxwood compare experiments/league.py:lstm_league --seeds 3 --workers 2 --store league
    boxwood compare experiments/league.py:transformer_league --seeds 3 --workers 2 --store league
    boxwood compare experiments/league.py:league --seeds 3 --workers 2 --store league --out league.html

Every method takes the same number of steps, in which its learning rate falls to its end. It chooses
among three rates at 95 %, on the first seed, and takes this rate at every sparsity.

CPU minutes on one core, from the measured time of a step and the number of steps (not run yet). A seed is
about 82 whole trainings, 98 measured networks and the updates of masks; the first seed, which also tries
the rates, is half as much again.

| task | ms a step | steps | a seed | first seed | three seeds |
|---|---|---|---|---|---|
| LeNet-300-100 | 2.2 | 4,000 | 13 | 20 | 46 |
| ResNet-8 | 14.7 | 1,500 | 34 | 52 | 120 |
| LSTM of 64 units | 8.0 | 3,500 | 39 | 60 | 138 |
| transformer | 11.5 | 2,500 | 42 | 65 | 149 |

``smoke`` is the same at 80 and 98 % with a few steps on made-up data: whether every method runs on every
network. It takes some two CPU minutes:

    boxwood compare experiments/league.py:smoke --seeds 1 --store smoke
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from boxwood.comparison import METHODS, Comparison, ComparisonTask
from boxwood.data import InMemory, Splits, fashion_mnist
from boxwood.layers import Named, linear_and_conv
from boxwood.networks import lstm_language_model, small_resnet, wide_net
from boxwood.optim import SGD, AdamW, CosineLR, LinearWarmup, StepDecay
from boxwood.phases import Measure
from boxwood.recipes import Call
from boxwood.training import Regularisation, Training, cross_entropy
from boxwood_studies.brown import brown
from boxwood_studies.halved_images import halved

SPARSITIES = (0.8, 0.9, 0.95, 0.98)
WORDS, LENGTH, PATCH = 1000, 20, 7
LANGUAGE_MODEL = Named(("embedding.weight", "lstm.weight_*", "output.weight"))


class Encoder(nn.Module):
    """A transformer of two blocks over the 16 patches of an image of 28 × 28 pixels.

    Args:
        width: factor on the 64 features, in (0, 1].
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        features = max(4, 4 * round(16 * width))
        self.enter = nn.Linear(PATCH * PATCH, features)
        self.pos_embedding = nn.Parameter(torch.randn(1, 16, features) / 50)
        layer = nn.TransformerEncoderLayer(
            features, 4, 2 * features, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(features)
        self.leave = nn.Linear(features, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map [batch, 1, 28, 28] to [batch, 10]."""
        patches = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).flatten(1, 3).flatten(2)
        hidden = self.layers(self.enter(patches) + self.pos_embedding)
        logits: Tensor = self.leave(self.norm(hidden.mean(1)))
        return logits


def encoder(*, width: float = 1.0) -> nn.Module:
    """Return the transformer."""
    return Encoder(width=width)


def lenet(*, width: float = 1.0) -> nn.Module:
    """Return LeNet-300-100, or a narrower one."""
    return wide_net(hidden=(max(1, round(300 * width)), max(1, round(100 * width))))


def resnet(*, width: float = 1.0) -> nn.Module:
    """Return ResNet-8, or a narrower one."""
    return small_resnet(widths=tuple(max(1, round(wide * width)) for wide in (16, 32, 64)))


def lstm(*, width: float = 1.0) -> nn.Module:
    """Return a stacked LSTM of 64 units, or of fewer."""
    return lstm_language_model(words=WORDS, hidden=max(1, round(64 * width)))


def tasks() -> tuple[ComparisonTask, ...]:
    """Return the four tasks; rates are a grid of three around what the dense network likes."""
    momentum = SGD(lr=0.1, momentum=0.9, weight_decay=5e-4, lr_schedule=CosineLR())
    warm = LinearWarmup(steps=150, schedule=CosineLR())
    language = Training(
        steps=3500,
        batch=20,
        optimizer=SGD(
            lr=float(LENGTH), lr_schedule=StepDecay(fractions=(0.5, 0.6, 0.7, 0.8, 0.9), factor=0.5)
        ),
        regularisation=Regularisation(max_gradient_norm=5 / LENGTH),
        stateful=True,
    )
    return (
        ComparisonTask(
            name="LeNet-300-100 on Fashion-MNIST",
            model=lenet,
            data=fashion_mnist,
            train=Training(steps=4000, batch=60, optimizer=replace(momentum, lr=0.05)),
            rates=(0.02, 0.05, 0.1),
            small=lenet,
        ),
        ComparisonTask(
            name="ResNet-8 on Fashion-MNIST, 14 pixels",
            model=resnet,
            data=Call.of(halved, data=fashion_mnist),
            train=Training(steps=1500, batch=64, optimizer=momentum),
            rates=(0.03, 0.1, 0.3),
            small=resnet,
        ),
        ComparisonTask(
            name="LSTM on Brown",
            model=lstm,
            data=Call.of(brown, words=WORDS, length=LENGTH),
            train=language,
            rates=(10.0, 20.0, 40.0),
            layers=LANGUAGE_MODEL,
            without=("SynFlow",),
            small=lstm,
            measure=Measure(loss=cross_entropy),
        ),
        ComparisonTask(
            name="transformer on Fashion-MNIST",
            model=encoder,
            data=fashion_mnist,
            train=Training(
                steps=2500,
                batch=64,
                optimizer=AdamW(lr=1e-3, weight_decay=0.05, fused=True, lr_schedule=warm),
                regularisation=Regularisation(max_gradient_norm=1.0, decay_layers=linear_and_conv),
            ),
            rates=(5e-4, 1e-3, 2e-3),
            small=encoder,
        ),
    )


def league() -> Comparison:
    """Return the whole comparison."""
    return _on(*tasks())


def lenet_league() -> Comparison:
    """Return the comparison on LeNet-300-100."""
    return _on(tasks()[0])


def resnet_league() -> Comparison:
    """Return the comparison on ResNet-8."""
    return _on(tasks()[1])


def lstm_league() -> Comparison:
    """Return the comparison on the LSTM language model."""
    return _on(tasks()[2])


def transformer_league() -> Comparison:
    """Return the comparison on the transformer."""
    return _on(tasks()[3])


def smoke() -> Comparison:
    """Return the same methods on the same networks, for a few steps on made-up data at one rate."""
    short = []
    for task in tasks():
        made = (
            words if task.measure.loss else Call.of(images, size=14 if task.model is resnet else 28)
        )
        train = replace(task.train, steps=20)
        short.append(replace(task, data=made, train=train, rates=()))
    return replace(_on(*short), sparsities=(SPARSITIES[0], SPARSITIES[-1]), tuned_at=None)


def _on(*some: ComparisonTask) -> Comparison:
    return Comparison(tasks=some, methods=METHODS, sparsities=SPARSITIES, tuned_at=0.95)


def images(*, size: int) -> Splits:
    """Return noise of ten classes."""
    inputs = torch.randn(120, 1, size, size, generator=torch.Generator().manual_seed(0))
    part = InMemory(inputs, torch.arange(120) % 10)
    return Splits("noise", part, part, part, classes=10, identity=f"noise {size}")


def words() -> Splits:
    """Return rows of words drawn evenly."""
    drawn = torch.randint(WORDS, (80, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    part = InMemory(drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous())
    return Splits("words", part, part, part, classes=WORDS, identity="words")
