"""The optimizer of a smaller network: settings and state of the original's, cut as weights are."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from boxwood._internal.graph.rebuild import named_tensors
from boxwood._internal.graph.reparametrised import written
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.slicing import sliced
from boxwood._internal.graph.surgery import cuts_of
from boxwood.errors import UnsupportedModel

Cut = Sequence[tuple[int, Tensor]]


def carry_optimizer(
    optimizer: Optimizer, model: nn.Module, small: nn.Module, selection: UnitSelection
) -> Optimizer:
    """Make the optimizer of the smaller network: the same settings, state cut as weights are.

    State with a parameter's shape is reduced like the parameter, and single numbers are copied.
    Moments that are factored into rows and columns (Adafactor) are reduced along the axis that they
    have. Removed weights still contribute to these means until new gradients replace them.

    Args:
        optimizer: of the original network.
        model: the original.
        small: the network that `shrink` returned.
        selection: the selection that `shrink` got.

    Raises:
        UnsupportedModel: the optimizer has other parameters, its class cannot build it from
            parameter groups, or it has state that cannot be reduced, such as the flat history of
            L-BFGS or moments quantised in blocks.

    Example:
        >>> import numpy as np
        >>> from boxwood import find_units
        >>> from boxwood import shrink
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
        >>> selection = UnitSelection(find_units(net, torch.ones(1, 1)), np.array([False, True]))
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> carry_optimizer(sgd, net, shrink(net, selection), selection).param_groups[0]["lr"]
        0.1
    """
    how = written(model, cuts_of(selection))
    first = {id(t): names[0] for names, t in named_tensors(model)}
    new = dict(small.named_parameters(remove_duplicate=False))
    names = {
        id(p): first.get(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)
    }
    groups = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise UnsupportedModel(
                    f"Expected an optimizer of this model's parameters, got one that holds another "
                    f"of shape {tuple(parameter.shape)}; make it from model.parameters()."
                )
            name = names[id(parameter)]
            if name not in new:
                raise UnsupportedModel(
                    f"Expected parameters that the smaller network has as well, got {name!r}, "
                    "from which a weight was computed that is an ordinary parameter now; make a "
                    "new optimizer from its parameters()."
                )
        groups.append({**group, "params": [new[names[id(p)]] for p in group["params"]]})
    made = _made_again(optimizer, groups)
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        shape, cut = tuple(parameter.shape), how.cuts.get(name, ())
        made.state[new[name]] = {
            key: _carried(value, key, shape, cut, f"{name!r} in {type(optimizer).__name__}")
            for key, value in state.items()
        }
    return made


def _made_again(optimizer: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    sizes = [len(group["params"]) for group in groups]
    try:
        made: Optimizer = type(optimizer)(groups)  # type: ignore[call-arg]
        if [len(group["params"]) for group in made.param_groups] != sizes:
            raise TypeError("its parameter groups are others")
    except Exception as error:
        raise UnsupportedModel(
            f"Expected an optimizer that {type(optimizer).__name__}(groups) makes again, got one "
            f"that it does not make ({type(error).__name__}: {error}); give the optimizer that it "
            "wraps, or make a new one from the smaller network's parameters()."
        ) from error
    made.defaults = dict(optimizer.defaults)
    return made


def _carried(value: Any, key: str, shape: tuple[int, ...], cut: Cut, whose: str) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_carried(each, key, shape, cut, whose) for each in value)
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    packed = value.dtype == torch.uint8  # numbers of which others hold the scale
    if value.shape == shape and not packed:
        return sliced(value, cut)
    if value.numel() == 1:
        return value.clone()
    axes = _axes(value, key, shape)
    if axes is None or packed:
        raise UnsupportedModel(
            f"Expected state that can be cut as its weights are, got {key!r} of shape "
            f"{tuple(value.shape)} and {str(value.dtype).removeprefix('torch.')} for {whose}, "
            f"where the parameter has shape {shape}; make a new optimizer from the smaller "
            "network's parameters()."
        )
    return sliced(value, [(axes[dim], stays) for dim, stays in cut if dim in axes])


def _axes(value: Tensor, key: str, shape: tuple[int, ...]) -> dict[int, int] | None:
    """Say where the axes of a parameter are in a factored moment of it; None if it is none."""
    if value.dim() == len(shape):
        if any(mine not in (size, 1) for mine, size in zip(value.shape, shape, strict=True)):
            return None
        return {dim: dim for dim, mine in enumerate(value.shape) if mine == shape[dim]}
    left = list(range(len(shape)))
    if len(shape) > 1 and "row" in key:
        del left[-1]
    elif len(shape) > 1 and "col" in key:
        del left[-2]
    if tuple(shape[dim] for dim in left) != tuple(value.shape):
        return None
    return {dim: place for place, dim in enumerate(left)}
