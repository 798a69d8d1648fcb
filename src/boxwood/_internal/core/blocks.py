"""Blocks of weights that live or die together, so that a processor skips them together."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class Blocks:
    """Rectangles of the matrix [outputs, everything else] are groups, pooled by their mean.

    Blocks of 8 or 16 rows × 1 column make products with one vector several times faster than
    single zeros of the same number: one input is read for all the rows. Blocks at the lower and
    right edge are smaller where the shape is no multiple.

    Args:
        rows: outputs of a block.
        columns: columns of a block.

    Raises:
        InvalidInput: a block without rows or columns.

    Example:
        >>> Blocks(2, 1).pool(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
        tensor([[3., 4.]])

    Source: Narang, Undersander and Diamos (2017), Block-Sparse Recurrent Neural Networks,
    section 3.1. Differs from the paper: pools by the mean (theirs by the maximum), so that small
    blocks at the edge compare with whole ones either way.
    """

    rows: int = 8
    columns: int = 1

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1:
            raise InvalidInput(
                f"Expected blocks of at least 1 × 1, got {self.rows} × {self.columns}; "
                "give positive sizes."
            )

    def pool(self, scores: Tensor) -> Tensor:
        """Mean score of each block, [blocks down, blocks across]."""
        return self._cut(scores).sum((1, 3)) / self._cut(torch.ones_like(scores)).sum((1, 3))

    def alive(self, mask: Tensor) -> Tensor:
        """Find the blocks with a weight in them."""
        return self._cut(mask.to(torch.uint8)).amax((1, 3)).bool()

    def rank(self, pooled: Tensor, alive: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the scores as they are."""
        return pooled

    def spread(self, decisions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Give every weight the decision of its block."""
        rows, columns = shape[0], math.prod(shape[1:])
        wide = decisions.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)
        return wide[:rows, :columns].reshape(shape)

    def _cut(self, values: Tensor) -> Tensor:
        """[blocks down, rows, blocks across, columns], zeros where a block hangs over."""
        matrix = values.reshape(len(values), -1)
        rows, columns = matrix.shape
        matrix = pad(matrix, (0, -columns % self.columns, 0, -rows % self.rows))
        down, across = len(matrix) // self.rows, matrix.shape[1] // self.columns
        return matrix.reshape(down, self.rows, across, self.columns)
