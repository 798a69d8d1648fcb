"""Groups of weights in sharded tensors: chosen shard by shard, with the same result as in the whole tensor."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.core.shards import (
    indices_held,
    is_distributed,
    local,
    on_parts,
    places_of_cuts,
    wrapped,
)
from boxwood.errors import InvalidInput


def over_shards(granularity: Granularity) -> Granularity:
    """Let a granularity see the parts of ``DTensor`` tensors; plain ones it sees as before.

    Example:
        >>> import torch
        >>> over_shards(Elements()).pool(torch.ones(2))
        tensor([1., 1.])
    """
    return (
        granularity if isinstance(granularity, Elements | _OverShards) else _OverShards(granularity)
    )


@dataclass(frozen=True)
class _OverShards:
    """A granularity whose groups lie whole in the shards of every rank.

    Args:
        inner: says by ``may_cut`` where a tensor may be cut; one that does not say cuts nowhere.
    """

    inner: Granularity

    def pool(self, scores: Tensor) -> Tensor:
        """One score per group."""
        self._check(scores)
        return on_parts(self.inner.pool, scores)

    def alive(self, mask: Tensor) -> Tensor:
        """Which groups a mask leaves anything of."""
        self._check(mask)
        return on_parts(self.inner.alive, mask)

    def rank(self, pooled: Tensor, alive: Tensor | None) -> Tensor:
        """What selection goes by."""
        if alive is None:
            return on_parts(lambda scores: self.inner.rank(scores, None), pooled)
        return on_parts(self.inner.rank, pooled, alive)

    def spread(self, decisions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Bool decisions per group to a bool mask."""
        if not is_distributed(decisions):
            return self.inner.spread(decisions, shape)
        part, held = local(decisions), tuple(map(len, indices_held(decisions, shape)))
        mask = self.inner.spread(part, held) if part.numel() else part.new_empty(held)
        return wrapped(mask, decisions, shape)

    def _check(self, tensor: Tensor) -> None:
        may_cut: Any = getattr(self.inner, "may_cut", None)
        for dim, place in places_of_cuts(tensor):
            if may_cut is None or not may_cut(tuple(tensor.shape), dim, place):
                raise InvalidInput(
                    f"Expected groups of {type(self.inner).__name__} that lie whole in one shard, got a tensor of "
                    f"shape {tuple(tensor.shape)} that is cut before index {place} of dimension "
                    f"{dim}; decide masks before the network is sharded (they can be bound to its "
                    f"shards afterwards), or shard it along another dimension."
                )
