"""The wide fully connected nets of the distillation paper."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def wide_net(
    *,
    hidden: Sequence[int] = (1200, 1200),
    inputs: int = 784,
    classes: int = 10,
    input_dropout: float = 0.0,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build a network of linear layers with ReLU, and dropout where its rate is above 0.

    The paper's teacher is ``hidden=(1200, 1200)`` with dropout, its student ``(800, 800)`` without.

    Args:
        hidden: units of each hidden layer.
        inputs: values in one input; its shape does not matter.
        classes: outputs.
        input_dropout: rate at which inputs are dropped, in [0, 1).
        dropout: rate at which hidden units are, in [0, 1).

    Example:
        >>> sum(p.numel() for p in wide_net().parameters())
        2395210

    Source: Hinton, Vinyals and Dean (2015), section 3; dropout rates 0.2 and 0.5: Hinton et al.,
    arXiv:1207.0580, 2012.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    if input_dropout:
        layers["drop0"] = nn.Dropout(input_dropout)
    before = inputs
    for number, units in enumerate(hidden, 1):
        layers[f"fc{number}"] = nn.Linear(before, units)
        layers[f"relu{number}"] = nn.ReLU()
        if dropout:
            layers[f"drop{number}"] = nn.Dropout(dropout)
        before = units
    layers[f"fc{len(hidden) + 1}"] = nn.Linear(before, classes)
    return nn.Sequential(layers)
