"""Make up for what was removed: refit the layers that read it, and re-estimate batch statistics."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.core.placement import check_whole
from boxwood._internal.core.ranks import (
    Group,
    add_up,
    all_or_none,
    as_first_rank,
    check_alike,
    size,
)
from boxwood._internal.graph.examples import called, inputs_like, moved_to, tensors_of
from boxwood._internal.graph.rebuild import named_tensors, rebuilt
from boxwood._internal.graph.reparametrised import assignable, baked, filled
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.stepping import Steps
from boxwood._internal.graph.surgery import cuts_of
from boxwood.errors import BoxwoodError, InvalidInput

_LARGEST_GRAM = 6000

Watch = Callable[[int, int], None]
"""Is told how many layers are done, and of how many."""


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


def compensate(
    model: nn.Module,
    small: nn.Module,
    selection: UnitSelection,
    batches: Iterable[Any],
    *,
    refit: bool = True,
    ridge: float = 1e-4,
    batch_norm: bool = True,
    watch: Watch | None = None,
    group: Group = None,
) -> nn.Module:
    """Refit the layers that lost inputs to unlabelled data, and return the repaired network.

    Layer by layer from the input side, the weights of each reading layer become

        argmin over W of Σ ‖W x - y‖² + λ ‖W - W₀‖²

    where ``x`` is what the already repaired small network really feeds the layer, ``y`` what the
    original layer computed from its whole input, and ``W₀`` the weights that surgery left. Then
    the running statistics of batch normalisations are taken anew.

    Args:
        model: the original.
        small: what `shrink` made of it; it is not changed.
        selection: what `shrink` was given.
        batches: a few hundred examples, in batches as `find_units` takes them, or as a DataLoader gives
            them: what follows the inputs, such as targets, is not looked at. They are moved to the
            network's device.
        refit: False adds only the mean of what was removed to the next bias.
        ridge: λ over the mean square of the inputs.
        batch_norm: re-estimate running means and variances.
        watch: told how many layers are done, and of how many.
        group: ranks of ``torch.distributed`` that hold this network, each with batches of its own,
            as for `boxwood.find_masks`; all get the same repaired network.

    Raises:
        InvalidInput: no batches, one that has not the inputs of the example or on which the
            network fails, none with several values for a batch normalisation, or ridge is negative;
            or ranks hold different weights.

    Example:
        >>> import numpy as np
        >>> from boxwood._internal.graph.ranking import best_units
        >>> from boxwood._internal.graph.units import find_units
        >>> from boxwood._internal.graph.equivalence import shrink
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> selection = best_units(find_units(net, x), np.arange(8.0), 0.5)
        >>> small = shrink(net, selection)
        >>> better = compensate(net, small, selection, [x])
        >>> bool((better(x) - net(x)).square().mean() < (small(x) - net(x)).square().mean())
        True

    Source: He, Zhang and Sun (2017), section 3.1, for refitting a layer to the outputs of the
    original.
    Differs from the paper: every layer that lost inputs is refitted in one pass in order, from
    what the repaired network produces, with a pull towards the old weights.
    """
    how = _How(refit, ridge, batch_norm, watch, group)
    weights = dict(model.named_parameters())
    check_whole(weights)
    weights |= {f"small.{name}": parameter for name, parameter in small.named_parameters()}
    with all_or_none(group):
        check_alike(weights, "weights", "load the same ones on every rank first", group)
        return _repaired(model, small, selection, batches, how)


@dataclass(frozen=True)
class _How:
    """Settings of `compensate`."""

    refit: bool
    ridge: float
    batch_norm: bool
    watch: Watch | None
    ranks: Group


def _repaired(
    model: nn.Module, small: nn.Module, selection: UnitSelection, batches: Iterable[Any], how: _How
) -> nn.Module:
    data = [moved_to(small, inputs_like(selection.units.example, batch)) for batch in batches]
    if not data:
        raise InvalidInput("Expected batches of inputs, got none; give a few hundred examples.")
    if how.ridge < 0:
        raise InvalidInput(f"Expected ridge of at least 0, got {how.ridge}; it is a penalty.")
    whole_model, plain = baked(model), baked(small)  # what is refitted are effective weights
    repaired = rebuilt(plain, lambda _, tensor: tensor.clone()).eval()
    original = rebuilt(whole_model, lambda _, tensor: tensor, isolated=True).eval()
    devices = devices_of((*model.parameters(), *model.buffers()))
    with torch.no_grad(), own_random_numbers(devices):
        found = {reader.name: reader for reader in readers(whole_model, selection)}
        for name in list(found):
            if not all(assignable(small, f"{name}.{each}") for each in ("weight", "bias")):
                del found[name]
        steps, whole = (Steps(net, data, list(found), _call) for net in (repaired, original))
        order = steps.order
        for group in _alike(repaired, steps.together(order)):
            if how.watch is not None:
                how.watch(order.index(group[0]), len(order))
            several = [found[name] for name in group]
            if how.refit and _width(repaired.get_submodule(group[0])) <= _LARGEST_GRAM:
                _refit_(repaired, steps, whole, several, len(data), how)
            else:
                for reader in several:
                    _fold_mean_(original, repaired, whole, reader, len(data), how.ranks)
        if how.batch_norm:
            reestimate_batch_norm_(repaired, data, group=how.ranks)
    for mine, theirs in zip(repaired.modules(), plain.modules(), strict=True):
        mine.training = theirs.training
    return repaired if plain is small else filled(small, repaired)


def _alike(network: nn.Module, groups: Iterable[list[str]]) -> Iterator[list[str]]:
    """Divide layers that read the same tensor into those that read the same rows from it."""
    for group in groups:
        ways = itertools.groupby(group, key=lambda name: _way(network.get_submodule(name)))
        yield from (list(several) for _, several in ways)


def _way(layer: Any) -> tuple[Any, ...]:
    """Say what `_unfolded` looks at."""
    settings = ("kernel_size", "dilation", "padding", "stride")
    return (type(layer), layer.bias is None, *(getattr(layer, each, None) for each in settings))


def readers(model: nn.Module, selection: UnitSelection) -> tuple[Reader, ...]:
    """List the linear and plain convolution layers that lose inputs, and share no weight.

    What is right for one of the layers that share a weight, such as the head of a language model, is
    wrong for the other, its embedding.

    Example:
        >>> import numpy as np
        >>> from boxwood._internal.graph.ranking import best_units
        >>> from boxwood._internal.graph.units import find_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> selection = best_units(find_units(net, torch.ones(1, 4)), np.arange(8.0), 0.5)
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


def reestimate_batch_norm_(
    network: nn.Module, batches: Sequence[Any], *, group: Group = None
) -> None:
    """Take the running statistics of all batch normalisations anew, as averages over all values.

    Args:
        network: any module.
        batches: as it takes them, on any device.
        group: as for `compensate`.

    Raises:
        InvalidInput: a batch normalisation saw no batch with more than one value for each channel.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm1d(1))
        >>> reestimate_batch_norm_(net, [torch.tensor([[1.0], [3.0]])])
        >>> net[0].running_mean
        tensor([2.])
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    before = [(norm, norm.training, norm.momentum) for norm in norms]
    seen: dict[nn.Module, int] = {}

    def weigh(norm: Any, args: Any, kwargs: Any) -> None:
        """Let each value count alike, whatever the size of its batch; one alone has no variance."""
        x = args[0] if args else kwargs["input"]
        count = x.numel() // x.shape[1]
        if norm not in seen:  # one that no call reaches keeps its statistics
            norm.reset_running_stats()
        norm.training = count > 1
        seen[norm] = seen.get(norm, 0) + count * norm.training
        if norm.training:
            norm.momentum = count / seen[norm]

    hooks = [norm.register_forward_pre_hook(weigh, with_kwargs=True) for norm in norms]
    try:
        with torch.no_grad():
            for batch in batches if norms else ():
                _call(network, moved_to(network, batch))
    finally:
        for hook in hooks:
            hook.remove()
        for norm, training, momentum in before:
            norm.training, norm.momentum = training, momentum
    _pool_statistics_(norms, seen, group)
    if 0 in seen.values():
        raise InvalidInput(
            "Expected batches with more than one value for each channel of a batch normalisation, "
            "got only single ones, which have no variance; give larger batches."
        )


def _pool_statistics_(norms: Sequence[Any], seen: dict[nn.Module, int], ranks: Group) -> None:
    """Average statistics over the ranks; each counts by the values that it has seen."""
    for norm in norms if size(ranks) > 1 else ():
        count = seen.get(norm, 0)
        mine = {"mean": norm.running_mean * count, "variance": norm.running_var * count}
        sums, total = add_up(mine, count, ranks)
        if total:
            norm.running_mean.copy_(sums["mean"] / total)
            norm.running_var.copy_(sums["variance"] / total)
            seen[norm] = total


def _refit_(
    repaired: nn.Module,
    steps: Steps,
    whole: Steps,
    group: Sequence[Reader],
    batches: int,
    how: _How,
) -> None:
    """Refit layers that read the same tensor: one sum over the data serves all of them."""
    names = [reader.name for reader in group]
    layers: list[Any] = [repaired.get_submodule(name) for name in names]
    width = _width(layers[0])
    gram = torch.zeros(width, width, dtype=torch.float64)
    old = [_as_matrix(layer) for layer in layers]
    cross = [torch.zeros_like(each) for each in old]
    for batch in range(batches):
        ours, theirs = steps.calls(names, batch), whole.calls(names, batch)
        for call, (x, _) in enumerate(ours[names[0]]):
            rows = _unfolded(layers[0], x).double().cpu()
            gram += rows.T @ rows
            for reader, layer, weights, total in zip(group, layers, old, cross, strict=True):
                y = theirs[reader.name][call][1]
                channel = -1 if isinstance(layer, nn.Linear) else 1 - layer.weight.dim() + y.dim()
                wanted = y.movedim(channel, -1).reshape(-1, y.shape[channel]).double().cpu()
                total += rows.T @ (wanted[:, reader.rows] - rows @ weights)
    sums, _ = add_up({"gram": gram, "cross": torch.cat(cross, 1)}, 0, how.ranks)
    penalty = how.ridge * float(sums["gram"].diagonal().mean()) + 1e-12
    regular = sums["gram"] + penalty * torch.eye(width, dtype=torch.float64)
    change = as_first_rank(torch.linalg.solve(regular, sums["cross"]), how.ranks)
    sizes = [total.shape[1] for total in cross]
    for layer, weights, part in zip(layers, old, change.split(sizes, 1), strict=True):
        made = (weights + part).T
        if not bool(torch.isfinite(made).all()):
            continue
        if layer.bias is not None:
            layer.bias.copy_(made[:, -1])
            made = made[:, :-1]
        layer.weight.copy_(made.reshape(layer.weight.shape))


def _fold_mean_(
    original: nn.Module,
    repaired: nn.Module,
    whole: Steps,
    reader: Reader,
    batches: int,
    ranks: Group,
) -> None:
    """Add what removed inputs were on average to the bias."""
    layer: Any = repaired.get_submodule(reader.name)
    wide: Any = original.get_submodule(reader.name)
    if layer.bias is None:
        return
    total, count = torch.zeros(wide.weight.shape[1], dtype=torch.float64), 0
    for batch in range(batches):
        for x, _ in whole.calls([reader.name], batch)[reader.name]:
            channel = -1 if isinstance(wide, nn.Linear) else 1 - wide.weight.dim() + x.dim()
            flat = x.movedim(channel, -1).reshape(-1, x.shape[channel])
            total += flat.double().sum(0).cpu()
            count += len(flat)
    sums, count = add_up({"total": total}, count, ranks)
    mean = sums["total"] / max(count, 1)
    mean[reader.inputs] = 0
    weight = wide.weight.double().cpu()[reader.rows].flatten(2).sum(2) if (
        wide.weight.dim() > 2
    ) else wide.weight.double().cpu()[reader.rows]  # fmt: skip
    layer.bias.add_((weight @ mean).to(layer.bias))


def _width(layer: Any) -> int:
    return int(layer.weight[0].numel() + (layer.bias is not None))


def _as_matrix(layer: Any) -> Tensor:
    """Weights as [inputs (, 1 for the bias), outputs]."""
    flat = layer.weight.detach().flatten(1).double().cpu()
    if layer.bias is not None:
        flat = torch.cat([flat, layer.bias.detach().double().cpu()[:, None]], 1)
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


def _call(network: nn.Module, batch: Any) -> Any:
    try:
        return called(network, batch)
    except BoxwoodError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(each.shape)) for each in tensors_of(batch)) or "no tensor"
        raise InvalidInput(
            f"Expected batches that the network takes, got one of {shapes}, on which it fails "
            f"({type(error).__name__}: {error}); leave it out, or give inputs as find_units() took them."
        ) from error
