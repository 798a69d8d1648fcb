"""Runs a program in torch operation by operation, so that values can be looked at."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from boxwood._internal.engine import aten_ops, torch_functions
from boxwood._internal.engine.ops import Convolve, NativeOp, Project, Recurrent
from boxwood._internal.engine.program import Batch, Program, TorchOp, sizes_at
from boxwood._internal.engine.shapes import at_sizes


class Observer:
    """A program as steps whose values can be seen.

    Args:
        program: lowered, of float32.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._functions: dict[Any, Callable[..., Any]] = {}
        self._last: dict[int, int] = {
            value: position for position, op in enumerate(program.ops) for value in op.reads
        }

    def walk(
        self, inputs: Sequence[Tensor], batch: Batch
    ) -> Iterator[tuple[int, Mapping[int, Tensor]]]:
        """Yield each position after its operation has run, with the values of that moment.

        The inputs come first, as position -1. What nothing reads any more is gone.

        Args:
            inputs: of the program.
            batch: their leading size, or those in the program's ranges.
        """
        program = self.program
        if isinstance(batch, tuple):
            program, batch = at_sizes(program, batch), 0
        values = dict(zip(program.inputs, inputs, strict=True))
        yield -1, values
        for position, op in enumerate(program.ops):
            made = self._run(program, position, values, batch)
            values.update(zip(op.writes, made, strict=True))
            yield position, values
            for value in (*op.reads, *op.writes):
                if self._last.get(value, -1) <= position:
                    values.pop(value, None)

    def _run(
        self, program: Program, position: int, values: Mapping[int, Tensor], batch: int
    ) -> list[Tensor]:
        op, constants = program.ops[position], program.constants
        if isinstance(op, TorchOp):
            known = {number: constants[number] for number in op.reads if number in constants}
            return list(aten_ops.run_operator(aten_ops.at_batch(op, batch), {**known, **values}))
        sources = [values[n] if n in values else constants[n] for n in op.sources]  # type: ignore[attr-defined]
        key = position, tuple(sources[0].shape)
        if key not in self._functions:
            self._functions[key] = self._function(program, op, batch)
        return aten_ops.tensors_of(self._functions[key](*sources))

    def _function(self, program: Program, op: Any, batch: int) -> Callable[..., Any]:
        if isinstance(op, Recurrent):
            return torch_functions.torch_stack(op, program.constants)
        shapes = [sizes_at(program.values[value].shape, batch) for value in (op.sources[0], op.out)]
        weight, bias = (None if n is None else program.constants[n] for n in (op.weight, op.bias))
        return torch_functions.torch_function(op.kind, weight, bias, *shapes)


def product(op: NativeOp, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what a convolution or linear layer computes before residual and activation."""
    match op.kind:
        case Convolve() as kind:
            x = F.pad(x, kind.sides)
            return F.conv2d(x, weight, bias, kind.stride, 0, kind.dilation, kind.groups)
        case Project():
            return F.linear(x, weight, bias)
        case _:
            raise TypeError("only products have weights of bytes")


def by_channel(op: NativeOp, y: Tensor) -> Tensor:
    """Return a result as [channels, everything else]."""
    axis = 1 if isinstance(op.kind, Convolve) else y.ndim - 1
    return torch.movedim(y, axis, 0).reshape(y.shape[axis], -1)
