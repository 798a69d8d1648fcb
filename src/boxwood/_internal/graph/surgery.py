"""Build the smaller network: the same classes, smaller tensors, correct attributes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boxwood._internal.core.placement import check_whole
from boxwood._internal.graph.constraints import broken_targets, new_values
from boxwood._internal.graph.rebuild import named_tensors, rebuilt
from boxwood._internal.graph.reparametrised import baked, finish_, written
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.sizes import OfAttribute, leaves
from boxwood._internal.graph.slicing import sliced
from boxwood._internal.graph.units import kept_indices
from boxwood.errors import UnsupportedModel

Attributes = Sequence[tuple[tuple[str | int, ...], int]]
"""Paths to ints that modules hold, with their values."""


@dataclass(frozen=True)
class AttributeChange:
    """An int of a module that says something else after surgery."""

    path: tuple[str | int, ...]
    before: int
    after: int


def cut(model: nn.Module, selection: UnitSelection) -> tuple[nn.Module, tuple[str, ...]]:
    """Build the smaller module; nothing is checked by running it.

    Args:
        model: in which the units were found; it is not changed.
        selection: what stays.

    Returns:
        The module, and the weights that are ordinary parameters in it, since what computed them
        would give other values.

    Raises:
        InvalidInput: the units are another model's.
        UnsupportedModel: no attribute can make a size right.

    Example:
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> small, _ = cut(net, select_units(find_units(net, torch.ones(1, 4)), 0.5))
        >>> small[0]
        Linear(in_features=4, out_features=4, bias=True)
    """
    check_same_model(model, selection)
    labels = selection.units.kept_labels(selection.kept)
    flow = selection.units.flow
    broken = broken_targets(flow, labels)
    if broken:
        raise UnsupportedModel(
            f"Expected a removal that the code can follow, got one after which a size in "
            f"{broken[0].source} would be wrong; remove as many units of each group that this "
            "line handles, or protect them."
        )
    how = written(model, cuts_of(selection))
    small = rebuilt(baked(model, how.baked), lambda n, t: sliced(t, how.cuts.get(n, ())))
    finish_(small, how)
    corrected_(small, cuts_of(selection), attributes_of(selection))
    return small, tuple(map(str, how.baked))


def attribute_changes(selection: UnitSelection) -> tuple[AttributeChange, ...]:
    """List the ints of modules that decide sizes and have to change.

    Example:
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> attribute_changes(select_units(find_units(net, torch.ones(1, 4)), 0.5))
        (AttributeChange(path=('1', 'normalized_shape', 0), before=8, after=4),)
    """
    flow = selection.units.flow
    values = new_values(flow, selection.units.kept_labels(selection.kept))
    return tuple(
        AttributeChange(leaf.path, flow.trace.attributes[leaf], value)
        for leaf, value in values.items()
        if isinstance(leaf, OfAttribute) and value != flow.trace.attributes[leaf]
    )


def attributes_of(selection: UnitSelection) -> list[tuple[tuple[str | int, ...], int]]:
    """List the values that attributes must have: those that change, and those that must not.

    Code may use what a layer says about its size as a number, as in ``x * sqrt(embedding_dim)``.
    Then it stays, although the layer has another size.

    Example:
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> attributes_of(select_units(find_units(net, torch.ones(1, 4)), 0.5))
        [(('1', 'normalized_shape', 0), 4)]
    """
    trace = selection.units.flow.trace
    cut = [name.split(".") for name in cuts_of(selection)]
    holders = {tuple(name[:count]) for name in cut for count in range(len(name))}
    numbers = {
        leaf.path
        for expression, _ in trace.numbers
        for leaf in leaves(expression)
        if isinstance(leaf, OfAttribute)
        and not holders.isdisjoint({leaf.path[:-1], leaf.path[:-2]})
    }
    changes = [(change.path, change.after) for change in attribute_changes(selection)]
    return changes + sorted(
        (path, trace.attributes[OfAttribute(path)]) for path in numbers - dict(changes).keys()
    )


def cuts_of(selection: UnitSelection) -> dict[str, list[tuple[int, Tensor]]]:
    """List what stays of every tensor that loses something.

    Example:
        >>> from boxwood import find_units
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
        >>> selection = UnitSelection(find_units(net, torch.ones(1, 1)), np.array([False, True]))
        >>> cuts_of(selection)["1.weight"]
        [(1, tensor([1]))]
    """
    cuts: dict[str, list[tuple[int, Tensor]]] = {}
    for axis in selection.units.axes:
        stays = kept_indices(axis, selection.kept)
        if not stays.all():
            indices = torch.from_numpy(np.flatnonzero(stays))
            cuts.setdefault(axis.names[0], []).append((axis.dim, indices))
    return cuts


def corrected_(small: nn.Module, cut: Iterable[str], attributes: Attributes) -> None:
    """Give modules the attributes that their smaller tensors ask for.

    Args:
        small: the network after the cut.
        cut: names of the tensors that lost something.
        attributes: values that the code of the network asks for; they go before those that
            PyTorch's own layers hold for information.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> layer.weight = nn.Parameter(torch.zeros(1, 3))
        >>> corrected_(layer, ["weight"], [])
        >>> layer
        Linear(in_features=3, out_features=1, bias=True)
    """
    for path, value in attributes:
        set_attribute_(small, path, value)  # such as groups, which say how a shape is read
    parts = [name.split(".") for name in cut]
    for holder in {".".join(each[:count]) for each in parts for count in range(len(each))}:
        correct_attributes_(small.get_submodule(holder))
    for path, value in attributes:
        set_attribute_(small, path, value)


def correct_attributes_(module: nn.Module) -> None:
    """Make the sizes that PyTorch's layers hold say what their tensors are.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> layer.weight = nn.Parameter(torch.zeros(1, 3))
        >>> correct_attributes_(layer)
        >>> layer
        Linear(in_features=3, out_features=1, bias=True)
    """
    for kind, sizes_of in _SIZES:
        if isinstance(module, kind):
            for name, value in sizes_of(module).items():
                if getattr(module, name, None) is not None and getattr(module, name) != value:
                    setattr(module, name, value)
            return


def _linear(m: Any) -> dict[str, Any]:
    return {"out_features": m.weight.shape[0], "in_features": m.weight.shape[1]}


def _bilinear(m: Any) -> dict[str, Any]:
    names = ("out_features", "in1_features", "in2_features")
    return dict(zip(names, m.weight.shape, strict=True))


def _conv(m: Any) -> dict[str, Any]:
    first, second = m.weight.shape[:2]
    if m.transposed:
        return {"in_channels": first, "out_channels": second * m.groups}
    return {"in_channels": second * m.groups, "out_channels": first}


def _channel_norm(m: Any) -> dict[str, Any]:
    tensor = m.weight if m.weight is not None else m.running_mean
    return {} if tensor is None else {"num_features": len(tensor)}


def _shape_norm(m: Any) -> dict[str, Any]:
    return {} if m.weight is None else {"normalized_shape": tuple(m.weight.shape)}


def _recurrent(m: Any) -> dict[str, Any]:
    gates = {"LSTM": 4, "GRU": 3}.get(m.mode, 1)
    sizes = {"input_size": m.weight_ih_l0.shape[1], "hidden_size": len(m.weight_ih_l0) // gates}
    return sizes | ({"proj_size": m.weight_hh_l0.shape[1]} if m.proj_size else {})


def _recurrent_cell(m: Any) -> dict[str, Any]:
    return {"input_size": m.weight_ih.shape[1], "hidden_size": m.weight_hh.shape[1]}


def _attention(m: Any) -> dict[str, Any]:
    width = m.out_proj.weight.shape[1]
    if m.in_proj_weight is not None:
        keys = values = m.in_proj_weight.shape[1]
    else:
        keys, values = m.k_proj_weight.shape[1], m.v_proj_weight.shape[1]
    return {"embed_dim": width, "head_dim": width // m.num_heads, "kdim": keys, "vdim": values}


_SIZES: tuple[tuple[Any, Any], ...] = (
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (nn.modules.conv._ConvNd, _conv),
    (nn.modules.batchnorm._NormBase, _channel_norm),
    ((nn.LayerNorm, nn.RMSNorm), _shape_norm),
    (nn.GroupNorm, lambda m: {} if m.weight is None else {"num_channels": len(m.weight)}),
    ((nn.Embedding, nn.EmbeddingBag), lambda m: {"embedding_dim": m.weight.shape[1]}),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _recurrent_cell),
    (nn.MultiheadAttention, _attention),
    (nn.PReLU, lambda m: {"num_parameters": len(m.weight)}),
)


def check_same_model(model: nn.Module, selection: UnitSelection) -> None:
    """Refuse a network that units were not found in.

    Raises:
        InvalidInput: a parameter is missing or has another shape.

    Example:
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> check_same_model(net, select_units(find_units(net, torch.ones(1, 4)), 0.5))
    """
    check_whole(dict(model.named_parameters()))
    shapes = {names[0]: tuple(tensor.shape) for names, tensor in named_tensors(baked(model))}
    for name, shape in selection.units.shapes.items():
        if shapes.get(name) != shape:
            raise UnsupportedModel(
                f"Expected the model that the units were found in, got one in which {name!r} is "
                f"{'of shape ' + str(shapes[name]) if name in shapes else 'missing'} rather than "
                f"of shape {shape}; call find_units() on this model."
            )


def set_attribute_(model: nn.Module, path: Sequence[str | int], value: int) -> None:
    """Set an int that a module, or a tuple that it holds, has under a path.

    Example:
        >>> net = nn.Sequential(nn.LayerNorm(8))
        >>> set_attribute_(net, ("0", "normalized_shape", 0), 4)
        >>> net[0].normalized_shape
        (4,)
    """
    holder: Any = model
    *way, last = path
    if isinstance(last, int):  # a place in a tuple or list
        *way, name = way
        for part in way:
            holder = getattr(holder, str(part))
        old = getattr(holder, str(name))
        vars(holder)[str(name)] = type(old)(
            value if place == last else each for place, each in enumerate(old)
        )
        return
    for part in way:
        holder = getattr(holder, str(part))
    vars(holder)[str(last)] = value
