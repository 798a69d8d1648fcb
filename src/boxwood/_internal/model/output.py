"""The layer whose outputs are the classes."""

from torch import nn

from boxwood.errors import InvalidInput


def output_layer(model: nn.Module, classes: int) -> str:
    """Name the last linear layer with one output per class.

    Args:
        model: a classifier.
        classes: outputs of that layer.

    Raises:
        InvalidInput: the last linear layer has another number of outputs, or there is none.

    Example:
        >>> output_layer(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 10)), 10)
        '2'
    """
    linear: dict[str, int] = {
        name: m.out_features for name, m in model.named_modules() if isinstance(m, nn.Linear)
    }
    last = next(reversed(linear), None)
    if last is None or linear[last] != classes:
        found = "none" if last is None else f"{last!r} with {linear[last]}"
        raise InvalidInput(
            f"Expected a last linear layer with {classes} outputs, one per class, got {found}; "
            f"use a network that ends in such a layer."
        )
    return last
