"""Cut a network down to what is kept: the same classes, smaller tensors, right attributes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from boxwood.core.errors import BoxwoodError
from boxwood.core.placement import check_whole
from boxwood.graph.copying import named_tensors, rebuilt
from boxwood.graph.keep import Keep
from boxwood.graph.settle import broken_targets, new_values
from boxwood.graph.sizes import OfAttribute
from boxwood.graph.units import kept_indices

Cuts = Mapping[str, Sequence[tuple[int, Tensor]]]
"""First name of a tensor to the axes it is cut along, with the indices that stay."""


@dataclass(frozen=True)
class AttributeChange:
    """An int of a module that says something else after surgery."""

    path: tuple[str | int, ...]
    before: int
    after: int


def cut(model: nn.Module, keep: Keep) -> tuple[nn.Module, tuple[AttributeChange, ...]]:
    """Build the smaller module; nothing is checked by running it.

    Returns:
        The module, and the attributes that were changed beside those that PyTorch's own layers
        hold for information.

    Raises:
        BoxwoodError: the units are another model's, or no attribute can make a size right.
    """
    _check_same_model(model, keep)
    labels = keep.units.kept_labels(keep.kept)
    flow = keep.units.flow
    broken = broken_targets(flow, labels)
    if broken:
        raise BoxwoodError(
            f"Expected a removal that the code can follow, got one after which a size in "
            f"{broken[0].source} would be wrong; remove as many units of each group that this "
            "line handles, or protect them."
        )
    cuts = cuts_of(keep)
    small = rebuilt(model, lambda name, tensor: sliced(tensor, cuts.get(name, ())))
    changes = attribute_changes(keep)
    for change in changes:
        set_attribute_(small, change.path, change.after)
    for module in small.modules():
        correct_attributes_(module)
    return small, changes


def attribute_changes(keep: Keep) -> tuple[AttributeChange, ...]:
    """List the ints of modules that decide sizes and have to change.

    Example:
        >>> from boxwood.graph.units import units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> attribute_changes(units(net, torch.ones(1, 4)).keep_best(0.5))
        (AttributeChange(path=('1', 'normalized_shape', 0), before=8, after=4),)
    """
    flow = keep.units.flow
    values = new_values(flow, keep.units.kept_labels(keep.kept))
    return tuple(
        AttributeChange(leaf.path, flow.trace.attributes[leaf], value)
        for leaf, value in values.items()
        if isinstance(leaf, OfAttribute) and value != flow.trace.attributes[leaf]
    )


def cuts_of(keep: Keep) -> dict[str, list[tuple[int, Tensor]]]:
    """List what stays of every tensor that loses something.

    Example:
        >>> from boxwood.graph.units import units
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
        >>> keep = Keep(units(net, torch.ones(1, 1)), np.array([False, True]))
        >>> cuts_of(keep)["1.weight"]
        [(1, tensor([1]))]
    """
    cuts: dict[str, list[tuple[int, Tensor]]] = {}
    for axis in keep.units.axes:
        stays = kept_indices(axis, keep.kept)
        if not stays.all():
            indices = torch.from_numpy(np.flatnonzero(stays))
            cuts.setdefault(axis.names[0], []).append((axis.dim, indices))
    return cuts


def sliced(tensor: Tensor, cuts: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Take what stays of a tensor; always a copy, in the tensor's memory format."""
    if not cuts:
        return tensor.clone()
    for dim, indices in cuts:
        tensor = tensor.index_select(dim, indices.to(tensor.device))
    return tensor


def mask_(tensor: Tensor, cuts: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Write zeros where a tensor loses something, in place."""
    for dim, indices in cuts:
        gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
        gone[indices] = False
        tensor.index_fill_(dim, gone.nonzero().view(-1).to(tensor.device), 0)
    return tensor


def carry_optimizer(
    optimizer: Optimizer, model: nn.Module, small: nn.Module, keep: Keep
) -> Optimizer:
    """Make the optimizer of the smaller network: the same settings, momenta cut as weights are.

    Args:
        optimizer: of the original network.
        model: the original.
        small: what `shrink` made of it.
        keep: what `shrink` was given.

    Example:
        >>> from boxwood.graph.units import units
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
        >>> keep = Keep(units(net, torch.ones(1, 1)), np.array([False, True]))
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> carry_optimizer(sgd, net, cut(net, keep)[0], keep).param_groups[0]["lr"]
        0.1
    """
    cuts = cuts_of(keep)
    first = {id(t): names[0] for names, t in named_tensors(model)}
    new = dict(small.named_parameters(remove_duplicate=False))
    names = {
        id(p): first.get(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)
    }
    groups = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise BoxwoodError(
                    f"Expected an optimizer of this model's parameters, got one that holds another "
                    f"of shape {tuple(parameter.shape)}; make it from model.parameters()."
                )
        groups.append({**group, "params": [new[names[id(p)]] for p in group["params"]]})
    made: Optimizer = type(optimizer)(groups)  # type: ignore[call-arg]
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        made.state[new[name]] = {
            key: sliced(value, cuts.get(name, ()))
            if isinstance(value, Tensor) and value.shape == parameter.shape
            else (value.clone() if isinstance(value, Tensor) else value)
            for key, value in state.items()
        }
    return made


def correct_attributes_(module: nn.Module) -> None:
    """Make the sizes that PyTorch's layers hold say what their tensors are.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> layer.weight = nn.Parameter(torch.zeros(1, 3))
        >>> correct_attributes_(layer)
        >>> layer
        Linear(in_features=3, out_features=1, bias=True)
    """
    for kind, told in _TOLD:
        if isinstance(module, kind):
            for name, value in told(module).items():
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
    told = {"input_size": m.weight_ih_l0.shape[1], "hidden_size": len(m.weight_ih_l0) // gates}
    return told | ({"proj_size": m.weight_hh_l0.shape[1]} if m.proj_size else {})


def _recurrent_cell(m: Any) -> dict[str, Any]:
    return {"input_size": m.weight_ih.shape[1], "hidden_size": m.weight_hh.shape[1]}


def _attention(m: Any) -> dict[str, Any]:
    width = m.out_proj.weight.shape[1]
    if m.in_proj_weight is not None:
        keys = values = m.in_proj_weight.shape[1]
    else:
        keys, values = m.k_proj_weight.shape[1], m.v_proj_weight.shape[1]
    return {"embed_dim": width, "head_dim": width // m.num_heads, "kdim": keys, "vdim": values}


_TOLD: tuple[tuple[Any, Any], ...] = (
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


def _check_same_model(model: nn.Module, keep: Keep) -> None:
    check_whole(dict(model.named_parameters()))
    shapes = {names[0]: tuple(tensor.shape) for names, tensor in named_tensors(model)}
    for name, shape in keep.units.shapes.items():
        if shapes.get(name) != shape:
            raise BoxwoodError(
                f"Expected the model that the units were found in, got one in which {name!r} is "
                f"{'of shape ' + str(shapes[name]) if name in shapes else 'missing'} rather than "
                f"of shape {shape}; call units() on this model."
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
