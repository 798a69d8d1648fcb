"""Read weights back from the kernels' packed form, so that memory holds them only once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwood._internal.engine import weight_streams
from boxwood._internal.engine.kernels import bit_packing, int8_build
from boxwood._internal.engine.kernels.contract import Kernel
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.int8_conv import Int8Conv
from boxwood._internal.engine.kernels.matvec import MatVecPacking
from boxwood._internal.engine.kernels.packing import HEIGHTS, ConvPacking


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A weight that a kernel holds.

    Args:
        shape: of the weight.
        kernel: with the packed weight.
        groups: of a convolution.
    """

    shape: tuple[int, ...]
    kernel: Kernel
    groups: int = 1

    nbytes = 0
    """Bytes that it uses in addition to the kernel's."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of its entries."""
        on_bytes = isinstance(self.kernel.packing, int8_build.Int8Packing)
        return torch.int8 if on_bytes else torch.float32

    def tensor(self) -> Tensor:
        """The weight; zeros are positive."""
        return torch.from_numpy(self._matrix()).reshape(self.shape)

    def _matrix(self) -> NDArray[Any]:
        packing, constants = self.kernel.packing, self.kernel.constants
        if isinstance(packing, int8_build.Int8Packing):
            return int8_build.unpack(self.kernel, self.shape, self.groups)
        shape = (self.shape[0], math.prod(self.shape[1:]))
        if isinstance(packing, bit_packing.BitMaskPacking):
            _, masks, values, _ = constants
            parts: Any = bit_packing.BitMaskParts(masks, values)  # type: ignore[arg-type]
            return bit_packing.unpack(parts, shape, packing.values)
        records, headers, indices, values = constants[:4]
        return weight_streams.unpack(
            records, headers, indices, values.reshape(-1, packing.height), shape, self.groups
        )


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A weight that a file holds in a kernel.

    Args:
        shape: of the weight.
        dtype: of its entries.
        kernel: returns the kernel, which a machine of another family builds for this alone.
        groups: of a convolution.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    kernel: Callable[[], Kernel]
    groups: int = 1

    nbytes = 0
    """Bytes that it uses in addition to the file's."""

    def tensor(self) -> Tensor:
        """The weight; zeros are positive."""
        return PackedTensor(self.shape, self.kernel(), self.groups).tensor()


def groups_of(problem: Any) -> int:
    """Return how many streams the packed weight of a problem joins."""
    shape = problem.shape if isinstance(problem, Int8Conv) else problem
    return shape.groups if isinstance(shape, Conv) else 1


def packed_parts(
    packing: Any, parts: Sequence[NDArray[np.uint8]]
) -> weight_streams.StreamParts | bit_packing.BitMaskParts:
    """Return what a file holds of a packed weight, of whose packing `check_packing` has been asked."""
    if isinstance(packing, bit_packing.BitMaskPacking):
        masks, values = parts
        wide = packing.values is bit_packing.ValueType.FLOAT32
        return bit_packing.BitMaskParts(
            masks.view(np.uint16), values.view(np.float32 if wide else np.uint16)
        )
    counts, headers, indices, values = parts
    numbers, listed = counts.view(np.int64), headers.view(weight_streams.HEADER)
    if isinstance(packing, int8_build.Int8Packing):
        return weight_streams.StreamParts(numbers, listed, indices, values.view(np.int32))
    columns = indices.view(np.uint16)
    return weight_streams.StreamParts(numbers, listed, columns, values.view(np.float32))


def check_packing(packing: Any) -> None:
    """Raise for a packing that no kernel has.

    Raises:
        ValueError: so it is.
    """
    match packing:
        case bit_packing.BitMaskPacking(int(chunks), bit_packing.ValueType()):
            fine = chunks >= 1
        case ConvPacking(int(vectors), int(block), int(height), bool(), int(chunks)):
            fine = 1 <= vectors <= 32 and 1 <= height <= 64 and block >= 1 and chunks >= 1
        case int8_build.Int8Packing(ConvPacking() as conv, bool(), bool()):
            check_packing(conv)
            fine = conv.block <= int8_build.COLUMNS
        case MatVecPacking(int(height), int(chunks)):
            fine = height in (1, *HEIGHTS) and chunks >= 1
        case _:
            fine = False
    if not fine:
        raise ValueError(f"a kernel is packed as {packing}")
