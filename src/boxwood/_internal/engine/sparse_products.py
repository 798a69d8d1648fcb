"""Products of torch's tensors with one sparse matrix: of a few positions, and of many."""

import dataclasses
from functools import partial

from torch import Tensor

from boxwood._internal.engine.kernel_cache import place_constants
from boxwood._internal.engine.kernels import bit_packing, bitmask, conv, matvec, rows, transposing
from boxwood._internal.engine.kernels.contract import Activation, BoundKernel, Code, Kernel
from boxwood._internal.engine.kernels.tiling import tile
from boxwood._internal.engine.layouts import FLOATS_PER_LINE, Array, columns
from boxwood._internal.engine.native_calls import Chain, ChainPool
from boxwood._internal.engine.targets import Target
from boxwood._internal.engine.thread_team import ThreadTeam

POSITIONS = 64
"""Positions that one pass over the weights serves at most, in products of many."""

LENGTHS = 8
"""Numbers of positions whose arguments are kept."""


class FewPositions:
    """``x @ weight.T + bias`` for each position in turn, or for a few: as fast as memory is read.

    Args:
        weight: float32 [outputs, inputs].
        bias: [outputs], or None.
        target: the family that runs it.
        team: the threads.
        row: floats from a position's outputs to those of the next; none lie between when None.
    """

    def __init__(
        self,
        weight: Array,
        bias: Array | None,
        target: Target,
        team: ThreadTeam,
        row: int | None = None,
    ) -> None:
        self.outputs, inputs = weight.shape
        if row is None and self.outputs % FLOATS_PER_LINE == 0 == inputs % FLOATS_PER_LINE:
            kernel = matvec.build(
                matvec.MatVec(inputs, self.outputs), weight, bias, target, threads=team.threads
            )
        else:
            strides = bitmask.Strides(inputs, row or self.outputs)
            packing = bit_packing.usual_packing(weight, team.threads)
            kernel = bitmask.build(weight.shape, weight, bias, strides, packing)
        self.nbytes = kernel.nbytes
        bound = place_constants([kernel])
        self._chains = ChainPool(partial(Chain, bound, (), target, team))

    @staticmethod
    def is_supported(shape: tuple[int, ...], target: Target) -> bool:
        """Say whether there is a kernel that reads and writes torch's own rows."""
        return bitmask.is_supported(target) or all(n % FLOATS_PER_LINE == 0 for n in shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product for contiguous float32 x [..., inputs]."""
        *lead, inputs = x.shape
        y = x.new_empty((*lead, self.outputs))
        self.into(x.data_ptr(), x.numel() // inputs, y.data_ptr())
        return y

    def into(self, source: int, count: int, target: int) -> None:
        """Multiply positions that lie at an address, and write at another."""
        self._chains(source, target, count)


class ManyPositions:
    """``x @ weight.T + bias`` for many positions: each weight that is not zero multiplies vectors of them.

    Positions are taken `POSITIONS` at a time and transposed on the way in and out.

    Args:
        weight: float32 [outputs, inputs].
        bias: [outputs], or None.
        target: the family that runs it.
        team: the threads.
        row: floats from a position's outputs to those of the next; none lie between when None.
    """

    def __init__(
        self,
        weight: Array,
        bias: Array | None,
        target: Target,
        team: ThreadTeam,
        row: int | None = None,
    ) -> None:
        self.outputs, self.inputs = weight.shape
        self._row = row or self.outputs
        self._target, self._team = target, team
        self._source, self._out = (columns(n, POSITIONS) for n in (self.inputs, self.outputs))
        problem = conv.Conv(self._source, self._out)
        filters = weight[:, :, None, None]
        packing = conv.usual_packing(problem, filters, target, team.threads)
        kernel = conv.build(problem, filters, bias, target, packing=packing)
        self.nbytes = kernel.nbytes
        (self._bound,) = place_constants([kernel])
        self._chains: dict[int, ChainPool] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product for contiguous float32 x [..., inputs]."""
        *lead, inputs = x.shape
        y = x.new_empty((*lead, self.outputs))
        self.into(x.data_ptr(), x.numel() // inputs, y.data_ptr())
        return y

    def into(self, source: int, count: int, target: int) -> None:
        """Multiply positions that lie at an address, and write at another."""
        for start in range(0, count, POSITIONS):
            positions = min(POSITIONS, count - start)
            chains = self._chains.get(positions)
            if chains is None:
                if len(self._chains) >= LENGTHS:
                    self._chains = {}
                chains = self._chains[positions] = ChainPool(partial(self._chain, positions))
            chains(source + 4 * self.inputs * start, target + 4 * self._row * start, 1)

    def _chain(self, positions: int) -> Chain:
        source, out, family = self._source, self._out, self._target
        there = transposing.build(positions, self.inputs, self.inputs, source.plane, family)
        back = transposing.build(self.outputs, positions, out.plane, self._row, family)
        kernels = [
            BoundKernel(there, (), None),
            dataclasses.replace(self._bound, kernel=self._shortened(positions)),
            BoundKernel(back, (), None),
        ]
        return Chain(kernels, (4 * source.size(), 4 * out.size()), family, self._team)

    def _shortened(self, positions: int) -> Kernel:
        """The kernel for the vectors that hold this number of positions; others are not touched."""
        kernel, lanes = self._bound.kernel, self._target.lanes
        span = -(-positions // FLOATS_PER_LINE) * FLOATS_PER_LINE
        tiling = tile(span, kernel.packing.vectors, lanes)
        changed = {
            "tiles": tiling.tiles,
            "wide": tiling.wide,
            "target_end": 4 * self._out.plane,  # no zeros after the values
        }
        slots = [
            changed.get(name, slot)
            for name, slot in zip(rows.NUMBERS, kernel.slots[: len(rows.NUMBERS)], strict=True)
        ]
        text = rows.Specialisation(
            tiling.vectors, kernel.packing.height, rows.Pitch(), Activation.NONE,
            residual=False, masked=False,
        )  # fmt: skip
        target = self._target
        return dataclasses.replace(
            kernel,
            code=Code(text.entry(target), lambda: rows.emit(text, target)),
            slots=(*slots, *kernel.slots[len(rows.NUMBERS) :]),
        )
