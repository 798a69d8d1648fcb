"""ResNet-50 and DeiT-S on ImageNet as papers train and prune them, with the figures that these report.

Each function returns an `Experiment` with a branch for each sparsity. They take days on a graphics
card: ``boxwood plan --card`` says how many hours.

Lengths are counted in epochs of 1,231,167 images: 50,000 of the 1,281,167 training images are held
out for validation, on which the papers train too.
"""

from collections.abc import Callable, Mapping

from boxwood._internal.core.alternating_policies import ACDC
from boxwood._internal.core.call import Call
from boxwood._internal.core.replacing_policies import RigL
from boxwood._internal.core.soft_threshold import STR
from boxwood._internal.data.image_augmentation import ImageAugmentation
from boxwood._internal.data.splits import Splits
from boxwood._internal.data.vision import imagenet_folder
from boxwood._internal.model.prunable import Matrices, linear_and_conv
from boxwood._internal.recipes.gradual import dense_training, gradual_pruning, sparse_training
from boxwood._internal.recipes.phase import Experiment, PublishedFigure, Recipe
from boxwood._internal.train.computation import Computation
from boxwood._internal.train.loading import Loading
from boxwood._internal.train.losses import cross_entropy
from boxwood._internal.train.lr_schedules import CosineLR, LinearWarmup, StepDecay
from boxwood._internal.train.mixing import CutMix, MixUp
from boxwood._internal.train.optimizers import SGD, AdamW
from boxwood._internal.train.settings import Regularisation, Training
from boxwood._internal.zoo.torchvision_nets import deit_small, resnet_50

_SHAPE = (3, 224, 224)
_IMAGES = 1_231_167
_WORKERS = 8
_SMOOTHED = Call.of(cross_entropy, label_smoothing=0.1)
_FIRST_DENSE = Matrices(without=("conv1.weight",))
_KUSUPATI = "Kusupati et al. (2020), table 1"


def imagenet_resnet_50_gmp(*, data: Callable[[], Splits] = imagenet_folder) -> Experiment:
    """ResNet-50 on ImageNet, gradually pruned: 75.60, 73.91 and 70.59 % at 80, 90 and 95 %.

    Magnitudes, layer by layer, from epoch 20 to epoch 79 of 100; the first convolution stays dense.

    Args:
        data: returns ImageNet, with 224 × 224 pixels.

    Example:
        >>> [figure.accuracy for figure in imagenet_resnet_50_gmp().published]
        [0.77, 0.756, 0.7391, 0.7059]

    Source: Zhu and Gupta (2017); the figures are those of Gale, Elsen and Hooker (2019) as Kusupati
    et al. (2020), table 1, give them; the training is that of Kusupati et al., appendix.
    Differs from the source: the cosine counts from the first step, not from the end of the warm-up.
    """
    train = _resnet_training()
    epoch = _epoch(train.batch)
    begin, end = (round(epochs * epoch, -2) for epochs in (20, 79))
    recipes = {
        sparsity: gradual_pruning(
            train=train, sparsity=sparsity, begin=begin, end=end, layers=_FIRST_DENSE
        )
        for sparsity in (0.8, 0.9, 0.95)
    }
    figures = {0.8: (0.7560, _KUSUPATI), 0.9: (0.7391, _KUSUPATI), 0.95: (0.7059, _KUSUPATI)}
    return _study(data, dense_training(train=train), (0.7700, _KUSUPATI), recipes, figures)


def imagenet_resnet_50_rigl(*, data: Callable[[], Splits] = imagenet_folder) -> Experiment:
    """ResNet-50 on ImageNet under RigL: 74.60, 72.02 and 67.5 % at 80, 90 and 95 %.

    32,000 steps of 4,096 images at a rate of 1.6 after a warm-up of 5 epochs, which falls to a tenth
    at epochs 30, 70 and 90; 30 % of the weights are replaced every 100 steps until step 25,000, less
    and less along a cosine. Every layer but the first has the same sparsity.

    Args:
        data: returns ImageNet, with 224 × 224 pixels.

    Example:
        >>> [figure.accuracy for figure in imagenet_resnet_50_rigl().published]
        [0.768, 0.746, 0.7202, 0.675]

    Source: Evci, Gale, Menick, Castro and Elsen (2020), section 4.1 and its appendix, with the
    distribution that is called uniform there.
    Differs from the paper: a step's 4,096 images are computed in 16 parts on one device, and batch
    norms see parts of 256.
    """
    epoch = 313
    falling = StepDecay(steps=(30 * epoch, 70 * epoch, 90 * epoch))
    train = Training(
        steps=32_000,
        batch=4096,
        optimizer=SGD(
            lr=1.6,
            momentum=0.9,
            weight_decay=1e-4,
            lr_schedule=LinearWarmup(steps=5 * epoch, schedule=falling),
        ),
        loss=_SMOOTHED,
        loading=Loading(transform=ImageAugmentation(), workers=_WORKERS),
        computation=Computation(microbatches=16, bfloat16=True, compiled=True),
    )
    recipes = {
        sparsity: sparse_training(
            train=train,
            policy=RigL(sparsity=sparsity, until=25_000, every=100, fraction=0.3),
            layers=_FIRST_DENSE,
        )
        for sparsity in (0.8, 0.9, 0.95)
    }
    code = "Evci et al. (2020), the table of results in the README of their code"
    figures = {0.8: (0.7460, code), 0.9: (0.7202, code), 0.95: (0.675, _KUSUPATI)}
    return _study(data, dense_training(train=train), (0.768, code), recipes, figures)


def imagenet_resnet_50_acdc(*, data: Callable[[], Splits] = imagenet_folder) -> Experiment:
    """ResNet-50 on ImageNet under AC/DC: 76.3, 75.03 and 73.14 % at 80, 90 and 95 %.

    Ten dense epochs, then phases of 5 epochs in turn, the last dense one from epoch 75 to 85, of 100
    epochs; all weights are ranked together.

    Args:
        data: returns ImageNet, with 224 × 224 pixels.

    Example:
        >>> [figure.accuracy for figure in imagenet_resnet_50_acdc().published]
        [0.77, 0.763, 0.7503, 0.7314]

    Source: Peste, Iofinova, Vladu and Alistarh (2021), section 4 and table 1; the training is that of
    `imagenet_resnet_50_gmp`, as there.
    """
    train = _resnet_training()
    epoch = _epoch(train.batch)
    recipes = {
        sparsity: sparse_training(
            train=train,
            policy=ACDC(
                sparsity, begin=10 * epoch, end=85 * epoch, every=5 * epoch, last=10 * epoch
            ),
        )
        for sparsity in (0.8, 0.9, 0.95)
    }
    peste = "Peste et al. (2021), table 1"
    figures = {0.8: (0.763, peste), 0.9: (0.7503, peste), 0.95: (0.7314, peste)}
    return _study(data, dense_training(train=train), (0.7700, _KUSUPATI), recipes, figures)


def imagenet_resnet_50_str(*, data: Callable[[], Splits] = imagenet_folder) -> Experiment:
    """ResNet-50 on ImageNet under STR: 76.12, 74.31 and 70.23 % at 81.27, 90.23 and 95.15 %.

    The sparsity follows from the weight decay: 1.75e-5, 2.25e-5 and 3.05e-5. Branches are named after
    the sparsity that the paper reports, not the one that a run has.

    Args:
        data: returns ImageNet, with 224 × 224 pixels.

    Example:
        >>> [figure.accuracy for figure in imagenet_resnet_50_str().published]
        [0.77, 0.7612, 0.7431, 0.7023]

    Source: Kusupati et al. (2020), table 1 and appendix; the training is that of
    `imagenet_resnet_50_gmp`, except for the weight decay.
    """
    train = _resnet_training()
    decays = {0.8127: 1.751757813e-5, 0.9023: 2.251757813e-5, 0.9515: 3.051757813e-5}
    recipes = {
        sparsity: sparse_training(
            train=_resnet_training(decay),
            policy=STR(-3200.0, decay=decay, momentum=0.875),
        )
        for sparsity, decay in decays.items()
    }
    accuracies = zip(decays, (0.7612, 0.7431, 0.7023), strict=True)
    figures = {sparsity: (accuracy, _KUSUPATI) for sparsity, accuracy in accuracies}
    return _study(data, dense_training(train=train), (0.7700, _KUSUPATI), recipes, figures)


def imagenet_deit_small(*, data: Callable[[], Splits] = imagenet_folder) -> Experiment:
    """DeiT-S on ImageNet: 79.8 % dense; and gradually pruned to half, of which we know no figure.

    300 epochs of batches of 1,024 under AdamW at a rate of 1e-3, with a cosine after 5 epochs of
    warm-up, RandAugment, mixup, CutMix, random erasing and label smoothing. Gradual pruning goes from
    epoch 30 to epoch 200, layer by layer.

    Args:
        data: returns ImageNet, with 224 × 224 pixels.

    Example:
        >>> imagenet_deit_small().published[0].accuracy
        0.798

    Source: Touvron et al. (2021), tables 5 and 9.
    Differs from the paper: see `deit_small`; every image is taken once an epoch, and not in three
    changes one after another; RandAugment's magnitude is not drawn at random.
    """
    batch = 1024
    epoch = _epoch(batch)
    train = Training(
        steps=300 * epoch,
        batch=batch,
        optimizer=AdamW(
            lr=1e-3,
            weight_decay=0.05,
            lr_schedule=LinearWarmup(steps=5 * epoch, schedule=CosineLR(final=0.01)),
        ),
        loss=_SMOOTHED,
        regularisation=Regularisation(decay_layers=linear_and_conv),
        loading=Loading(
            transform=ImageAugmentation(rand_augment=(2, 9), erasing=0.25, bicubic=True),
            workers=_WORKERS,
        ),
        mixing=(MixUp(alpha=0.8), CutMix(alpha=1.0)),
        computation=Computation(bfloat16=True, compiled=True),
    )
    begin, end = (round(epochs * epoch, -2) for epochs in (30, 200))
    half = gradual_pruning(train=train, sparsity=0.5, begin=begin, end=end)
    figure = PublishedFigure("dense", 0.798, "Touvron et al. (2021), table 5")
    return Experiment(
        model=deit_small,
        data=data,
        branches=(("dense", dense_training(train=train)), ("gradual 50 %", half)),
        published=(figure,),
        shape=_SHAPE,
    )


def _resnet_training(weight_decay: float = 3.051757813e-5) -> Training:
    """100 epochs with label smoothing, as Kusupati et al. and Peste et al. train."""
    epoch = _epoch(256)
    return Training(
        steps=100 * epoch,
        batch=256,
        optimizer=SGD(
            lr=0.256,
            momentum=0.875,
            weight_decay=weight_decay,
            lr_schedule=LinearWarmup(steps=5 * epoch, schedule=CosineLR()),
        ),
        loss=_SMOOTHED,
        loading=Loading(transform=ImageAugmentation(), workers=_WORKERS),
        computation=Computation(bfloat16=True, compiled=True),
    )


def _epoch(batch: int) -> int:
    return -(-_IMAGES // batch)


def _study(
    data: Callable[[], Splits],
    dense: Recipe,
    dense_figure: tuple[float, str],
    recipes: Mapping[float, Recipe],
    figures: Mapping[float, tuple[float, str]],
) -> Experiment:
    """A dense branch, and one for each sparsity, with the accuracy and the source of each."""
    names = {sparsity: f"{100 * sparsity:.4g} %" for sparsity in recipes}
    published = [PublishedFigure(names[sparsity], *figure) for sparsity, figure in figures.items()]
    return Experiment(
        model=resnet_50,
        data=data,
        branches=(("dense", dense), *((names[s], recipe) for s, recipe in recipes.items())),
        published=(PublishedFigure("dense", *dense_figure), *published),
        shape=_SHAPE,
    )
