"""A copy of a network that shares nothing with it."""

import copy
import types
from collections.abc import MutableMapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from boxwood.errors import InvalidInput


def copy_model(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network, including activations that it has stored.

    ``copy.deepcopy`` leaves functions as they are. One that a network holds, as a hook or an
    attribute, often holds the network in turn; in the copy it holds the copy.

    Raises:
        InvalidInput: it holds something that cannot be copied.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> copy_model(net).weight is net.weight
        False
    """
    try:
        memo: dict[int, Any] = {}
        with _ComputedTensors():
            twin = copy.deepcopy(model, memo)
            for module in twin.modules():
                for held in (vars(module), *vars(module).values()):
                    if isinstance(held, MutableMapping):
                        held.update(
                            (name, _rebound(each, memo))
                            for name, each in list(held.items())
                            if isinstance(each, types.FunctionType) and each.__closure__
                        )
            return twin
    except Exception as error:
        raise InvalidInput(
            f"Expected a model that copy.deepcopy can copy, so that compiling does not change "
            f"it, got {type(error).__name__}: {error}; remove attributes that cannot be copied "
            f"(locks, files, generators) while you compile it."
        ) from error


def _rebound(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """Return a function whose closure holds copies."""
    cells = tuple(
        types.CellType(copy.deepcopy(cell.cell_contents, memo))
        for cell in function.__closure__ or ()
    )
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(vars(function))
    return made


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
