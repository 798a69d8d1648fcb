"""Conv-2, Conv-4 and Conv-6: small VGGs for CIFAR-10, of the lottery ticket paper."""

from collections import OrderedDict

from torch import nn

from boxwood.errors import InvalidInput


def conv_2(
    *,
    size: int = 32,
    channels: int = 3,
    classes: int = 10,
    dropout: float = 0.0,
    width: int = 64,
) -> nn.Sequential:
    """Build Conv-2: two 3 × 3 convolutions of 64 filters, pooling, linear layers 256, 256, 10.

    4,301,642 parameters for CIFAR-10; 38,592 of its weights are in convolutions.

    Args:
        size: height and width of the images in pixels, a multiple of 2.
        channels: colours of the images.
        classes: outputs.
        dropout: probability, after each hidden linear layer.
        width: filters of the first convolution, to which all other layers are in the paper's proportion.

    Raises:
        InvalidInput: the images cannot be halved that often.

    Example:
        >>> sum(p.numel() for p in conv_2().parameters())
        4301642

    Source: Frankle and Carbin (2019), figure 2.
    Differs from the paper: it does not say where dropout acts; here, on hidden linear layers.
    """
    return _conv_net(1, size, channels, classes, dropout, width)


def conv_4(
    *,
    size: int = 32,
    channels: int = 3,
    classes: int = 10,
    dropout: float = 0.0,
    width: int = 64,
) -> nn.Sequential:
    """Build Conv-4: Conv-2 with two more convolutions of 128 filters and another pooling.

    2,425,930 parameters for CIFAR-10; 259,776 of its weights are in convolutions.

    Args:
        size: height and width of the images in pixels, a multiple of 4.
        channels: colours of the images.
        classes: outputs.
        dropout: probability, after each hidden linear layer.
        width: filters of the first convolution, to which all other layers are in the paper's proportion.

    Raises:
        InvalidInput: the images cannot be halved that often.

    Example:
        >>> sum(p.numel() for p in conv_4().parameters())
        2425930

    Source: Frankle and Carbin (2019), figure 2.
    """
    return _conv_net(2, size, channels, classes, dropout, width)


def conv_6(
    *,
    size: int = 32,
    channels: int = 3,
    classes: int = 10,
    dropout: float = 0.0,
    width: int = 64,
) -> nn.Sequential:
    """Build Conv-6: Conv-4 with two more convolutions of 256 filters and another pooling.

    2,262,602 parameters for CIFAR-10; 1,144,512 of its weights are in convolutions.

    Args:
        size: height and width of the images in pixels, a multiple of 8.
        channels: colours of the images.
        classes: outputs.
        dropout: probability, after each hidden linear layer.
        width: filters of the first convolution, to which all other layers are in the paper's proportion.

    Raises:
        InvalidInput: the images cannot be halved that often.

    Example:
        >>> sum(p.numel() for p in conv_6().parameters())
        2262602

    Source: Frankle and Carbin (2019), figure 2.
    Differs from the paper: it prints 1.7 million weights, but the layers that it describes have
    2.26 million.
    """
    return _conv_net(3, size, channels, classes, dropout, width)


def _conv_net(
    pairs: int, size: int, channels: int, classes: int, dropout: float, width: int
) -> nn.Sequential:
    if size < 1 or size % 2**pairs:
        raise InvalidInput(
            f"Expected images whose size is a multiple of {2**pairs} pixels, got size={size}; pad "
            f"them."
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = channels
    for pair in range(pairs):
        filters = width * 2**pair
        for index in (2 * pair + 1, 2 * pair + 2):
            layers[f"conv{index}"] = nn.Conv2d(inputs, filters, 3, padding=1)
            layers[f"relu{index}"] = nn.ReLU()
            inputs = filters
        layers[f"pool{pair + 1}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    inputs *= (size // 2**pairs) ** 2
    for index in (1, 2):
        layers[f"fc{index}"] = nn.Linear(inputs, 4 * width)
        layers[f"relu_fc{index}"] = nn.ReLU()
        if dropout:
            layers[f"dropout{index}"] = nn.Dropout(dropout)
        inputs = 4 * width
    layers["fc3"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)
