"""Networks for CIFAR-10 as papers train and prune them, with the figures that these report.

Each function returns an `Experiment`. They take hours on a graphics card: ``boxwood plan --card``
says how many.
"""

from collections.abc import Callable

from boxwood._internal.data.augmentation import FlipAndCrop
from boxwood._internal.data.splits import Splits
from boxwood._internal.data.vision import cifar10
from boxwood._internal.recipes.gradual import gradual_pruning
from boxwood._internal.recipes.phase import Experiment, PublishedFigure
from boxwood._internal.recipes.structural import slimming, structural
from boxwood._internal.recipes.three_step import dense
from boxwood._internal.train.lr_schedules import StepDecay
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.cifar_nets import cifar_vgg_16, resnet_20, resnet_56, vgg_19

_SHAPE = (3, 32, 32)
_IMAGES = 45_000
_HE = "He, Zhang, Ren and Sun (2016), table 6"
_LI = "Li, Kadav, Durdanovic, Samet and Graf (2017), table 1"
_LIU = "Liu, Li, Shen, Huang, Yan and Zhang (2017), table 1"


def cifar10_resnet_20(*, data: Callable[[], Splits] = cifar10) -> Experiment:
    """ResNet-20 on CIFAR-10: 91.25 % dense; and at 80 % by gradual pruning, of which we know no figure.

    64,000 steps of 128 images at a rate of 0.1, which falls to a tenth at steps 32,000 and 48,000.
    Gradual pruning goes from step 8,000 to step 48,000.

    Args:
        data: returns CIFAR-10.

    Example:
        >>> study = cifar10_resnet_20()
        >>> [name for name, _ in study.branches], study.published[0].accuracy
        (['dense', 'gradual 80 %'], 0.9125)

    Source: He, Zhang, Ren and Sun (2016), "Deep residual learning for image recognition", section
    4.2. Differs from the paper: see `resnet_20`.
    """
    train = _he()
    gradual = gradual_pruning(train=train, sparsity=0.8, begin=8_000, end=48_000)
    return Experiment(
        model=resnet_20,
        data=data,
        branches=(("dense", dense(train)), ("gradual 80 %", gradual)),
        published=(PublishedFigure("dense", 0.9125, _HE),),
        shape=_SHAPE,
    )


def cifar10_resnet_56(*, data: Callable[[], Splits] = cifar10) -> Experiment:
    """ResNet-56 on CIFAR-10: 93.03 % dense, 93.10 % with a tenth of the filters inside most blocks gone.

    The filters of least L1 norm go from the first convolution of each block, but not from layers 16,
    20, 38 and 54; retraining takes 40 epochs at a rate of 0.001.

    Args:
        data: returns CIFAR-10.

    Example:
        >>> [figure.accuracy for figure in cifar10_resnet_56().published]
        [0.9303, 0.931]

    Source: He, Zhang, Ren and Sun (2016), section 4.2; Li, Kadav, Durdanovic, Samet and Graf (2017),
    "Pruning filters for efficient convnets", section 4.2, ResNet-56-pruned-A.
    Differs from the paper: see `resnet_20`; nine tenths of a layer's filters are rounded up, so 9.0 %
    of the multiply-adds go and 7.8 % of the parameters, where the paper has 10.4 % and 9.4 %.
    """
    train = _he()
    # Layer 2 k is the first convolution of block k, of 27. Filters are named by their norms: a
    # convolution's kernels belong to the filters that enter it as well.
    sensitive = ("block1_8.norm1.*", "block2_1.norm1.*", "block3_1.norm1.*", "block3_9.norm1.*")
    stream = ("norm.*", "*.norm2.*", "*.shortcut.norm.*")
    pruned = structural(train, _retraining(), 0.9, protect=stream + sensitive)
    return Experiment(
        model=resnet_56,
        data=data,
        branches=(("dense", dense(train)), ("filters", pruned)),
        published=(PublishedFigure("dense", 0.9303, _HE), PublishedFigure("filters", 0.9310, _LI)),
        shape=_SHAPE,
    )


def cifar10_vgg_16(*, data: Callable[[], Splits] = cifar10) -> Experiment:
    """VGG-16 on CIFAR-10: 93.25 % dense, 93.40 % without half of the filters of seven layers.

    They go from the first convolution and from the eighth to the thirteenth, by L1 norm; retraining
    takes 40 epochs at a rate of 0.001. The dense training takes 300 epochs of batches of 128 at a rate of 0.1,
    halved every 25 epochs.

    Args:
        data: returns CIFAR-10.

    Example:
        >>> [figure.accuracy for figure in cifar10_vgg_16().published]
        [0.9325, 0.934]

    Source: Li, Kadav, Durdanovic, Samet and Graf (2017), section 4.1, VGG-16-pruned-A.
    Differs from the paper: its network has a second linear layer; the length of its dense training,
    which it takes from others' code, is ours.
    """
    halving = StepDecay(fractions=tuple(k / 12 for k in range(1, 12)), factor=0.5)
    optimizer = SGD(lr=0.1, momentum=0.9, weight_decay=5e-4, lr_schedule=halving)
    train = _training(300, 128, optimizer)
    kept = tuple(f"norm{index}.*" for index in range(2, 8))
    pruned = structural(train, _retraining(), 0.5, protect=kept)
    return Experiment(
        model=cifar_vgg_16,
        data=data,
        branches=(("dense", dense(train)), ("filters", pruned)),
        published=(PublishedFigure("dense", 0.9325, _LI), PublishedFigure("filters", 0.9340, _LI)),
        shape=_SHAPE,
    )


def cifar10_vgg_19(*, data: Callable[[], Splits] = cifar10) -> Experiment:
    """VGG-19 on CIFAR-10: 93.66 % dense, 93.80 % with 70 % of the filters gone by network slimming.

    160 epochs of batches of 64 at a rate of 0.1, which falls to a tenth at half and at three
    quarters; the same again after slimming.

    Args:
        data: returns CIFAR-10.

    Example:
        >>> [figure.accuracy for figure in cifar10_vgg_19().published]
        [0.9366, 0.938]

    Source: Liu, Li, Shen, Huang, Yan and Zhang (2017), "Learning efficient convolutional networks
    through network slimming", sections 4.2 and 4.3.
    Differs from the paper: the scales of norms start at 1, not at 0.5.
    """
    falling = StepDecay(fractions=(0.5, 0.75))
    optimizer = SGD(lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True, lr_schedule=falling)
    train = _training(160, 64, optimizer)
    return Experiment(
        model=vgg_19,
        data=data,
        branches=(("dense", dense(train)), ("slimming", slimming(train, train, 0.3))),
        published=(
            PublishedFigure("dense", 0.9366, _LIU),
            PublishedFigure("slimming", 0.9380, _LIU),
        ),
        shape=_SHAPE,
    )


def _he() -> Training:
    falling = StepDecay(steps=(32_000, 48_000))
    return Training(
        steps=64_000,
        batch=128,
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4, lr_schedule=falling),
        augment=FlipAndCrop(fill=0.0),
    )


def _training(epochs: int, batch: int, optimizer: SGD) -> Training:
    """Epochs of the 45,000 training images, counted in steps."""
    return Training(
        steps=epochs * -(-_IMAGES // batch),
        batch=batch,
        optimizer=optimizer,
        augment=FlipAndCrop(fill=0.0),
    )


def _retraining() -> Training:
    return _training(40, 128, SGD(lr=0.001, momentum=0.9, weight_decay=5e-4))
