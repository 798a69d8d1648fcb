"""A copy of a network that shares nothing with it."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from boxwood.core.errors import BoxwoodError


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network, of the activations that it has stored too.

    Raises:
        BoxwoodError: it holds something that cannot be copied.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> copied(net).weight is net.weight
        False
    """
    try:
        with _ComputedTensors():
            return copy.deepcopy(model)
    except Exception as error:
        raise BoxwoodError(
            f"Expected a model that copy.deepcopy can copy, so that compiling leaves it as it is, "
            f"got {type(error).__name__}: {error}; take what cannot be copied (locks, files, "
            f"generators) out of its attributes while it is compiled."
        ) from error


class _ComputedTensors(TorchFunctionMode):
    """Have ``copy.deepcopy`` copy tensors with a history, which it refuses."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))
