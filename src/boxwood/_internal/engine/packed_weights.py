"""Weights read back from where kernels keep them packed, so that they are in memory once."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.engine import weight_streams
from boxwood._internal.engine.kernels import bit_packing
from boxwood._internal.engine.kernels.contract import Kernel
from boxwood._internal.engine.layouts import Array


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
    """Bytes that it uses besides the kernel's."""

    def tensor(self) -> Tensor:
        """The weight; zeros are positive."""
        return torch.from_numpy(self._matrix()).reshape(self.shape)

    def _matrix(self) -> Array:
        packing, constants = self.kernel.packing, self.kernel.constants
        shape = (self.shape[0], math.prod(self.shape[1:]))
        if isinstance(packing, bit_packing.BitMaskPacking):
            _, masks, values, _ = constants
            parts: Any = bit_packing.BitMaskParts(masks, values)  # type: ignore[arg-type]
            return bit_packing.unpack(parts, shape, packing.values)
        records, headers, indices, values = constants[:4]
        return weight_streams.unpack(
            records, headers, indices, values.reshape(-1, packing.height), shape, self.groups
        )
