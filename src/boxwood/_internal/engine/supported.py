"""What kernels can do with a program's operations, and where they want their tensors."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from boxwood._internal.engine import kernel_problems
from boxwood._internal.engine.layouts import FLOATS_PER_LINE, vector
from boxwood._internal.engine.ops import (
    Attend,
    Average,
    Concatenate,
    Dequantise,
    Flatten,
    NativeOp,
    OnBytes,
    Quantise,
    Recurrent,
    RecurrentCell,
)
from boxwood._internal.engine.placement import (
    VECTOR_TOKENS,
    Axes,
    Halos,
    Placement,
    Shape,
    placement_of,
    planes_of,
)
from boxwood._internal.engine.program import Batch, Program, sizes_at


def supported_problems(program: Program, batch: Batch) -> dict[int, Any]:
    """Return, by position, the problem of every operation that a kernel could do."""
    shapes = {number: sizes_at(value.shape, batch) for number, value in program.values.items()}
    halos = halos_of(program, shapes, range(len(program.ops)))
    found: dict[int, Any] = {}
    for position, op in enumerate(program.ops):
        if isinstance(op, Recurrent):
            if stack_is_supported(op, shapes):
                found[position] = op
        elif isinstance(op, NativeOp) and isinstance(op.kind, Concatenate):
            if shapes[op.out][2:] != (1, 1):
                found[position] = op.kind
        elif isinstance(op, NativeOp):
            axes = kernel_problems.axes_of(op, len(shapes[op.sources[0]]))
            given = [shapes[value] for value in op.sources]
            sources = kernel_problems.wanted_placements(op, axes, given, halos)
            out = result_placement(op, axes, shapes, halos)
            problem = problem_at(op, sources, out, shapes)
            if problem is not None:
                found[position] = problem
    return found


def stack_is_supported(op: Recurrent, shapes: Mapping[int, Shape]) -> bool:
    """Say whether kernels can run a stack.

    One sequence: gates must fill whole lines, and two directions take more than a few steps.
    Several are columns of products with matrices, in any direction and order.
    """
    batch, hidden = shapes[op.sources[1]][1:]
    steps = shapes[op.sources[0]][1 if op.batch_first else 0]
    if batch > 1:
        return True
    aligned = op.cell is RecurrentCell.LSTM or 3 * hidden % FLOATS_PER_LINE == 0
    return aligned and (op.directions == 1 or steps > VECTOR_TOKENS)


def concatenated_slices(
    program: Program, shapes: Mapping[int, Shape], native: Collection[int]
) -> dict[int, tuple[int, int]]:
    """Return, for values that are made as part of a concatenation, its result and their first channel.

    A concatenation that another one begins with is part of that one, so that the growing
    concatenations of a dense block are one buffer.
    """
    joins = [
        op
        for position, op in enumerate(program.ops)
        if position in native and isinstance(op, NativeOp) and isinstance(op.kind, Concatenate)
    ]
    made = {
        op.out
        for position, op in enumerate(program.ops)
        if position in native and isinstance(op, NativeOp)
        and not isinstance(op.kind, Concatenate | Flatten | Average | OnBytes | Dequantise)
    }  # fmt: skip
    found: dict[int, tuple[int, int]] = {}
    for index, join in enumerate(joins):
        inside = next(
            (
                later.out
                for later in reversed(joins[index + 1 :])
                if later.sources[: len(join.sources)] == join.sources
            ),
            None,
        )
        if inside is not None:
            found[join.out] = (inside, 0)
            continue
        first = 0
        for value in join.sources:
            if value in made and value not in found and join.sources.count(value) == 1:
                found[value] = (join.out, first)
            first += shapes[value][1]
    return found


def result_placement(
    op: NativeOp, axes: Axes, shapes: Mapping[int, Shape], halos: Halos
) -> Placement:
    """Return where an operation writes its result, unless it is part of a concatenation."""
    shape = shapes[op.out]
    match op.kind:
        case OnBytes(out=out):
            return planes_of(shape, axes, halos, quads=out is not None)
        case Quantise():
            return planes_of(shape, axes, halos, quads=True)
        case Dequantise():
            return planes_of(shape, axes, halos, quads=False)
        case Flatten() | Average(keep=False):
            return Placement(vector(shape[1]), shape[0], Axes.TOKENS)
        case Average():
            return Placement(vector(shape[1]), shape[0], Axes.IMAGES)
        case _:
            return placement_of(shape, axes, halos)


def halos_of(
    program: Program, shapes: Mapping[int, Shape], native: Collection[int]
) -> dict[tuple[int, int], int]:
    """Return, for planes of each size, the greatest halo of zeros that a reader needs."""
    found: dict[tuple[int, int], int] = {}
    for position, op in enumerate(program.ops):
        if position in native and isinstance(op, NativeOp) and op.weight is not None:
            source, kernel = shapes[op.sources[0]], shapes[op.weight]
            if len(source) == len(kernel) == 4:
                size = (source[2], source[3])
                need = kernel_problems.halo_of(op, (kernel[2], kernel[3]), source, shapes[op.out])
                found[size] = max(found.get(size, 0), need)
    return found


def problem_at(
    op: NativeOp, sources: Sequence[Placement], out: Placement, shapes: Mapping[int, Shape]
) -> Any:
    """Return the problem of an operation with these placements; None if no kernel does it."""
    weight = () if op.weight is None else shapes[op.weight]
    batch_axis = 1 if isinstance(op.kind, Attend) and not op.kind.batch_first else 0
    sequences = shapes[op.sources[0]][batch_axis]
    second = shapes[op.sources[1]] if len(op.sources) > 1 else ()
    return kernel_problems.problem_of(op, sources, out, weight, sequences=sequences, second=second)
