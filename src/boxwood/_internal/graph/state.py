"""What a network keeps from one call to the next."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

State = Mapping[str, tuple[Any, Any]]
"""Dotted name to what is there, and a sign of what is in it."""

_OWN = set(vars(nn.Module())) - {"training"}

_DEPTH = 3


def state_of(network: nn.Module) -> State:
    """Note what the modules of a network hold other than parameters and other modules.

    Example:
        >>> sorted(state_of(nn.Linear(1, 1)))
        ['in_features', 'out_features', 'training']
    """
    noted = {}
    for prefix, module in network.named_modules():
        for name, value in {**vars(module), **module._buffers}.items():
            if name not in _OWN:
                noted[f"{prefix}.{name}".lstrip(".")] = value, _sign(value, _DEPTH)
    return noted


def changed(before: State, after: State) -> tuple[str, ...]:
    """List what has become another object, or was written into.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> before = state_of(norm)
        >>> _ = norm.running_mean.add_(1)
        >>> changed(before, state_of(norm))
        ('running_mean',)
    """
    return tuple(
        name
        for name, (value, sign) in after.items()
        if name not in before or before[name][0] is not value or before[name][1] != sign
    )


def _sign(value: Any, depth: int) -> Any:
    if isinstance(value, Tensor):
        return value._version
    if depth and isinstance(value, list | tuple):
        return [(id(each), _sign(each, depth - 1)) for each in value]
    if depth and isinstance(value, dict):
        return [(key, id(each), _sign(each, depth - 1)) for key, each in value.items()]
    return None
