"""Blocks of weights that are kept or pruned together, so that a processor skips them together."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import pad

from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class Blocks:
    """Outputs × consecutive inputs are groups, pooled by their mean.

    The inputs are those of a linear layer or a recurrent matrix. In a convolution they are input
    channels at one position of the kernel, of one group of channels: with ``Blocks(1, 4)`` four
    input channels of one filter are kept or pruned together, at each position by itself. If a size
    is not a multiple of the block, the last blocks are smaller and count as one block each.

    ``Blocks(1, 4)`` is the block that int8 kernels skip: four weights are one word of 32 bits.
    Blocks of 8 or 16 outputs × 1 input make float32 products with one vector several times as fast
    as the same number of single zeros, because one input is read for all outputs.

    Args:
        rows: outputs of a block.
        columns: consecutive inputs of a block.

    Raises:
        InvalidInput: a block without rows or columns.

    Example:
        >>> Blocks(1, 4).pool(torch.tensor([[4.0, 0.0, 2.0, 2.0, 7.0, 9.0]]))
        tensor([[2., 8.]])

    Source: Narang, Undersander and Diamos (2017), Block-Sparse Recurrent Neural Networks,
    section 3.1; four inputs to a block as Shen et al. (2023), arXiv 2306.16601.
    Differs from the papers: pools by the mean, so that smaller blocks at the edge compare with
    whole ones.
    """

    rows: int = 8
    columns: int = 1

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1:
            raise InvalidInput(
                f"Expected blocks of at least 1 × 1, got {self.rows} × {self.columns}; "
                "give positive sizes."
            )

    @property
    def revision(self) -> int:
        """1 for blocks of several inputs: in convolutions they once ran along the kernel."""
        return int(self.columns > 1)

    def pool(self, scores: Tensor) -> Tensor:
        """Mean score of each block, [blocks of outputs, blocks of inputs, positions of a kernel]."""
        sums = self._joined(scores, Tensor.add_)
        down, across, *kernel = sums.shape
        rows, columns = _sides(scores.shape)
        heights = _sizes(down, self.rows, rows).to(sums)
        widths = _sizes(across, self.columns, columns).to(sums)
        return sums / torch.outer(heights, widths).view(down, across, *(1 for _ in kernel))

    def alive(self, mask: Tensor) -> Tensor:
        """Find the blocks with a weight in them."""
        return self._joined(mask, Tensor.logical_or_)

    def rank(self, pooled: Tensor, alive: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the scores as they are."""
        return pooled

    def spread(self, decisions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Give every weight the decision of its block."""
        down, across, *kernel = decisions.shape
        wide = decisions[:, None, :, None].expand(down, self.rows, across, self.columns, *kernel)
        whole = wide.reshape(down * self.rows, across * self.columns, *kernel)
        rows, columns = _sides(shape)
        return whole[:rows, :columns].reshape(shape).contiguous()  # a mask that can be written to

    def may_cut(self, shape: tuple[int, ...], dim: int, place: int) -> bool:  # noqa: ARG002
        """Say whether blocks stay whole; those at another position of a kernel are others."""
        return place % (self.rows, self.columns)[dim] == 0 if dim < 2 else True

    def _joined(self, values: Tensor, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Join the weights of each block, whole tensors at a time: torch is slow at short sums."""
        rows, columns = _sides(values.shape)
        values = values.view(rows, columns, *values.shape[2:])
        down, across = -rows % self.rows, -columns % self.columns
        if down or across:
            values = pad(values, (0, 0) * (values.dim() - 2) + (0, across, 0, down))
        blocks: Tensor = values.unflatten(1, (-1, self.columns)).unflatten(0, (-1, self.rows))
        for side in (3, 1):
            first, *others = blocks.unbind(side)
            blocks = reduce(join, others, first.clone())
        return blocks


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Outputs and inputs; a vector has one input."""
    return shape[0], shape[1] if len(shape) > 1 else 1


def _sizes(blocks: int, each: int, whole: int) -> Tensor:
    """Sizes of the blocks along a side: all but the last are full."""
    sizes = torch.full((blocks,), each)
    sizes[-1:] += whole - blocks * each
    return sizes
