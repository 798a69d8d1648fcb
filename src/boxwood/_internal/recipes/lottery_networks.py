"""The networks of the lottery ticket paper with their training: a function per row of its table."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from boxwood._internal.core.call import Call
from boxwood._internal.data.augmentation import FlipAndCrop
from boxwood._internal.model.prunable import Named
from boxwood._internal.recipes.lottery_ticket import Pruning, global_rate, layerwise_rates
from boxwood._internal.train.lr_schedules import LinearWarmup, LRSchedule, StepDecay
from boxwood._internal.train.optimizers import SGD, Adam
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.cifar_nets import resnet_20, vgg_19
from boxwood._internal.zoo.conv_nets import conv_2, conv_4, conv_6
from boxwood._internal.zoo.glorot import glorot
from boxwood._internal.zoo.lenet import lenet_300_100

WATCH_EVERY = 100
_CONVOLUTIONS = Named(("*conv*.weight",))
"""Without the shortcuts of ResNets, which are 1 × 1 convolutions named ``project``."""


@dataclass(frozen=True)
class Row:
    """A network, how it is trained, and how it is pruned.

    Args:
        model: returns a new network.
        train: the dense training, which every level repeats.
        prune: what each level prunes.
        test_at: steps at which the paper reads off the accuracy, where early stop means little
            because the learning rate drops.
    """

    model: Callable[[], nn.Module]
    train: Training
    prune: Pruning
    test_at: tuple[int, ...] = ()


def lenet() -> Row:
    """LeNet-300-100 on MNIST: 50,000 steps of Adam at 1.2e-3; 20 % a level, the output layer 10 %.

    Example:
        >>> lenet().train.steps
        50000

    Source: Frankle and Carbin (2019), figure 2, as all rows of this module.
    Differs from the paper: Adam updates each tensor in one fused pass.
    """
    rates = layerwise_rates(("fc3.*", 0.1), ("fc*", 0.2))
    return Row(Call.of(glorot, net=lenet_300_100), _adam(50_000, 1.2e-3), rates)


def conv_two(*, dropout: bool = False) -> Row:
    """Conv-2 on CIFAR-10; with dropout three times the steps, at a rate of 3e-4.

    Example:
        >>> conv_two().train.optimizer.lr, conv_two(dropout=True).train.steps
        (0.0002, 60000)
    """
    train = _adam(60_000, 3e-4) if dropout else _adam(20_000, 2e-4)
    return Row(_conv_net(conv_2, dropout), train, _conv_rates(0.1))


def conv_four(*, dropout: bool = False) -> Row:
    """Conv-4 on CIFAR-10; with dropout three times the steps, at a rate of 2e-4.

    Example:
        >>> conv_four().train.steps
        25000
    """
    train = _adam(75_000, 2e-4) if dropout else _adam(25_000, 3e-4)
    return Row(_conv_net(conv_4, dropout), train, _conv_rates(0.1))


def conv_six(*, dropout: bool = False) -> Row:
    """Conv-6 on CIFAR-10, its convolutions at 15 % a level.

    Example:
        >>> conv_six().train.steps
        30000
    """
    train = _adam(90_000, 2e-4) if dropout else _adam(30_000, 3e-4)
    return Row(_conv_net(conv_6, dropout), train, _conv_rates(0.15))


def resnet(*, lr: float = 0.1, warmup: int = 0) -> Row:
    """ResNet-20 on CIFAR-10, called ResNet-18 there; tickets need ``lr=0.03, warmup=20_000``.

    Example:
        >>> schedule = resnet(lr=0.03, warmup=20_000).train.optimizer.lr_schedule
        >>> [round(schedule(step, 30_000), 3) for step in (0, 10_000, 20_000, 25_000)]
        [0.0, 0.5, 0.1, 0.01]
    """
    schedule = _warmed(StepDecay(steps=(20_000, 25_000)), warmup)
    train = _sgd(30_000, 128, lr, schedule)
    test_at = (10_000, 20_000, 30_000)
    return Row(Call.of(glorot, net=resnet_20), train, global_rate(0.2, _CONVOLUTIONS), test_at)


def vgg(*, lr: float = 0.1, warmup: int = 0) -> Row:
    """VGG-19 on CIFAR-10; tickets need ``warmup=10_000``, or ``lr=0.01``.

    160 epochs of 45,000 images are 112,640 steps of 64, which the table rounds to 112,000; the
    rate drops at epochs 80 and 120.

    Example:
        >>> vgg().train.steps
        112640
    """
    per_epoch = 704
    schedule = _warmed(StepDecay(steps=(80 * per_epoch, 120 * per_epoch)), warmup)
    train = _sgd(160 * per_epoch, 64, lr, schedule)
    test_at = (30_000, 60_000, 112_000)
    return Row(Call.of(glorot, net=vgg_19), train, global_rate(0.2, _CONVOLUTIONS), test_at)


def _adam(steps: int, lr: float) -> Training:
    return Training(
        steps=steps, batch=60, optimizer=Adam(lr=lr, fused=True), watch_every=WATCH_EVERY
    )  # fmt: skip


def _sgd(steps: int, batch: int, lr: float, schedule: LRSchedule) -> Training:
    return Training(
        steps=steps,
        batch=batch,
        optimizer=SGD(lr=lr, momentum=0.9, weight_decay=1e-4, lr_schedule=schedule),
        augment=FlipAndCrop(fill=0.0),
        watch_every=WATCH_EVERY,
    )


def _warmed(schedule: LRSchedule, warmup: int) -> LRSchedule:
    return LinearWarmup(steps=warmup, schedule=schedule) if warmup else schedule


def _conv_net(net: Callable[..., nn.Module], dropout: bool) -> Call:
    return Call.of(glorot, net=Call.of(net, dropout=0.5) if dropout else net)


def _conv_rates(conv: float) -> Pruning:
    return layerwise_rates(("conv*", conv), ("fc3.*", 0.1), ("fc*", 0.2))
