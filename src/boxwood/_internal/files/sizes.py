"""The size of a masked network on disk: kept values, each with the run of zeros before it.

Only counted here. `boxwood pack` writes the form of `boxwood._internal.files.layout`, which is
smaller, as it stores no value for an escape.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from boxwood._internal.files.bits import check_width, packed_bytes
from boxwood._internal.files.run_lengths import runs_between


@dataclass(frozen=True)
class SparseSize:
    """What one tensor takes with relative indices.

    Args:
        kept: values that the mask keeps.
        fillers: zeros that are stored because a run of zeros is too long for an index field.
        index_bits: bits of an index field.
        itemsize: bytes of a value.

    Example:
        >>> size = SparseSize(kept=90, fillers=6, index_bits=5)
        >>> size.value_bytes, size.index_bytes, size.bytes
        (384, 60, 444)
    """

    kept: int
    fillers: int
    index_bits: int
    itemsize: int = 4

    @property
    def value_bytes(self) -> int:
        """Bytes of the stored values, fillers included."""
        return self.itemsize * (self.kept + self.fillers)

    @property
    def index_bytes(self) -> int:
        """Bytes of the packed index fields."""
        return packed_bytes(self.kept + self.fillers, self.index_bits)

    @property
    def bytes(self) -> int:
        """Bytes of values and index fields together."""
        return self.value_bytes + self.index_bytes


def sparse_size(mask: Tensor, index_bits: int, itemsize: int = 4) -> SparseSize:
    """Count what a masked tensor takes with relative indices of ``b`` bits.

    A field counts up to ``2^b - 2`` zeros before a kept value; ``2^b - 1`` zeros take an entry of
    their own, the filler. Zeros after the last kept value take nothing.

    Args:
        mask: bool of any shape, read in row-major order; True keeps.
        index_bits: bits of an index field, 1 to 16.
        itemsize: bytes of a value.

    Raises:
        CheckpointError: a width out of range.

    Example:
        >>> import torch
        >>> sparse_size(torch.tensor([0, 0, 0, 0, 1, 0]).bool(), index_bits=2)
        SparseSize(kept=1, fillers=1, index_bits=2, itemsize=4)

    Source: Han, Pool, Tran, Dally 2015, "Learning both Weights and Connections for Efficient Neural
    Networks", section 5. Differs from the paper: a filler has a field of its own instead of a
    stored zero after a full run, so the mask could be read back; a field reaches one place less.
    """
    check_width(index_bits)
    positions = np.flatnonzero(mask.detach().cpu().numpy())
    fillers = int((runs_between(positions, -1) // (2**index_bits - 1)).sum())
    return SparseSize(len(positions), fillers, index_bits, itemsize)


def han_index_bits(tensor: Tensor) -> int:
    """Return the paper's index width: 8 bits for the weight of a 2-D convolution, otherwise 5.

    Example:
        >>> import torch
        >>> han_index_bits(torch.zeros(8, 3, 5, 5)), han_index_bits(torch.zeros(10, 100))
        (8, 5)

    Source: Han et al. 2015, section 5.
    """
    return 8 if tensor.ndim == 4 else 5


def network_bytes(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    index_bits: Callable[[Tensor], int] = han_index_bits,
) -> tuple[int, int]:
    """Count the bytes of a whole network: dense, and with its masked tensors as sparse ones.

    Tensors without a mask (biases, norms) stay dense and are counted in both.

    Args:
        weights: everything that a checkpoint holds.
        masks: bool masks for some of it, True keeps.
        index_bits: the width of a tensor's index fields, 1 to 16.

    Example:
        >>> import torch
        >>> weights = {"fc": torch.ones(10, 10), "bias": torch.ones(10)}
        >>> network_bytes(weights, {"fc": torch.eye(10) > 0})
        (440, 87)
    """
    dense = {name: tensor.numel() * tensor.element_size() for name, tensor in weights.items()}
    sparse = {
        name: sparse_size(mask, index_bits(mask), weights[name].element_size()).bytes
        for name, mask in masks.items()
    }
    return sum(dense.values()), sum((dense | sparse).values())
