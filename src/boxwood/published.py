"""Networks as papers train and prune them, each with the figures that the papers report.

For those who have a graphics card. Each function returns an `Experiment`, which is run by its name:

    boxwood plan boxwood.published:imagenet_resnet_50_acdc --card a100
    boxwood run boxwood.published:imagenet_resnet_50_acdc --device cuda

What is printed next to a result is the paper's figure. None of these was run here: their steps are
tested on made-up data.
"""

from boxwood._internal.recipes.phase import PublishedFigure
from boxwood._internal.recipes.published_cifar import (
    cifar10_resnet_20,
    cifar10_resnet_56,
    cifar10_vgg_16,
    cifar10_vgg_19,
)
from boxwood._internal.recipes.published_imagenet import (
    imagenet_deit_small,
    imagenet_resnet_50_acdc,
    imagenet_resnet_50_gmp,
    imagenet_resnet_50_rigl,
    imagenet_resnet_50_str,
)

__all__ = [
    "PublishedFigure",
    "cifar10_resnet_20",
    "cifar10_resnet_56",
    "cifar10_vgg_16",
    "cifar10_vgg_19",
    "imagenet_deit_small",
    "imagenet_resnet_50_acdc",
    "imagenet_resnet_50_gmp",
    "imagenet_resnet_50_rigl",
    "imagenet_resnet_50_str",
]
