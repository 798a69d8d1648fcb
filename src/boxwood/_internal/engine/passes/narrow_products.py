"""Compute products only for the tokens at which their result is read."""

from dataclasses import replace

from boxwood._internal.engine.ops import NativeOp, Project
from boxwood._internal.engine.program import Op, Program, TorchOp, ValueRef, readers_of


def narrow_products(program: Program) -> Program:
    """Return the program with slices and selections before the products that they are taken of.

    A decoder's head scores all tokens, and whoever writes the next one reads the last.
    """
    narrowed = _narrowed(program)
    while narrowed is not None:
        program, narrowed = narrowed, _narrowed(narrowed)
    return program


def _narrowed(program: Program) -> Program | None:
    read_by = readers_of(program)
    for position, op in enumerate(program.ops):
        if not isinstance(op, NativeOp) or not isinstance(op.kind, Project) or len(op.sources) > 1:
            continue
        readers = read_by[op.out]
        if len(readers) != 1 or readers[0] == len(program.ops):
            continue
        part = program.ops[readers[0]]
        if isinstance(part, TorchOp) and _takes_tokens(part, op.out, program):
            return _swapped(program, position, op, readers[0], part)
    return None


def _takes_tokens(op: TorchOp, value: int, program: Program) -> bool:
    """Say whether an operator takes some entries along another axis than the features."""
    if op.target not in ("aten.select.int", "aten.slice.Tensor") or len(op.args) < 2 or op.kwargs:
        return False
    rank = len(program.values[value].shape)
    return op.args[0] == ValueRef(value) and op.args[1] % rank != rank - 1 and rank > 2


def _swapped(program: Program, first: int, product: NativeOp, then: int, part: TorchOp) -> Program:
    source, number = product.sources[0], program.next_value()
    (out,) = part.writes
    values = dict(program.values)
    features = values[source].shape[-1:]
    values[number] = replace(values[out], shape=(*values[out].shape[:-1], *features))
    rank = len(values[source].shape)
    args = (ValueRef(source), part.args[1] % rank, *part.args[2:])
    ops: list[Op] = list(program.ops)
    ops[then] = replace(product, sources=(number,), out=out)
    ops[first] = replace(part, args=args, writes=(number,))
    return replace(program, ops=tuple(ops), values=values)
