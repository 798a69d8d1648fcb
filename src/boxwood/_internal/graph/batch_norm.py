"""Re-estimate the running statistics of batch normalisation for weights that have changed."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from boxwood._internal.core.ranks import Group, add_up, size
from boxwood._internal.graph.examples import called_on_batch, moved_to
from boxwood.errors import InvalidInput


def reestimate_batch_norm_(
    network: nn.Module, batches: Iterable[Any], *, group: Group = None
) -> None:
    """Re-estimate the running statistics of all batch normalisations, as averages over all values.

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
                called_on_batch(network, moved_to(network, batch))
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
