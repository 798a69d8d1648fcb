"""Turn convolutions of lines, [batch, channels, length], into convolutions of planes one row high.

Kernels and oneDNN's packed weights are for planes. What reads a convolved line, and can as well read
the plane, does, so that the two views are needed only where lines begin and end.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.engine.program import Op, Program, TorchOp, Value, ValueRef, without_unused

_CONVOLUTIONS = {
    "aten.conv1d.default": "aten.conv2d.default",
    "aten.conv1d.padding": "aten.conv2d.padding",
}


def lines_as_planes(program: Program) -> Program:
    """Return the program with two-dimensional operators in place of the one-dimensional ones."""
    if not any(isinstance(op, TorchOp) and op.target in _CONVOLUTIONS for op in program.ops):
        return program
    writer = _Writer(program)
    for op in program.ops:
        rule = _RULES.get(op.target) if isinstance(op, TorchOp) else None
        if rule is None or not isinstance(op, TorchOp) or not rule(writer, op):
            writer.ops.append(op)
    return without_unused(
        replace(
            program, ops=tuple(writer.ops), values=writer.values, constants=writer.constants,
            names=writer.names,
        )
    )  # fmt: skip


class _Writer:
    """The program that is written, and the plane of each line."""

    def __init__(self, program: Program) -> None:
        self.ops: list[Op] = []
        self.values: dict[int, Value] = dict(program.values)
        self.constants: dict[int, Tensor] = dict(program.constants)
        self.names = dict(program.names)
        self.planes: dict[int, int] = {}
        self._next = program.next_value()

    def is_line(self, argument: Any) -> bool:
        """Say whether an argument is a computed tensor of three axes."""
        if type(argument) is not ValueRef or argument.value in self.constants:
            return False
        value = self.values[argument.value]
        return len(value.shape) == 3 and value.dtype == torch.float32

    def has_plane(self, argument: Any) -> bool:
        return type(argument) is ValueRef and argument.value in self.planes

    def plane(self, line: ValueRef) -> ValueRef:
        """Return the plane of a line, a view of it where nothing has computed it."""
        if line.value not in self.planes:
            number = self._of(line.value)
            self.ops.append(TorchOp("aten.unsqueeze.default", (line, 2), (), (number,)))
        return ValueRef(self.planes[line.value])

    def weight(self, line: ValueRef) -> ValueRef:
        """Add a constant with one more axis."""
        tensor = self.constants[line.value].unsqueeze(2)
        number, self._next = self._next, self._next + 1
        self.constants[number] = tensor
        self.values[number] = Value(tuple(tensor.shape), tensor.dtype)
        self.names[number] = self.names.get(line.value, "")
        return ValueRef(number)

    def write(self, op: TorchOp, target: str, *args: Any) -> bool:
        """Write an operator that makes the plane of the line that another one made."""
        line = op.writes[0]
        number = self._of(line)
        self.ops.append(replace(op, target=target, args=args, writes=(number,)))
        self.ops.append(TorchOp("aten.squeeze.dim", (ValueRef(number), 2), (), (line,)))
        return True

    def write_end(self, op: TorchOp, target: str, *args: Any) -> bool:
        """Write an operator whose result is the same as that of another one on the line."""
        self.ops.append(replace(op, target=target, args=args))
        return True

    def _of(self, line: int) -> int:
        number, self._next = self._next, self._next + 1
        value = self.values[line]
        self.values[number] = replace(value, shape=(*value.shape[:2], 1, value.shape[2]))
        self.planes[line] = number
        return number


def _convolve(writer: _Writer, op: TorchOp) -> bool:
    x, weight, *rest = op.args
    known = type(weight) is ValueRef and weight.value in writer.constants
    if not known or not writer.is_line(x) or op.kwargs:
        return False
    given = (*rest, *(None, 1, 0 if op.target.endswith("default") else "valid", 1, 1)[len(rest) :])
    bias, stride, padding, dilation, groups = given
    padding = padding if isinstance(padding, str) else _row(0, padding)
    return writer.write(
        op, _CONVOLUTIONS[op.target], writer.plane(x), writer.weight(weight), bias,
        _row(1, stride), padding, _row(1, dilation), groups,
    )  # fmt: skip


def _each(writer: _Writer, op: TorchOp) -> bool:
    """Element by element, of lines and plain numbers."""
    tensors = [part for part in op.args if type(part) is ValueRef]
    if not any(map(writer.has_plane, tensors)) or not all(map(writer.is_line, tensors)):
        return False
    args = (writer.plane(part) if type(part) is ValueRef else part for part in op.args)
    return writer.write(op, op.target, *args)


def _normalise(writer: _Writer, op: TorchOp) -> bool:
    x, *rest = op.args
    training = rest[4]
    return (
        not training and writer.has_plane(x) and writer.write(op, op.target, writer.plane(x), *rest)
    )


def _pool(writer: _Writer, op: TorchOp, *, firsts: tuple[int, ...]) -> bool:
    """A window's sizes have a first number each: of what does nothing to a single row."""
    x, *rest = op.args
    sizes = (_row(first, size) for first, size in zip(firsts, rest, strict=False))
    target = op.target.replace("1d", "2d")
    return writer.has_plane(x) and writer.write(
        op, target, writer.plane(x), *sizes, *rest[len(firsts) :]
    )


def _mean(writer: _Writer, op: TorchOp) -> bool:
    x, axes, *keep = op.args
    if not writer.has_plane(x) or tuple(axes or ()) not in ((2,), (-1,)):
        return False
    write = writer.write if keep and keep[0] else writer.write_end
    return write(op, op.target, writer.plane(x), (2, 3), *keep)


def _join(writer: _Writer, op: TorchOp) -> bool:
    parts, *axis = op.args
    if not any(map(writer.has_plane, parts)) or not all(map(writer.is_line, parts)):
        return False
    return axis in ([1], [-2]) and writer.write(
        op, op.target, tuple(writer.plane(part) for part in parts), 1
    )


def _flatten(writer: _Writer, op: TorchOp) -> bool:
    x, shape = op.args[0], writer.values[op.writes[0]].shape
    if not writer.has_plane(x) or len(shape) != 2 or shape[0] != writer.values[x.value].shape[0]:
        return False
    return writer.write_end(op, "aten.flatten.using_ints", writer.plane(x), 1)


def _row(first: int, sizes: Any) -> tuple[int, ...]:
    """Put a number for the rows before that of a line; a stride that is not given stays so."""
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return (first, *sizes) if sizes else ()


_RULES: Mapping[str, Callable[[_Writer, TorchOp], bool]] = {
    **dict.fromkeys(_CONVOLUTIONS, _convolve),
    **{
        f"aten.{name}": _each
        for name in (
            "relu.default", "relu6.default", "leaky_relu.default", "silu.default", "gelu.default",
            "hardswish.default", "hardsigmoid.default", "sigmoid.default", "tanh.default",
            "hardtanh.default", "clamp.default", "elu.default", "add.Tensor", "sub.Tensor",
            "mul.Tensor",
        )
    },
    "aten.batch_norm.default": _normalise,
    "aten.max_pool1d.default": partial(_pool, firsts=(1, 1, 0, 1)),
    "aten.avg_pool1d.default": partial(_pool, firsts=(1, 1, 0)),
    "aten.adaptive_avg_pool1d.default": partial(_pool, firsts=(1,)),
    "aten.mean.dim": _mean,
    "aten.cat.default": _join,
    "aten.flatten.using_ints": _flatten,
    "aten.reshape.default": _flatten,
    "aten.squeeze.dim": _flatten,
    "aten.squeeze.dims": _flatten,
}  # fmt: skip
