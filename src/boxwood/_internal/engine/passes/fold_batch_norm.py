"""Batch normalisation in evaluation is a scale and a shift: into the weights before it."""

from dataclasses import replace

import torch
from torch import Tensor

from boxwood._internal.engine.program import (
    Op,
    Program,
    TorchOp,
    Value,
    ValueRef,
    readers_of,
    without_unused,
)

_WEIGHTED = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default",
             "aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding",
             "aten.linear.default")  # fmt: skip


def fold_batch_norm(program: Program) -> Program:
    """Return the program with ``γ (W x + b - μ) / √(σ² + ε) + β`` as one weighted operator.

    The product is formed in float64. A normalisation that does not follow a weighted operator, or
    that follows one whose output something else reads too, stays.
    """
    read_by = readers_of(program)
    makers = {value: position for position, op in enumerate(program.ops) for value in op.writes}
    ops: list[Op | None] = list(program.ops)
    constants, values = dict(program.constants), dict(program.values)
    names = dict(program.names)
    fresh = program.next_value()
    for position, op in enumerate(program.ops):
        parts = _scale_and_shift(op, constants)
        if parts is None or not isinstance(op, TorchOp):
            continue
        entering = op.reads[0]
        at = makers.get(entering)
        before = ops[at] if at is not None else None
        if at is None or not isinstance(before, TorchOp) or read_by[entering] != [position]:
            continue
        if not _foldable(before, constants):
            continue
        scale, shift = parts
        weight = constants[before.args[1].value]
        bias = _constant(before, 2, constants)
        folded = weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1))
        moved = shift if bias is None else bias.double() * scale + shift
        if not (torch.isfinite(scale).all() and torch.isfinite(shift).all()):
            continue
        names[fresh] = names.get(before.args[1].value, "")
        numbers = []
        for tensor in (folded.to(weight.dtype), moved.to(weight.dtype)):
            constants[fresh] = tensor
            values[fresh] = Value(tuple(tensor.shape), tensor.dtype)
            numbers.append(ValueRef(fresh))
            fresh += 1
        args = (before.args[0], *numbers, *before.args[3:])
        ops[at] = replace(before, args=args, writes=op.writes)
        ops[position] = None
    kept = tuple(op for op in ops if op is not None)
    return without_unused(
        replace(program, ops=kept, constants=constants, values=values, names=names)
    )


def _scale_and_shift(op: Op, constants: dict[int, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Read γ/√(σ²+ε) and β - μγ/√(σ²+ε), float64 [channels], off a normalisation."""
    if not isinstance(op, TorchOp) or op.target != "aten.batch_norm.default" or op.args[5]:
        return None
    weight, bias, mean, variance = (_constant(op, index, constants) for index in (1, 2, 3, 4))
    if mean is None or variance is None:
        return None
    scale = (variance.double() + op.args[7]).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    return scale, shift if bias is None else shift + bias.double()


def _foldable(op: TorchOp, constants: dict[int, Tensor]) -> bool:
    if op.target not in _WEIGHTED or op.kwargs:
        return False
    bias = op.args[2] if len(op.args) > 2 else None
    weight = _constant(op, 1, constants)
    known = weight is not None and (bias is None or _constant(op, 2, constants) is not None)
    return known and weight is not None and weight.is_floating_point()


def _constant(op: TorchOp, index: int, constants: dict[int, Tensor]) -> Tensor | None:
    argument = op.args[index] if index < len(op.args) else None
    return constants.get(argument.value) if type(argument) is ValueRef else None
