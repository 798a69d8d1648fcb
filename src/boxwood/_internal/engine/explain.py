"""What runs where, and why: a compiled network in a table."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from boxwood._internal.engine.constants import Constants
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.int8_build import density
from boxwood._internal.engine.kernels.quads import QUAD
from boxwood._internal.engine.ops import Dequantise, NativeOp, OnBytes, Quantise, Recurrent, is_int8
from boxwood._internal.engine.plan import KernelStep
from boxwood._internal.engine.program import Op, Program, TorchOp, sizes_at
from boxwood._internal.engine.runner import Runner


@dataclass(frozen=True)
class OperationTimes:
    """Seconds of an operation in a kernel, if there is one, and in torch.

    Args:
        kernel: None where no kernel does it.
        torch: seconds in torch.
        int8: seconds in a kernel on bytes, if there is one and int8 was asked for.
        note: what int8 costs here, or why it is none.
    """

    kernel: float | None
    torch: float
    int8: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ExplainedOperation:
    """One operation.

    Args:
        name: the operation, with the name of its weight.
        shape: of its result.
        place: "sparse kernel", "kernel", both with "int8" where they work on bytes, "torch" or
            "view"; "copy" between the sides.
        why: the reason for the place.
        seconds: measured, the median.
        estimates: what was measured at compile time for both places, if it was.
        nbytes: of its weights where it runs.
    """

    name: str
    shape: tuple[int, ...]
    place: str
    why: str
    seconds: float
    estimates: OperationTimes | None
    nbytes: int


@dataclass(frozen=True)
class Explanation:
    """A table of operations, and what the weights take.

    Args:
        lines: in order.
        kernel_bytes: of weights packed for kernels.
        kept_bytes: of all other constants that are kept.
        nonzero: entries that are not zero in those weights.
        dense_bytes: of the same weights as float32.
        arena_bytes: of intermediate values.
    """

    lines: tuple[ExplainedOperation, ...]
    kernel_bytes: int
    kept_bytes: int
    nonzero: int
    dense_bytes: int
    arena_bytes: int

    def __str__(self) -> str:
        """The table as text."""
        rows = self.rows
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        text = [
            "  ".join(
                cell.rjust(width) if 3 <= column <= 6 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*text, self.total])

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table; the first row has the headings."""
        head = ("operation", "result", "runs as", "ms", "kernel ms", "torch ms", "KB", "why")
        return [head, *map(_cells, self.lines)]

    @property
    def total(self) -> str:
        """The sentences below the table."""
        total = sum(line.seconds for line in self.lines)
        return (
            f"{1e3 * total:.2f} ms in all, step by step. Weights in kernels: "
            f"{self.kernel_bytes / 1e6:.2f} MB for {self.nonzero} that are not zero "
            f"({self.kernel_bytes / max(self.nonzero, 1):.2f} bytes each), "
            f"{self.dense_bytes / 1e6:.2f} MB dense; other constants: "
            f"{self.kept_bytes / 1e6:.2f} MB; intermediate values: "
            f"{self.arena_bytes / 1e6:.2f} MB."
        )


def explain(
    runner: Runner, times: Mapping[int, OperationTimes], inputs: Sequence[Tensor], repeats: int
) -> Explanation:
    """Measure a runner's steps and say what each is."""
    program, batch = runner.program, runner.plan.batch
    kernels = {step.op for step in runner.plan.steps if isinstance(step, KernelStep)}
    held = runner.weight_bytes()
    lines = []
    runner(inputs)
    for step, seconds in zip(
        runner.single_steps, runner.time_steps(inputs, repeats, time.perf_counter), strict=True
    ):
        taken = statistics.median(seconds)
        if not step.positions:
            lines.append(
                ExplainedOperation("copy", (), "copy", "between kernels and torch", taken, None, 0)
            )
            continue
        for position in step.positions:
            op = program.ops[position]
            estimate = times.get(position)
            place = _place(op, program) if position in kernels else "torch"
            if lines and lines[-1].name == _name(op, program) and isinstance(op, Recurrent):
                last = lines.pop()
                taken += last.seconds
            shape = sizes_at(program.values[op.writes[0]].shape, batch)
            why = _why(op, place, estimate, program)
            nbytes = held.get(position, 0)
            lines.append(
                ExplainedOperation(_name(op, program), shape, place, why, taken, estimate, nbytes)
            )
    weights = {
        number
        for position in kernels
        if position is not None
        for number in program.ops[position].reads
        if number in program.constants and number not in _units(program.ops[position])
    }
    nonzero = sum(int(program.constants[number].count_nonzero()) for number in weights)
    dense = sum(4 * program.constants[number].numel() for number in weights)
    kept = Constants(program.constants).nbytes
    return Explanation(tuple(lines), sum(held.values()), kept, nonzero, dense, runner.arena_bytes)


def _units(op: Op) -> tuple[int | None, ...]:
    """The constants that say what bytes of an operation's weights are worth: they are no weights."""
    if isinstance(op, Recurrent):
        return tuple(n for layer in op.layers for n in (layer.bias_ih, layer.bias_hh)) * is_int8(op)
    return (op.bias,) if isinstance(op, NativeOp) and is_int8(op) else ()


def _cells(line: ExplainedOperation) -> tuple[str, ...]:
    both = line.estimates
    return (
        line.name,
        "×".join(map(str, line.shape)),
        line.place,
        f"{1e3 * line.seconds:.3f}",
        "" if both is None or both.kernel is None else f"{1e3 * both.kernel:.3f}",
        "" if both is None else f"{1e3 * both.torch:.3f}",
        f"{line.nbytes / 1024:.0f}" if line.nbytes else "",
        line.why,
    )


def _name(op: Op, program: Program) -> str:
    if isinstance(op, TorchOp):
        return op.name
    if isinstance(op, Recurrent):
        return f"{op.cell.name.lower()} {program.names.get(op.layers[0].weight_ih, '')}".strip()
    if not isinstance(op, NativeOp):
        return type(op).__name__
    kind = op.kind.kind if isinstance(op.kind, OnBytes) else op.kind
    parts = [type(kind).__name__.lower(), program.names.get(op.weight or -1, "")]
    activation = getattr(kind, "activation", Activation.NONE)
    if activation is not Activation.NONE:
        parts.append(f"+ {activation.name.lower()}")
    return " ".join(part for part in parts if part)


def _fraction_of_zeros(op: Op, program: Program) -> float:
    """The fraction of zeros in an operation's weight; 0 without one."""
    if isinstance(op, Recurrent):
        weights = [program.constants[layer.weight_hh] for layer in op.layers]
    elif isinstance(op, NativeOp) and op.weight is not None:
        weights = [program.constants[op.weight]]
    else:
        return 0.0
    entries = sum(weight.numel() for weight in weights)
    if is_int8(op):
        # Bytes are small enough to be 0 here and there; kernels skip four of them.
        whole = weights[0].shape[1] >= QUAD
        kept = sum(density(weight.numpy()) * weight.numel() for weight in weights)
        return 1 - kept / entries if whole else 0.0
    return 1 - sum(int(weight.count_nonzero()) for weight in weights) / max(entries, 1)


def _place(op: Op, program: Program) -> str:
    precision = "int8 " if is_int8(op) else ""
    sparse = "sparse " if _fraction_of_zeros(op, program) > 0 else ""
    return f"{sparse}{precision}kernel"


def _why(op: Op, place: str, times: OperationTimes | None, program: Program) -> str:
    if isinstance(op, TorchOp):
        return op.why
    if isinstance(op, NativeOp) and isinstance(op.kind, Quantise | Dequantise):
        return "between float32 and int8"
    zeros = _fraction_of_zeros(op, program)
    share = ", ".join(
        [
            *([f"{100 * zeros:.0f} % zeros"] if zeros else []),
            *([times.note] if times and times.note else []),
        ]
    )
    if times is None:
        return share
    if times.kernel is None:
        return "no kernel for this shape"
    faster = times.kernel < times.torch
    if is_int8(op):
        found = "the kernel is faster" if (times.int8 or 0.0) < times.kernel else "saves copies"
    elif place == "torch":
        found = "copies would cost more than the kernel saves" if faster else "torch is faster"
    else:
        found = "the kernel is faster" if faster else "saves copies"
    return f"{share}: {found}" if share else found
