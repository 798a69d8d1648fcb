"""The networks of the gradual pruning paper, with their training: a function per network."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from boxwood._internal.core.call import Call
from boxwood._internal.model.prunable import Layers, Named
from boxwood._internal.train.lr_schedules import LRSchedule, StepDecay
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Regularisation, Training
from boxwood._internal.zoo.language_models import ptb_large, ptb_medium, ptb_small

LANGUAGE_MODEL = Named(("embedding.weight", "lstm.weight_*", "output.weight"))
"""Embedding, LSTM and softmax: the paper's counts of non-zeros say that all three are pruned."""

MOBILENET = Named(("*.pointwise.weight", "fc.weight"))
"""Without the first convolution and the depthwise ones, which are 1.1 % of the weights."""


@dataclass(frozen=True)
class Row:
    """A network, how it is trained, and what of it is pruned.

    Args:
        model: returns a new network.
        train: the dense training, and that of the sparse networks.
        layers: the parameters that are pruned.
    """

    model: Callable[[], nn.Module]
    train: Training
    layers: Layers


def small(*, words: int = 10_000) -> Row:
    """Small: 20 steps back, 13 epochs; from the fifth on each at half the rate of the one before.

    Example:
        >>> row = small()
        >>> row.train.optimizer.lr, row.train.regularisation.max_gradient_norm
        (20.0, 0.25)

    Source: W. Zaremba et al., arXiv:1409.2329, 2014, section 4.1, as all rows of this module.
    Differs from the paper: its loss is summed over the steps back, and the rate is 1 and the limit
    of the gradient 5; ours is their mean, so the rate is that many times as large, and the limit
    that many times as small. Steps are the same.
    """
    return _row(ptb_small, words, length=20, epochs=13, full=4, factor=0.5, clip=5)


def medium(*, words: int = 10_000) -> Row:
    """Medium: 35 steps back, 39 epochs, the rate divided by 1.2 from the seventh on.

    Example:
        >>> schedule = medium().train.optimizer.lr_schedule
        >>> schedule(5, 39), round(schedule(6, 39), 3), round(schedule(7, 39), 3)
        (1.0, 0.833, 0.694)
    """
    return _row(ptb_medium, words, length=35, epochs=39, full=6, factor=1 / 1.2, clip=5)


def large(*, words: int = 10_000) -> Row:
    """Large: 35 steps back, 55 epochs, the rate divided by 1.15 from the fifteenth on.

    Example:
        >>> large().train.epochs
        55
    """
    return _row(ptb_large, words, length=35, epochs=55, full=14, factor=1 / 1.15, clip=10)


def language_training(
    *,
    length: int,
    clip: float,
    lr_schedule: LRSchedule,
    epochs: int | None = None,
    steps: int | None = None,
) -> Training:
    """Train a language model by the recipe of Zaremba et al.: a rate of 1 on summed losses.

    Args:
        length: words in a row, which are the steps that gradients reach back.
        clip: largest norm of the gradient of the summed loss.
        lr_schedule: of the learning rate.
        epochs: how long.
        steps: how long, in steps.

    Example:
        >>> training = language_training(length=20, clip=5, lr_schedule=StepDecay(steps=(8,)), steps=9)
        >>> training.optimizer.lr, training.regularisation.max_gradient_norm
        (20.0, 0.25)
    """
    return Training(
        epochs=epochs,
        steps=steps,
        batch=20,
        optimizer=SGD(lr=float(length), lr_schedule=lr_schedule),
        regularisation=Regularisation(max_gradient_norm=clip / length),
        stateful=True,
    )


def _row(
    model: Callable[..., nn.Module],
    words: int,
    *,
    length: int,
    epochs: int,
    full: int,
    factor: float,
    clip: float,
) -> Row:
    schedule = StepDecay(
        fractions=tuple(epoch / epochs for epoch in range(full, epochs)), factor=factor
    )
    training = language_training(length=length, clip=clip, lr_schedule=schedule, epochs=epochs)
    return Row(Call.of(model, words=words), training, LANGUAGE_MODEL)
