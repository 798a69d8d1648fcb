"""Make up for what was removed: refit the layers that read it, and re-estimate batch statistics."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from boxwood.core.errors import BoxwoodError
from boxwood.core.generators import devices_of, own_random_numbers
from boxwood.graph.copying import named_tensors, rebuilt
from boxwood.graph.examples import called, inputs_like, moved_to, tensors_of
from boxwood.graph.keep import Keep
from boxwood.graph.surgery import cuts_of

_LARGEST_GRAM = 6000


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
    keep: Keep,
    batches: Iterable[Any],
    *,
    refit: bool = True,
    ridge: float = 1e-4,
    batch_norm: bool = True,
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
        keep: what `shrink` was given.
        batches: a few hundred examples, in batches as `units` takes them, or as a DataLoader gives
            them: what follows the inputs, such as targets, is not looked at. They are moved to the
            network's device.
        refit: False adds only the mean of what was removed to the next bias.
        ridge: λ over the mean square of the inputs.
        batch_norm: re-estimate running means and variances.

    Raises:
        BoxwoodError: no batches, one that has not the inputs of the example or on which the
            network fails, none with several values for a batch normalisation, or ridge is negative.

    Example:
        >>> import numpy as np
        >>> from boxwood.graph.keep import keep_best
        >>> from boxwood.graph.units import units
        >>> from boxwood.graph.verify import shrink
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> keep = keep_best(units(net, x), np.arange(8.0), 0.5)
        >>> small = shrink(net, keep)
        >>> better = compensate(net, small, keep, [x])
        >>> bool((better(x) - net(x)).square().mean() < (small(x) - net(x)).square().mean())
        True

    Source: He, Zhang and Sun (2017), section 3.1, for refitting a layer to the outputs of the
    original.
    Differs from the paper: every layer that lost inputs is refitted in one pass in order, from
    what the repaired network produces, with a pull towards the old weights.
    """
    data = [moved_to(small, inputs_like(keep.units.example, batch)) for batch in batches]
    if not data:
        raise BoxwoodError("Expected batches of inputs, got none; give a few hundred examples.")
    if ridge < 0:
        raise BoxwoodError(f"Expected ridge of at least 0, got {ridge}; it is a penalty.")
    repaired = rebuilt(small, lambda _, tensor: tensor.clone())
    repaired.eval()
    original = rebuilt(model, lambda _, tensor: tensor, isolated=True)
    original.eval()
    devices = devices_of((*model.parameters(), *model.buffers()))
    with torch.no_grad(), own_random_numbers(devices):
        for reader in _in_order(readers(model, keep), repaired, data[0]):
            if refit:
                _refit_(original, repaired, reader, data, ridge)
            else:
                _fold_mean_(original, repaired, reader, data)
        if batch_norm:
            reestimate_batch_norm_(repaired, data)
    for mine, theirs in zip(repaired.modules(), small.modules(), strict=True):
        mine.training = theirs.training
    return repaired


def readers(model: nn.Module, keep: Keep) -> tuple[Reader, ...]:
    """List the linear and plain convolution layers that lose inputs.

    Example:
        >>> import numpy as np
        >>> from boxwood.graph.keep import keep_best
        >>> from boxwood.graph.units import units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> keep = keep_best(units(net, torch.ones(1, 4)), np.arange(8.0), 0.5)
        >>> [reader.name for reader in readers(net, keep)]
        ['2']
    """
    cuts = cuts_of(keep)
    first = {id(tensor): names[0] for names, tensor in named_tensors(model)}
    found = []
    for name, module in model.named_modules():
        plain = type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d)
        if not plain or getattr(module, "groups", 1) != 1 or _pads_oddly(module):
            continue
        weight = module._parameters.get("weight")
        if weight is None:
            continue
        stays = dict(cuts.get(first[id(weight)], ()))
        if 1 in stays:
            rows = stays.get(0, torch.arange(weight.shape[0]))
            found.append(Reader(name, rows, stays[1]))
    return tuple(found)


def reestimate_batch_norm_(network: nn.Module, batches: Sequence[Any]) -> None:
    """Take the running statistics of all batch normalisations anew, as averages over all values.

    Raises:
        BoxwoodError: a batch normalisation saw no batch with more than one value for each channel.

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
                _call(network, batch)
    finally:
        for hook in hooks:
            hook.remove()
        for norm, training, momentum in before:
            norm.training, norm.momentum = training, momentum
    if 0 in seen.values():
        raise BoxwoodError(
            "Expected batches with more than one value for each channel of a batch normalisation, "
            "got only single ones, which have no variance; give larger batches."
        )


def _refit_(
    original: nn.Module, repaired: nn.Module, reader: Reader, data: Sequence[Any], ridge: float
) -> None:
    layer: Any = repaired.get_submodule(reader.name)
    whole: Any = original.get_submodule(reader.name)
    width = layer.weight[0].numel() + (layer.bias is not None)
    if width > _LARGEST_GRAM:
        _fold_mean_(original, repaired, reader, data)
        return
    gram = torch.zeros(width, width, dtype=torch.float64)
    cross = torch.zeros(width, len(reader.rows), dtype=torch.float64)
    old = _as_matrix(layer)
    for batch in data:
        for (x, _), (_, y) in zip(
            _calls(repaired, layer, batch), _calls(original, whole, batch), strict=True
        ):
            rows = _unfolded(layer, x).double().cpu()
            channel = -1 if isinstance(layer, nn.Linear) else 1 - layer.weight.dim() + y.dim()
            wanted = y.movedim(channel, -1).reshape(-1, y.shape[channel]).double().cpu()
            gram += rows.T @ rows
            cross += rows.T @ (wanted[:, reader.rows] - rows @ old)
    penalty = ridge * float(gram.diagonal().mean()) + 1e-12
    change = torch.linalg.solve(gram + penalty * torch.eye(width, dtype=torch.float64), cross)
    made = (old + change).T
    if not bool(torch.isfinite(made).all()):
        return
    if layer.bias is not None:
        layer.bias.copy_(made[:, -1])
        made = made[:, :-1]
    layer.weight.copy_(made.reshape(layer.weight.shape))


def _fold_mean_(
    original: nn.Module, repaired: nn.Module, reader: Reader, data: Sequence[Any]
) -> None:
    """Add what removed inputs were on average to the bias."""
    layer: Any = repaired.get_submodule(reader.name)
    whole: Any = original.get_submodule(reader.name)
    if layer.bias is None:
        return
    total, count = torch.zeros(whole.weight.shape[1], dtype=torch.float64), 0
    for batch in data:
        for x, _ in _calls(original, whole, batch):
            channel = -1 if isinstance(whole, nn.Linear) else 1 - whole.weight.dim() + x.dim()
            flat = x.movedim(channel, -1).reshape(-1, x.shape[channel])
            total += flat.double().sum(0).cpu()
            count += len(flat)
    mean = total / max(count, 1)
    mean[reader.inputs] = 0
    weight = whole.weight.double().cpu()[reader.rows].flatten(2).sum(2) if (
        whole.weight.dim() > 2
    ) else whole.weight.double().cpu()[reader.rows]  # fmt: skip
    layer.bias.add_((weight @ mean).to(layer.bias))


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


def _calls(network: nn.Module, layer: nn.Module, batch: Any) -> list[tuple[Tensor, Tensor]]:
    """Inputs and outputs of every call of a layer in one pass."""
    seen: list[tuple[Tensor, Tensor]] = []
    with _watching(layer, lambda x, y: seen.append((x, y))):
        _call(network, batch)
    return seen


@contextmanager
def _watching(layer: nn.Module, see: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    hook = layer.register_forward_hook(
        lambda _, args, kwargs, y: see(args[0] if args else kwargs["input"], y), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()


def _in_order(found: Sequence[Reader], network: nn.Module, batch: Any) -> list[Reader]:
    """Sort layers by their first call; those that are never called are left out."""
    order: list[str] = []
    hooks = [
        network.get_submodule(reader.name).register_forward_pre_hook(
            lambda _, args, name=reader.name: order.append(name)  # noqa: ARG005
        )
        for reader in found
    ]
    try:
        _call(network, batch)
    finally:
        for hook in hooks:
            hook.remove()
    by_name = {reader.name: reader for reader in found}
    return [by_name[name] for name in dict.fromkeys(order)]


def _call(network: nn.Module, batch: Any) -> Any:
    try:
        return called(network, batch)
    except BoxwoodError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(each.shape)) for each in tensors_of(batch)) or "no tensor"
        raise BoxwoodError(
            f"Expected batches that the network takes, got one of {shapes}, on which it fails "
            f"({type(error).__name__}: {error}); leave it out, or give inputs as units() took them."
        ) from error
