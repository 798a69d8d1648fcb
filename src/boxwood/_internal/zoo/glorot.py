"""Initial weights as the lottery ticket papers draw them."""

from collections.abc import Callable

from torch import nn


def glorot(*, net: Callable[[], nn.Module]) -> nn.Module:
    """Build a network and draw its weights from Glorot's normal distribution; biases are zero.

    ``w ~ N(0, 2 / (n_in + n_out))``, with n counted as torch's ``xavier_normal_`` does. Norms keep
    their scale of 1 and shift of 0.

    Args:
        net: builds the network, from torch's global random numbers.

    Example:
        >>> from boxwood.networks import lenet_300_100
        >>> weight = glorot(net=lenet_300_100).fc1.weight.detach()
        >>> round(float(weight.std() / (2 / (784 + 300)) ** 0.5), 1)
        1.0

    Source: X. Glorot, Y. Bengio, AISTATS 2010, in the normal form that Frankle and Carbin (2019),
    figure 2, name.
    """
    model = net()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
