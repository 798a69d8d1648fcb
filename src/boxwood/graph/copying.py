"""Copy a network with other tensors in the place of its parameters and buffers."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensor,
)
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from boxwood.core.errors import BoxwoodError

Replace = Callable[[str, Tensor], Tensor]
"""Given the first name of a parameter or buffer, and its data: what to put in its place."""


def check_materialised(model: nn.Module) -> None:
    """Refuse parameters that have no shape or no data yet.

    Example:
        >>> check_materialised(nn.Linear(1, 1, device="meta"))
        Traceback (most recent call last):
        ...
        boxwood.core.errors.BoxwoodError: Expected parameters with data, got 'weight' on the meta device; load the weights first.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, UninitializedTensorMixin):
            raise BoxwoodError(
                f"Expected initialised parameters, got {name!r}, which is lazy; "
                "run the model once on a batch first."
            )
        if tensor.is_meta:
            raise BoxwoodError(
                f"Expected parameters with data, got {name!r} on the meta device; "
                "load the weights first."
            )


def named_tensors(model: nn.Module) -> list[tuple[tuple[str, ...], Tensor]]:
    """List parameters and buffers, each once, with all of its names.

    Two of them that are views of the same memory in the same shape count as one.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> net = nn.Sequential(layer, layer)
        >>> [names for names, _ in named_tensors(net)]
        [('0.weight', '1.weight'), ('0.bias', '1.bias')]
    """
    found: dict[Any, tuple[list[str], Tensor]] = {}
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        place = 0 if tensor.is_meta else tensor.data_ptr()
        key = (place, tensor.shape, tensor.stride()) if place else id(tensor)
        found.setdefault(key, ([], tensor))[0].append(name)
    return [(tuple(names), tensor) for names, tensor in found.values()]


def rebuilt(model: nn.Module, replace: Replace) -> nn.Module:
    """Copy a module with each parameter and buffer replaced; ties and attributes stay.

    Hooks and everything else are copied as ``copy.deepcopy`` copies them.

    Example:
        >>> rebuilt(nn.Linear(2, 2, bias=False), lambda name, tensor: tensor[:1]).weight.shape
        torch.Size([1, 2])
    """
    return twin_of(model, replace)[0]


def twin_of(
    model: nn.Module, replace: Replace
) -> tuple[nn.Module, list[tuple[tuple[str, ...], Tensor]]]:
    """Copy a module as `rebuilt` does, and list what was put into it, with names.

    Example:
        >>> copied, listed = twin_of(nn.Linear(2, 2), lambda name, tensor: tensor.clone())
        >>> [names for names, _ in listed]
        [('weight',), ('bias',)]
    """
    memo: dict[int, Any] = {}
    listed: list[tuple[tuple[str, ...], Tensor]] = []
    by_name = dict(
        [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
    )
    for names, tensor in named_tensors(model):
        made = replace(names[0], tensor.detach())
        for name in names:
            old = by_name[name]
            if id(old) in memo:
                continue
            if isinstance(made, FakeTensor):
                made._is_param = isinstance(old, nn.Parameter)  # what makes it a Parameter
                memo[id(old)] = made
            elif isinstance(old, nn.Parameter):
                memo[id(old)] = nn.Parameter(made, requires_grad=old.requires_grad)
            else:
                memo[id(old)] = made
            listed.append((names, memo[id(old)]))
    for module in model.modules():
        for value in vars(module).values():
            # A computed tensor, as an old-style weight norm leaves behind, cannot be deep-copied.
            if isinstance(value, Tensor) and id(value) not in memo:
                memo[id(value)] = value.detach().clone()
            # A dozen of every module's tables are empty; deepcopy takes a thousand times as long.
            elif type(value) in (dict, OrderedDict) and not value:
                memo[id(value)] = type(value)()
    return copy.deepcopy(model, memo), listed
