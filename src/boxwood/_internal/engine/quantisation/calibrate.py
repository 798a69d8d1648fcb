"""What a program would be in int8: its layers as bytes, and why others stay float32."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood._internal.engine.kernels.int8_conv import MOST_PRODUCTS
from boxwood._internal.engine.kernels.quads import QUAD, Quantisation, quad_count
from boxwood._internal.engine.ops import Convolve, NativeOp, PoolWindows, Project, Recurrent
from boxwood._internal.engine.program import Batch, Program
from boxwood._internal.engine.quantisation.layers import (
    Int8Layer,
    measured_layers,
    observed_ranges,
)
from boxwood._internal.engine.quantisation.rewrite import Rewritten, is_depthwise, rewritten
from boxwood._internal.engine.quantisation.stacks import Int8Stack, measured_stacks

LEAST_DECIBELS = 20.0
"""Signal to noise, below which a layer stays float32: noise of a tenth of the signal."""

Batches = Sequence[tuple[Sequence[Tensor], Batch]]


@dataclass(frozen=True)
class Calibrated:
    """A program of float32, and what of it can be int8.

    Args:
        program: of float32.
        layers: products that lose little, by position.
        stacks: recurrent ones that lose little, by position.
        ranges: what the bytes of each value represent.
        notes: why others stay float32, by position.
    """

    program: Program
    layers: Mapping[int, Int8Layer]
    stacks: Mapping[int, Int8Stack]
    ranges: Mapping[int, Quantisation]
    notes: Mapping[int, str]

    @property
    def positions(self) -> frozenset[int]:
        """Of all that can be int8."""
        return frozenset((*self.layers, *self.stacks))

    def rewritten(self, chosen: Collection[int]) -> Rewritten:
        """Return the program in which the chosen positions are int8."""
        layers = {each: layer for each, layer in self.layers.items() if each in chosen}
        stacks = {each: stack for each, stack in self.stacks.items() if each in chosen}
        return rewritten(self.program, layers, self.ranges, stacks)

    def note(self, position: int, chosen: Collection[int]) -> str:
        """Say what int8 costs an operation, or why it is none."""
        found = self.layers.get(position) or self.stacks.get(position)
        if found is None:
            return self.notes.get(position, "")
        kept = f"{found.decibels:.1f} dB"
        return kept if position in chosen else f"float32 is faster than int8, which has {kept}"


def calibrated(program: Program, batches: Batches, *, pairs: bool) -> Calibrated:
    """Run a program on calibration data and find out what of it loses little in int8.

    Args:
        program: of float32.
        batches: calibration inputs with their leading sizes.
        pairs: as in `bytes_weight`.
    """
    notes: dict[int, str] = {}
    positions, values = [], set[int]()
    for position, op in enumerate(program.ops):
        if isinstance(op, Recurrent):
            values.add(op.sources[0])
        elif isinstance(op, NativeOp) and isinstance(op.kind, PoolWindows):
            values.update((op.sources[0], op.out))
        elif isinstance(op, NativeOp) and isinstance(op.kind, Convolve | Project):
            why = unfit(op, program)
            if why:
                notes[position] = f"float32: {why}"
            else:
                positions.append(position)
                values.update((*op.sources, op.out))
    values -= program.constants.keys()
    with torch.no_grad():
        choices = observed_ranges(program, batches, values)
        layers, ranges = measured_layers(program, batches, positions, choices, pairs=pairs)
        stacks = measured_stacks(program, batches, choices, pairs=pairs)
    kept = {position: layer.decibels for position, layer in layers.items()}
    kept |= {position: stack.decibels for position, stack in stacks.items()}
    lost = {position for position, decibels in kept.items() if not decibels >= LEAST_DECIBELS}
    for position in lost:
        notes[position] = (
            f"float32: {kept[position]:.1f} dB signal to noise in int8, less than "
            f"{LEAST_DECIBELS:.0f}"
        )
    layers = {position: each for position, each in layers.items() if position not in lost}
    stacks = {position: each for position, each in stacks.items() if position not in lost}
    return Calibrated(program, layers, stacks, ranges, notes)


def unfit(op: NativeOp, program: Program) -> str:
    """Return why a layer cannot be int8; empty if it can."""
    if op.weight is None or set(op.sources) & program.constants.keys():
        return "an operand is constant"
    weight = program.constants[op.weight]
    groups = op.kind.groups if isinstance(op.kind, Convolve) else 1
    outer, inner = weight.shape[:2]
    if isinstance(op.kind, Convolve) and is_depthwise(op, program):
        stride = op.kind.stride[1]
        return "" if stride <= 2 else f"a filter for each channel with a stride of {stride}"
    if groups > 1 and (inner % QUAD or outer // groups % QUAD):
        return f"groups of {inner} channels are not whole quads"
    if quad_count(inner) * QUAD * weight[0, 0].numel() > MOST_PRODUCTS:
        return "its sums may exceed 32 bits"
    if not bool(torch.isfinite(weight).all()):
        return "a weight is not finite"
    return ""
