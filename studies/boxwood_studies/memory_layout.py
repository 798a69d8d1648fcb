"""Networks laid out in memory as a CPU's convolutions like them."""

from collections.abc import Callable

import torch
from torch import nn


def channels_last(net: Callable[[], nn.Module]) -> nn.Module:
    """Make a network whose weights lie with their channels last: the same numbers, up to twice as fast.

    Args:
        net: returns a new network.

    Example:
        >>> channels_last(lambda: nn.Conv2d(3, 4, 3)).weight.stride()
        (27, 1, 9, 3)
    """
    return net().to(memory_format=torch.channels_last)
