"""Granularity: which weights are kept or pruned together, and which compete with each other."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from boxwood._internal.core.arguments import described
from boxwood.errors import InvalidInput

_SHORT = 8  # numbers in a row that are compared pair by pair


class Granularity(Protocol):
    """Groups of weights: it turns scores of weights into scores of groups, and chosen groups into masks.

    A granularity with a method ``may_cut(shape, dim, place)`` also works on sharded tensors. It
    returns True if a cut before that index of the dimension splits no group.
    """

    def pool(self, scores: Tensor) -> Tensor:
        """One score per group, any shape: what an allocation counts."""
        ...

    def alive(self, mask: Tensor) -> Tensor:
        """Which groups a mask leaves anything of, bool, shaped as `pool` shapes scores."""
        ...

    def rank(self, pooled: Tensor, alive: Tensor | None) -> Tensor:
        """What selection goes by: the pooled scores, or how they stand among their rivals."""
        ...

    def spread(self, decisions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Bool decisions per group to a bool mask of ``shape``."""
        ...


@dataclass(frozen=True)
class Elements:
    """Every weight is its own group.

    Example:
        >>> Elements().pool(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    def pool(self, scores: Tensor) -> Tensor:
        """Return the scores as they are."""
        return scores

    def alive(self, mask: Tensor) -> Tensor:
        """Return the mask as it is."""
        return mask

    def rank(self, pooled: Tensor, alive: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the scores as they are."""
        return pooled

    def spread(self, decisions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the decisions as they are, in ``shape``."""
        return decisions if decisions.shape == shape else decisions.view(shape)


def check_granularity(granularity: object) -> None:
    """Refuse what is no granularity, such as the name of one.

    Raises:
        InvalidInput: it is none.

    Example:
        >>> check_granularity("2:4")
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a granularity, got '2:4'; give one such as Elements(), PerRow() or NofM(2, 4) of boxwood.granularity.
    """
    if isinstance(granularity, type) or not hasattr(granularity, "pool"):
        raise InvalidInput(
            f"Expected a granularity, got {described(granularity)}; give one such as Elements(), "
            f"PerRow() or NofM(2, 4) of boxwood.granularity."
        )


def pool_within(granularity: Granularity, scores: Tensor, mask: Tensor | None) -> Tensor:
    """Pool scores so that what is pruned already has no part in its group's score.

    Example:
        >>> mask = torch.tensor([[True, False]])
        >>> pool_within(Slices(pooling=total), torch.tensor([[1.0, 3.0]]), mask)
        tensor([[1.]])
    """
    if mask is None or isinstance(granularity, Elements):
        return granularity.pool(scores)
    return granularity.pool(scores.masked_fill(~mask, 0))


Pooling = Callable[[Tensor, tuple[int, ...]], Tensor]
"""Scores and the dimensions to pool over, which stay with size 1."""


def mean(scores: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Pool by the mean, so that large and small groups can be compared.

    Example:
        >>> mean(torch.tensor([[1.0, 3.0]]), (1,))
        tensor([[2.]])
    """
    return scores.mean(dims, keepdim=True)


def total(scores: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Pool by the sum: for scores that are parts of one quantity, such as changes of the loss.

    Example:
        >>> total(torch.tensor([[1.0, 3.0]]), (1,))
        tensor([[4.]])
    """
    return scores.sum(dims, keepdim=True)


def largest(scores: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Pool by the maximum.

    Example:
        >>> largest(torch.tensor([[1.0, 3.0]]), (1,))
        tensor([[3.]])
    """
    return scores.amax(dims, keepdim=True)


@dataclass(frozen=True)
class Slices:
    """All weights with the same index in some dimensions form one group.

    Args:
        dims: the dimensions that index the groups: (0,) for filters and rows, (1,) for input
            channels and columns, (0, 1) for the kernels of a convolution.
        pooling: how the scores of weights are combined to the score of the group.

    Example:
        >>> Slices().pool(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
        tensor([[2.],
                [5.]])

    Source: Li, Kadav, Durdanovic, Samet and Graf (2017), section 3.1: filters by their L1 norm is
    `magnitude` with ``Slices(pooling=total)``.
    """

    dims: tuple[int, ...] = (0,)
    pooling: Pooling = mean

    def pool(self, scores: Tensor) -> Tensor:
        """Pool over the other dimensions."""
        others = self._others(scores.dim())
        return self.pooling(scores, others) if others else scores

    def alive(self, mask: Tensor) -> Tensor:
        """Find the slices with a weight in them."""
        others = self._others(mask.dim())
        return mask.amax(others, keepdim=True) if others else mask

    def rank(self, pooled: Tensor, alive: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the scores as they are."""
        return pooled

    def spread(self, decisions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Give every weight the decision of its slice."""
        return decisions.expand(shape).clone()

    def may_cut(self, shape: tuple[int, ...], dim: int, place: int) -> bool:  # noqa: ARG002
        """Say whether slices stay whole: those along a dimension that indexes them."""
        return dim in self.dims

    def _others(self, dims: int) -> tuple[int, ...]:
        if not self.dims or not all(0 <= dim < dims for dim in self.dims):
            raise InvalidInput(
                f"Expected slices along dimensions of a tensor with {dims}, got dims={self.dims}; "
                f"leave such tensors out with layers=, or name other dimensions."
            )
        return tuple(dim for dim in range(dims) if dim not in self.dims)


@dataclass(frozen=True)
class PerRow:
    """Weights compete only within their output row, so every row keeps the same number.

    If a tensor's count is not a multiple of its rows, the first rows keep one more.

    Example:
        >>> from boxwood import find_masks
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 3.0], [9.0, 8.0]]))
        >>> find_masks(net, 0.5, granularity=PerRow())
        {'weight': tensor([[False,  True],
                [ True, False]])}

    Source: Sun, Liu, Bair and Kolter (2024), section 3: the comparison group of Wanda.
    """

    def pool(self, scores: Tensor) -> Tensor:
        """Return the scores as they are: rows share what an allocation gives the tensor."""
        return scores

    def alive(self, mask: Tensor) -> Tensor:
        """Return the mask as it is."""
        return mask

    def rank(self, pooled: Tensor, alive: Tensor | None) -> Tensor:
        """Return each weight's standing in its row: 1 for the best, 1/n for the last of n."""
        return _standing(_lowered(pooled, alive).flatten(1)).view(pooled.shape)

    def may_cut(self, shape: tuple[int, ...], dim: int, place: int) -> bool:  # noqa: ARG002
        """Say whether rows stay whole."""
        return dim == 0

    def spread(self, decisions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the decisions as they are, in ``shape``."""
        return decisions.view(shape)


@dataclass(frozen=True)
class NofM:
    """Keep the n highest of every m consecutive *input* weights, as sparse tensor cores require.

    Here n counts what is **kept**: ``NofM(2, 4)`` is 2:4, and 1:4 is sparser than 2:4. (Some
    libraries count what is zeroed.) Consecutive along the weight's second dimension: the inputs of
    a linear layer; the input channels of a convolution, at each kernel position by itself. The
    sparsity is always ``1 - n/m``.

    Args:
        n: how many stay.
        m: out of how many.

    Raises:
        InvalidInput: not ``0 < n < m``; a tensor whose second dimension is no multiple of m; or
            another sparsity is asked for.

    Example:
        >>> grouped = NofM(2, 4)
        >>> grouped.pool(torch.tensor([[4.0, 1.0, 3.0, 2.0]]))
        tensor([[1.0000, 0.2500, 0.7500, 0.5000]])

    Source: Mishra et al. (2021), section 3.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise InvalidInput(
                f"Expected to keep n of m weights with 0 < n < m, got n={self.n}, m={self.m}; "
                f"n counts the kept ones: NofM(2, 4) for 2:4."
            )

    def pool(self, scores: Tensor) -> Tensor:
        """Turn scores into standings within each m, which are the same in every tensor."""
        return self._undo(_standing(self._grouped(scores)), scores.shape)

    def alive(self, mask: Tensor) -> Tensor:
        """Return the mask as it is."""
        return mask

    def rank(self, pooled: Tensor, alive: Tensor | None) -> Tensor:
        """Put what is pruned last in its m."""
        return pooled if alive is None else self.pool(_lowered(pooled, alive))

    def spread(self, decisions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the decisions in ``shape``, once it is clear that each m keeps n."""
        mask = decisions.view(shape)
        if not bool((self._grouped(mask).sum(1) == self.n).all()):
            raise InvalidInput(
                f"Expected a sparsity of {1 - self.n / self.m:g} with {self.n}:{self.m}, which "
                f"keeps {self.n} of every {self.m} weights, got masks that keep "
                f"{int(mask.sum())} of {mask.numel()}; ask for that sparsity, with allocation=uniform, "
                f"starting from masks that leave {self.n} in every {self.m}."
            )
        return mask

    def may_cut(self, shape: tuple[int, ...], dim: int, place: int) -> bool:  # noqa: ARG002
        """Say whether each m stays whole."""
        return dim != 1 or place % self.m == 0

    def _grouped(self, tensor: Tensor) -> Tensor:
        if tensor.dim() < 2 or tensor.shape[1] % self.m:
            raise InvalidInput(
                f"Expected tensors whose second dimension is a multiple of {self.m} for "
                f"{self.n}:{self.m}, got shape {tuple(tensor.shape)}; leave it out with layers=."
            )
        return tensor.movedim(1, -1).reshape(-1, self.m)

    def _undo(self, grouped: Tensor, shape: torch.Size) -> Tensor:
        return grouped.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def _lowered(scores: Tensor, alive: Tensor | None) -> Tensor:
    """Put what is pruned already after everything else."""
    return scores if alive is None else scores.masked_fill(~alive, -math.inf)


def _standing(rows: Tensor) -> Tensor:
    """Per row, 1 for the highest, then down in steps of 1/n; of equals, the first is higher."""
    count = rows.shape[1]
    if count <= _SHORT:
        return (count - _ahead(rows).float()) / count
    order = rows.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(count, 0, -1, dtype=torch.float32, device=rows.device) / count
    standing = torch.empty(order.shape, dtype=torch.float32, device=rows.device)
    return standing.scatter_(1, order, places.expand_as(order))


def _ahead(rows: Tensor) -> Tensor:
    """Count what comes before each, which for short rows is several times as fast as sorting."""
    columns = rows.unbind(1)
    counts = []
    for i, mine in enumerate(columns):
        ahead = torch.zeros(mine.shape, dtype=torch.uint8, device=rows.device)
        for j, other in enumerate(columns):
            if j != i:
                ahead += other >= mine if j < i else other > mine
        counts.append(ahead)
    return torch.stack(counts, 1)
