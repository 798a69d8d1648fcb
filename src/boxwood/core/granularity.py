"""Granularity: how scores are pooled into groups that live or die together."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Granularity(Protocol):
    """Pools scores of weights into scores of groups, and spreads decisions back."""

    def pool(self, scores: Tensor) -> Tensor:
        """One score per group, any shape."""
        ...

    def spread(self, decisions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Bool decisions per group to a bool mask of ``shape``."""
        ...


@dataclass(frozen=True)
class Elements:
    """Every weight is its own group.

    Example:
        >>> import torch
        >>> Elements().pool(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    def pool(self, scores: Tensor) -> Tensor:
        """Return the scores as they are."""
        return scores

    def spread(self, decisions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the decisions as they are, in ``shape``."""
        return decisions.view(shape)
