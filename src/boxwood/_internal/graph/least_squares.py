"""Layers that lost inputs, refitted by least squares to what the original layers computed."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from boxwood._internal.core.ranks import Group, add_up, as_first_rank
from boxwood._internal.graph.rebuild import named_tensors
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.stepping import Steps
from boxwood._internal.graph.surgery import cuts_of


@dataclass(frozen=True)
class Reader:
    """A layer that lost inputs.

    Args:
        name: dotted name of the module.
        rows: outputs of the original layer that stay.
        inputs: inputs of the original layer that stay.
    """

    name: str
    rows: Tensor
    inputs: Tensor


def readers(model: nn.Module, selection: UnitSelection) -> tuple[Reader, ...]:
    """List the linear and plain convolution layers that lose inputs, and share no weight.

    What is right for one of the layers that share a weight, such as the head of a language model, is
    wrong for the other, its embedding.

    Example:
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> selection = select_units(find_units(net, torch.ones(1, 4)), 0.5)
        >>> [reader.name for reader in readers(net, selection)]
        ['2']
    """
    cuts = cuts_of(selection)
    own = {id(tensor): names[0] for names, tensor in named_tensors(model) if len(names) == 1}
    found = []
    for name, module in model.named_modules():
        plain = type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d)
        if not plain or getattr(module, "groups", 1) != 1 or _pads_oddly(module):
            continue
        weight = module._parameters.get("weight")
        if weight is None or id(weight) not in own:
            continue
        stays = dict(cuts.get(own[id(weight)], ()))
        if 1 in stays:
            rows = stays.get(0, torch.arange(weight.shape[0]))
            found.append(Reader(name, rows, stays[1]))
    return tuple(found)


def alike(network: nn.Module, groups: Iterable[list[str]]) -> Iterator[list[str]]:
    """Divide layers that read the same tensor into those that read the same rows from it.

    Example:
        >>> net = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Linear(2, 3), "c": nn.Conv1d(2, 1, 1)})
        >>> list(alike(net, [["a", "b", "c"]]))
        [['a', 'b'], ['c']]
    """
    for group in groups:
        ways = itertools.groupby(group, key=lambda name: _way(network.get_submodule(name)))
        yield from (list(several) for _, several in ways)


def _way(layer: Any) -> tuple[Any, ...]:
    """Say what `_unfolded` looks at."""
    settings = ("kernel_size", "dilation", "padding", "stride")
    return (type(layer), layer.bias is None, *(getattr(layer, each, None) for each in settings))


def refit_(
    repaired: nn.Module,
    steps: Steps,
    whole: Steps,
    group: Sequence[Reader],
    batches: int,
    ridge: float,
    ranks: Group,
) -> int:
    """Refit layers that read the same tensor: one sum over the data serves all of them.

    Args:
        repaired: the smaller network, whose weights are changed.
        steps: its calls.
        whole: calls of the original.
        group: the layers.
        batches: how many there are.
        ridge: the pull towards the old weights, over the mean square of the inputs.
        ranks: as for `compensate`.

    Returns:
        How many rows of data there were.
    """
    names = [reader.name for reader in group]
    layers: list[Any] = [repaired.get_submodule(name) for name in names]
    size = width_of(layers[0])
    old = [_as_matrix(layer) for layer in layers]
    gram = old[0].new_zeros(size, size)
    rows_of = [reader.rows.to(gram.device) for reader in group]
    cross = [torch.zeros_like(each) for each in old]
    count = 0
    for batch in range(batches):
        ours, theirs = steps.calls(names, batch), whole.calls(names, batch)
        for call, (x, _) in enumerate(ours[names[0]]):
            rows = _unfolded(layers[0], x).double()
            gram += rows.T @ rows
            count += len(rows)
            for name, kept, layer, weights, total in zip(
                names, rows_of, layers, old, cross, strict=True
            ):
                y = theirs[name][call][1]
                channel = -1 if isinstance(layer, nn.Linear) else 1 - layer.weight.dim() + y.dim()
                wanted = y.movedim(channel, -1).reshape(-1, y.shape[channel]).double()
                total += rows.T @ (wanted[:, kept] - rows @ weights)
    sums, count = add_up({"gram": gram, "cross": torch.cat(cross, 1)}, count, ranks)
    penalty = ridge * float(sums["gram"].diagonal().mean()) + 1e-12
    regular = sums["gram"] + penalty * torch.eye(size, dtype=gram.dtype, device=gram.device)
    change = as_first_rank(torch.linalg.solve(regular, sums["cross"]), ranks)
    sizes = [total.shape[1] for total in cross]
    for layer, weights, part in zip(layers, old, change.split(sizes, 1), strict=True):
        made = (weights + part).T
        if not bool(torch.isfinite(made).all()):
            continue
        if layer.bias is not None:
            layer.bias.copy_(made[:, -1])
            made = made[:, :-1]
        layer.weight.copy_(made.reshape(layer.weight.shape))
    return count


def fold_mean_(
    original: nn.Module,
    repaired: nn.Module,
    whole: Steps,
    reader: Reader,
    batches: int,
    ranks: Group,
) -> None:
    """Add what removed inputs were on average to the bias.

    Args:
        original: the whole network.
        repaired: the smaller network, whose bias is changed.
        whole: calls of the original.
        reader: the layer.
        batches: how many there are.
        ranks: as for `compensate`.
    """
    layer: Any = repaired.get_submodule(reader.name)
    wide: Any = original.get_submodule(reader.name)
    if layer.bias is None:
        return
    weight = wide.weight.detach().double()
    total, count = weight.new_zeros(weight.shape[1]), 0
    for batch in range(batches):
        for x, _ in whole.calls([reader.name], batch)[reader.name]:
            channel = -1 if isinstance(wide, nn.Linear) else 1 - wide.weight.dim() + x.dim()
            flat = x.movedim(channel, -1).reshape(-1, x.shape[channel])
            total += flat.double().sum(0)
            count += len(flat)
    sums, count = add_up({"total": total}, count, ranks)
    mean = sums["total"] / max(count, 1)
    mean[reader.inputs.to(mean.device)] = 0
    kept = weight[reader.rows.to(weight.device)]
    kept = kept.flatten(2).sum(2) if kept.dim() > 2 else kept
    layer.bias.add_((kept @ mean).to(layer.bias))


def width_of(layer: Any) -> int:
    """Count the unknowns of one output of a layer: its weights, and the bias.

    Example:
        >>> width_of(nn.Linear(4, 2))
        5
    """
    return int(layer.weight[0].numel() + (layer.bias is not None))


def _as_matrix(layer: Any) -> Tensor:
    """Weights as [inputs (, 1 for the bias), outputs]."""
    flat = layer.weight.detach().flatten(1).double()
    if layer.bias is not None:
        flat = torch.cat([flat, layer.bias.detach().double()[:, None]], 1)
    return torch.transpose(flat, 0, 1)


def _unfolded(layer: Any, x: Tensor) -> Tensor:
    """Inputs as rows, one for each output position."""
    if isinstance(layer, nn.Linear):
        rows = x.reshape(-1, x.shape[-1])
    else:
        flat = isinstance(layer, nn.Conv1d)
        x = x.unsqueeze(0) if x.dim() == layer.weight.dim() - 1 else x
        x = x.unsqueeze(2) if flat else x

        def pair(size: Sequence[int], other: int) -> tuple[int, ...]:
            return (other, *size) if flat else tuple(size)

        columns = F.unfold(
            x,
            pair(layer.kernel_size, 1),
            dilation=pair(layer.dilation, 1),
            padding=pair(layer.padding, 0),
            stride=pair(layer.stride, 1),
        )
        rows = columns.transpose(1, 2).reshape(-1, columns.shape[1])
    if layer.bias is not None:
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
    return rows


def _pads_oddly(module: Any) -> bool:
    return isinstance(module, nn.Conv1d | nn.Conv2d) and (
        module.padding_mode != "zeros" or isinstance(module.padding, str)
    )
