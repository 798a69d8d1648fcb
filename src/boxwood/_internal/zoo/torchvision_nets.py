"""AlexNet, VGG-16, Inception-v3, ResNet-50 and DeiT-S as torchvision builds them, untrained."""

from importlib import import_module
from typing import Any

from torch import nn

from boxwood._internal.core.extras import extra


def alexnet(*, classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """Build torchvision's AlexNet: 61,100,840 parameters for 1,000 classes.

    Args:
        classes: outputs.
        dropout: probability before each of the first two linear layers, in [0, 1].

    Raises:
        MissingDependency: torchvision is not installed.

    Example:
        >>> alexnet().classifier[6].weight.shape  # doctest: +SKIP
        torch.Size([1000, 4096])

    Source: A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks",
    arXiv:1404.5997, 2014.
    Differs from the paper: Han et al. (arXiv:1506.02626, section 4.2) prune the two-tower net of 2012
    in its Caffe form. Weights here and there: conv1 23,232 and 34,848; conv3 663,552 and 884,736;
    conv4 884,736 and 663,552; conv5 589,824 and 442,368. conv2 (307,200) and the three linear
    layers are the same, and both nets have 61 M parameters.
    """
    net: nn.Module = _models().alexnet(weights=None, num_classes=classes, dropout=dropout)
    return net


def vgg_16(*, classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """Build torchvision's VGG-16, without batch norm: 138,357,544 parameters for 1,000 classes.

    Args:
        classes: outputs.
        dropout: probability after each of the first two linear layers, in [0, 1].

    Raises:
        MissingDependency: torchvision is not installed.

    Example:
        >>> vgg_16().classifier[6].weight.shape  # doctest: +SKIP
        torch.Size([1000, 4096])

    Source: K. Simonyan, A. Zisserman, arXiv:1409.1556, 2014, table 1, column D; Han et al.,
    arXiv:1506.02626, 2015, section 4.3, has the same weights in every layer.
    """
    net: nn.Module = _models().vgg16(weights=None, num_classes=classes, dropout=dropout)
    return net


def inception_v3(*, classes: int = 1000, auxiliary: bool = False) -> nn.Module:
    """Build torchvision's Inception-v3: 23,834,568 parameters for 1,000 classes.

    Images have at least 75 pixels, 299 in the paper. Zhu and Gupta prune every layer to the same
    sparsity: ``linear_and_conv``.

    Args:
        classes: outputs.
        auxiliary: with the second classifier on the way, whose outputs come with the others in
            training: 27,161,264 parameters, the 27.1 million of Zhu and Gupta.

    Raises:
        MissingDependency: torchvision is not installed.

    Example:
        >>> inception_v3().fc.weight.shape  # doctest: +SKIP
        torch.Size([1000, 2048])

    Source: C. Szegedy et al., "Rethinking the Inception architecture for computer vision",
    arXiv:1512.00567, 2015, table 1.
    Differs from torchvision's: weights are drawn as torch's layers draw them, which is much faster.
    """
    net: nn.Module = _models().inception_v3(
        weights=None, num_classes=classes, aux_logits=auxiliary, init_weights=False
    )
    return net


def resnet_50(*, classes: int = 1000) -> nn.Module:
    """Build torchvision's ResNet-50: 25,557,032 parameters for 1,000 classes.

    Args:
        classes: outputs.

    Raises:
        MissingDependency: torchvision is not installed.

    Example:
        >>> resnet_50().fc.weight.shape  # doctest: +SKIP
        torch.Size([1000, 2048])

    Source: He et al., arXiv:1512.03385, 2015, table 1; blocks stride in their 3 × 3 convolution.
    """
    net: nn.Module = _models().resnet50(weights=None, num_classes=classes)
    return net


def deit_small(*, classes: int = 1000, image_size: int = 224) -> nn.Module:
    """Build DeiT-S: 12 transformer blocks of width 384 with 6 heads over patches of 16 × 16 pixels.

    22,050,664 parameters for 1,000 classes.

    Args:
        classes: outputs.
        image_size: height and width of the images, a multiple of 16.

    Raises:
        MissingDependency: torchvision is not installed.

    Example:
        >>> deit_small().heads.head.weight.shape  # doctest: +SKIP
        torch.Size([1000, 384])

    Source: Touvron et al. (2021), "Training data-efficient image transformers & distillation through
    attention", table 1, without the distillation token.
    Differs from the paper: no blocks are dropped at random in training (stochastic depth 0.1 there).
    """
    net: nn.Module = _models().VisionTransformer(
        image_size=image_size,
        patch_size=16,
        num_layers=12,
        num_heads=6,
        hidden_dim=384,
        mlp_dim=1536,
        num_classes=classes,
    )
    return net


def _models() -> Any:
    with extra("vision", "torchvision for this net"):
        return import_module("torchvision.models")
