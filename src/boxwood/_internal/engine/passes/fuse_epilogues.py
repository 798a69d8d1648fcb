"""Fuse residual and activation into the operation that made their operand."""

from dataclasses import replace

from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.elementwise import Operation
from boxwood._internal.engine.ops import Convolve, NativeOp, Pointwise, Project
from boxwood._internal.engine.program import Op, Program, readers_of, without_unused


def fuse_epilogues(program: Program) -> Program:
    """Return the program with ``activation(product + residual)`` as one operation.

    A sum of two products goes into the later one, whose kernel then starts from the other's
    result. What is read elsewhere too stays by itself.
    """
    ops: list[Op | None] = list(program.ops)
    read_by = readers_of(program)
    makers = {value: position for position, op in enumerate(program.ops) for value in op.writes}
    for position, op in enumerate(program.ops):
        if not isinstance(op, NativeOp) or not isinstance(op.kind, Pointwise):
            continue
        for operand in sorted(set(op.sources), key=lambda value: -makers.get(value, -1)):
            maker = makers.get(operand)
            before = ops[maker] if maker is not None else None
            if maker is None or not isinstance(before, NativeOp) or len(read_by[operand]) > 1:
                continue
            fused = _fused(before, op, op.kind, operand, program)
            if fused is not None:
                ops[maker], ops[position] = None, fused
                break
    kept = tuple(op for op in ops if op is not None)
    return without_unused(replace(program, ops=kept))


def _fused(
    before: NativeOp, after: NativeOp, then: Pointwise, operand: int, program: Program
) -> NativeOp | None:
    kind = before.kind
    if not isinstance(kind, Convolve | Project | Pointwise) or kind.activation != Activation.NONE:
        return None
    if then.operation is Operation.COPY:
        return replace(before, kind=replace(kind, activation=then.activation), out=after.out)
    if isinstance(kind, Pointwise) or len(before.sources) > 1:
        return None
    if then.operation is not Operation.ADD or then.per_channel:
        return None
    others = [source for source in after.sources if source != operand]
    if len(others) != 1 or program.values[others[0]] != program.values[after.out]:
        return None
    return replace(
        before,
        kind=replace(kind, activation=then.activation),
        sources=(*before.sources, others[0]),
        out=after.out,
    )
