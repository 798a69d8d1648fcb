"""A program whose chosen layers work on bytes, with conversions only where floats meet bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from boxwood._internal.engine import kernel_problems
from boxwood._internal.engine.kernels.quads import Quantisation
from boxwood._internal.engine.ops import (
    Convolve,
    Dequantise,
    NativeOp,
    OnBytes,
    PoolWindows,
    Project,
    Quantise,
    Recurrent,
    RecurrentCell,
    RecurrentLayer,
)
from boxwood._internal.engine.placement import Axes
from boxwood._internal.engine.program import (
    Op,
    Program,
    Value,
    check_program,
    readers_of,
    without_unused,
)
from boxwood._internal.engine.quantisation.layers import Int8Layer
from boxwood._internal.engine.quantisation.stacks import Int8Stack, constants_of


@dataclass(frozen=True)
class Rewritten:
    """A program with bytes.

    Args:
        program: the program.
        origins: for each of its operations, the position of what it does in the one of floats; None
            for a conversion.
    """

    program: Program
    origins: tuple[int | None, ...]


def rewritten(
    program: Program,
    layers: Mapping[int, Int8Layer],
    ranges: Mapping[int, Quantisation],
    stacks: Mapping[int, Int8Stack],
) -> Rewritten:
    """Return the program in which these layers work on bytes.

    A result is bytes where one of its readers wants bytes. Maximum pooling follows its readers.

    Args:
        program: of float32.
        layers: by position.
        ranges: what the bytes of each value represent.
        stacks: recurrent ones, by position; they read and write floats.
    """
    return _Rewriter(program, layers, ranges, stacks).run()


def axes_read(program: Program, op: NativeOp) -> Axes:
    """Return how an operation reads its first source."""
    return kernel_problems.axes_of(op, len(program.values[op.sources[0]].shape))


class _Rewriter:
    def __init__(
        self,
        program: Program,
        layers: Mapping[int, Int8Layer],
        ranges: Mapping[int, Quantisation],
        stacks: Mapping[int, Int8Stack],
    ) -> None:
        self.program, self.layers, self.ranges = program, layers, dict(ranges)
        self.stacks = stacks
        self.values = dict(program.values)
        self.constants: dict[int, Tensor] = {n: program.constants[n] for n in program.constants}
        self.names = dict(program.names)
        self.next = program.next_value()
        self.ops: list[Op] = []
        self.origins: list[int | None] = []
        self.bytes: dict[tuple[int, Axes], int] = {}  # values as bytes
        self.floats: set[int] = set()  # values that are there as floats
        self.native, self.gives_bytes = self._forms()

    def run(self) -> Rewritten:
        program = self.program
        self.floats = {*program.inputs, *program.constants}
        for position, op in enumerate(program.ops):
            if isinstance(op, NativeOp) and position in self.native:
                self._on_bytes(position, op)
                continue
            for value in op.reads:
                self._as_floats(value)
            if isinstance(op, Recurrent) and position in self.stacks:
                self._append(self._stack(op, self.stacks[position]), position)
            else:
                self._append(op, position)
            self.floats.update(op.writes)
        for value in program.outputs:
            self._as_floats(value)
        made = replace(
            program, ops=tuple(self.ops), values=self.values, constants=self.constants,
            names=self.names,
        )  # fmt: skip
        origins = {op.writes: origin for op, origin in zip(self.ops, self.origins, strict=True)}
        made = check_program(without_unused(made))
        return Rewritten(made, tuple(origins[op.writes] for op in made.ops))

    def _forms(self) -> tuple[set[int], set[int]]:
        """Return the positions of operations on bytes, and of those whose results are bytes."""
        program, native, gives = self.program, set(self.layers), set[int]()
        read_by = readers_of(program)
        for position in reversed(range(len(program.ops))):
            op = program.ops[position]
            if not isinstance(op, NativeOp):
                continue
            pooled = _is_maximum(op)
            if position not in self.layers and not pooled:
                continue
            axes = axes_read(program, op)
            if position in self.layers and is_depthwise(op, program):
                gives.add(position)
            for reader in read_by[op.out]:
                if reader == len(program.ops) or reader not in native:
                    continue
                other = program.ops[reader]
                if not isinstance(other, NativeOp) or axes_read(program, other) is not axes:
                    continue
                if other.sources[0] == op.out or reader in gives:
                    gives.add(position)
            if pooled and position in gives:
                native.add(position)
        for op in program.ops:  # bytes go through pooling as they are
            if isinstance(op, NativeOp) and _is_maximum(op) and op.sources[0] in self.ranges:
                self.ranges[op.out] = self.ranges[op.sources[0]]
        return native, gives

    def _on_bytes(self, position: int, op: NativeOp) -> None:
        axes = axes_read(self.program, op)
        gives = position in self.gives_bytes
        x = self.ranges[op.sources[0]]
        sources = [self._as_bytes(op.sources[0], axes)]
        residual = None
        for value in op.sources[1:]:
            if gives:
                residual = self.ranges[value]
                sources.append(self._as_bytes(value, axes))
            else:
                self._as_floats(value)
                sources.append(value)
        if not isinstance(op.kind, Convolve | Project | PoolWindows):
            raise TypeError("only products and pooling work on bytes")
        out = op.out
        if gives:
            out = self.bytes[op.out, axes] = self._value(op.out)
        else:
            self.floats.add(op.out)
        made = replace(
            op,
            kind=OnBytes(op.kind, x, self.ranges[op.out] if gives else None, residual),
            sources=tuple(sources),
            out=out,
        )
        if position in self.layers:
            made = self._with_weight(made, self.layers[position], x)
        self._append(made, position)

    def _with_weight(self, op: NativeOp, layer: Int8Layer, x: Quantisation) -> NativeOp:
        weight, unit = layer.weight.weight, layer.weight.scale.double() * x.scale
        bias = torch.zeros(len(weight), dtype=torch.float64)
        if op.bias is not None:
            bias = self.program.constants[op.bias].double()
        sums = weight.double().reshape(len(weight), -1).sum(1)
        offset = bias + layer.correction - unit * x.zero * sums
        number = self._constant(weight)
        self.names[number] = self.names.get(op.weight or -1, "")
        pair = torch.stack([unit, offset]).float()
        return replace(op, weight=number, bias=self._constant(pair))

    def _stack(self, op: Recurrent, stack: Int8Stack) -> Recurrent:
        layers = []
        joined = op.cell is RecurrentCell.LSTM
        for layer, weights, of in zip(op.layers, stack.weights, stack.ranges, strict=True):
            pairs = constants_of(layer, weights, of, self.program, joined=joined)
            (one, unit), (two, other) = (map(self._constant, pair) for pair in pairs)
            self.names[one] = self.names.get(layer.weight_ih, "")
            layers.append(RecurrentLayer(one, two, unit, other, None, *of))
        return replace(op, layers=tuple(layers))

    def _as_bytes(self, value: int, axes: Axes) -> int:
        if (value, axes) not in self.bytes:
            self._as_floats(value)
            number = self.bytes[value, axes] = self._value(value)
            kind = Quantise(self.ranges[value], axes is Axes.TOKENS)
            self._append(NativeOp(kind, (value,), number), None)
        return self.bytes[value, axes]

    def _as_floats(self, value: int) -> None:
        if value in self.floats:
            return
        self.floats.add(value)
        axes = next(axes for number, axes in self.bytes if number == value)
        kind = Dequantise(self.ranges[value], axes is Axes.TOKENS)
        self._append(NativeOp(kind, (self.bytes[value, axes],), value), None)

    def _append(self, op: Op, origin: int | None) -> None:
        self.ops.append(op)
        self.origins.append(origin)

    def _value(self, like: int) -> int:
        number, self.next = self.next, self.next + 1
        self.values[number] = Value(self.values[like].shape, torch.uint8)
        return number

    def _constant(self, tensor: Tensor) -> int:
        number, self.next = self.next, self.next + 1
        self.values[number] = Value(tuple(tensor.shape), tensor.dtype)
        self.constants[number] = tensor.contiguous()
        return number


def is_depthwise(op: NativeOp, program: Program) -> bool:
    """Say whether a convolution has a filter for each channel and adds nothing: its result is bytes."""
    if not isinstance(op.kind, Convolve) or op.weight is None or len(op.sources) > 1:
        return False
    outer, inner = program.values[op.weight].shape[:2]
    return op.kind.groups == outer and inner == 1 and op.kind.groups > 1


def _is_maximum(op: NativeOp) -> bool:
    return isinstance(op.kind, PoolWindows) and not op.kind.average
