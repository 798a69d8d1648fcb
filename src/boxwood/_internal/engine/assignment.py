"""Kernel or torch, for each operation: measured, and decided for the whole program at once.

Both ways are timed step by step. An operation costs its time where it runs, and a value that one
side makes and the other reads costs a copy; the cheapest assignment is a minimum cut of the graph
of operations. It is then run against both pure assignments, and the fastest is taken.
"""

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from boxwood._internal.core.timing import clock_for, elapsed, timed_turns
from boxwood._internal.engine import aten_ops
from boxwood._internal.engine.explain import OperationTimes
from boxwood._internal.engine.program import Batch, Op, Program, TorchOp, sizes_at
from boxwood._internal.engine.session import Session, torch_threads
from boxwood._internal.engine.supported import supported_problems

COPY_SECONDS = 3e-6
COPY_BYTES_PER_SECOND = 4e9
CONVERSION_SECONDS = 2e-7
CONVERSION_BYTES_PER_SECOND = 2e10
"""Of float32 into bytes or back, between kernels."""
REPEATS = 4
LONG = 2.0
"""Seconds after which two turns are enough: what takes long is disturbed less."""
_NEVER = 2**30  # nanoseconds, a second: no operation is that slow, and sums stay in 31 bits


Choice = tuple[frozenset[int], dict[int, OperationTimes]]


def choose_assignment(session: Session, inputs: Sequence[Tensor]) -> Choice:
    """Return the positions of the operations that kernels will do, and what was measured.

    Args:
        session: of the program, with any assignment.
        inputs: an example.
    """
    program, batch = session.program, session.program.example
    supported = frozenset(supported_problems(program, batch))
    if not supported:
        return supported, {}
    all_native, all_torch = session.with_native(supported), session.with_native(frozenset())
    with torch.no_grad(), torch_threads(session.threads):
        by_kernel, by_torch = (measured(each, inputs) for each in (all_native, all_torch))
        times = {
            position: OperationTimes(
                by_kernel.get(position, 0.0) if position in supported or _is_view(op) else None,
                by_torch.get(position, 0.0),
            )
            for position, op in enumerate(program.ops)
        }
        cheapest = session.with_native(cheapest_assignment(program, batch, times))
        best = min(
            (cheapest, all_native, all_torch),
            key=least_seconds((cheapest, all_native, all_torch), inputs).__getitem__,
        )
    return best.native & supported, times


def _is_view(op: Op) -> bool:
    """Views cost nothing on either side, and belong to the side of what they look at."""
    return isinstance(op, TorchOp) and aten_ops.is_view(op.target)


def measured(session: Session, inputs: Sequence[Tensor]) -> dict[int, float]:
    """Return the least seconds of each operation, by position."""
    runner, clock = session.runner(session.program.example), clock_for(session.threads)
    repeats = REPEATS if elapsed(partial(runner, inputs), clock) * REPEATS < LONG else 2
    found: dict[int, float] = {}
    for step, seconds in zip(
        runner.single_steps, runner.time_steps(inputs, repeats, clock), strict=True
    ):
        for position in step.positions:
            found[position] = found.get(position, 0.0) + min(seconds)
    return found


def least_seconds(sessions: Sequence[Session], inputs: Sequence[Tensor]) -> dict[Session, float]:
    """Return the least seconds of each session, run in turn."""
    runs = {
        session: partial(session.runner(session.program.example), inputs) for session in sessions
    }
    clock, begin = clock_for(sessions[0].threads), time.monotonic()
    best = dict.fromkeys(sessions, math.inf)
    for turn, seconds in enumerate(timed_turns(runs, 2 * REPEATS, clock=clock), 1):
        best = {session: min(best[session], seconds[session]) for session in sessions}
        if turn >= 2 and time.monotonic() - begin > LONG:
            break
    return best


def cheapest_assignment(
    program: Program, batch: Batch, times: Mapping[int, OperationTimes]
) -> frozenset[int]:
    """Return the assignment of least summed time, copies included.

    Example:
        >>> from boxwood._internal.engine.program import ValueRef, TorchOp, Value
        >>> value = Value((1000,), torch.float32)
        >>> ops = tuple(TorchOp("aten.relu.default", (ValueRef(n),), (), (n + 1,)) for n in range(3))
        >>> program = Program(ops, dict.fromkeys(range(4), value), {}, (0,), (3,), None)
        >>> slow, fast = OperationTimes(1e-3, 9e-3), OperationTimes(2e-3, 1e-3)
        >>> sorted(cheapest_assignment(program, 0, {0: slow, 1: OperationTimes(None, 1e-3), 2: fast}))
        [0]
    """
    return cheapest_forms(program, batch, times)[0]


def cheapest_forms(
    program: Program, batch: Batch, times: Mapping[int, OperationTimes]
) -> tuple[frozenset[int], frozenset[int]]:
    """Return the operations of kernels, and those among them on bytes, of least summed time.

    An operation that has a kernel on bytes is two nodes: torch is before the first, the kernel of
    floats between them, that of bytes after the second. Each step of a value from one to the
    next costs a copy.
    """
    count = len(program.ops)
    # Here, because it takes a third of the time of importing Boxwood.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    kernel, outside = 2 * count, 2 * count + 1  # the two sides; inputs and outputs are torch's
    edges: dict[tuple[int, int], int] = {}

    def add(one: int, two: int, nanoseconds: float) -> None:
        edges[one, two] = min(_NEVER, edges.get((one, two), 0) + math.ceil(nanoseconds))

    makers = {value: position for position, op in enumerate(program.ops) for value in op.writes}
    for position, op in enumerate(program.ops):
        cost = times[position]
        add(kernel, position, 1e9 * cost.torch)
        native = _NEVER if cost.kernel is None else 1e9 * cost.kernel
        if cost.int8 is None:
            add(position, outside, native)
        else:
            add(position, count + position, native)
            add(count + position, position, _NEVER)
            add(count + position, outside, 1e9 * cost.int8)
        for value in dict.fromkeys(op.reads):
            if value not in program.constants:
                copy = 1e9 * _copy_seconds(program, value, batch)
                maker = makers.get(value, outside)
                add(maker, position, copy)
                add(position, maker, copy)
                one, two = (_bytes_node(each, count, times) for each in (maker, position))
                if one != two:
                    converted = 1e9 * _conversion_seconds(program, value, batch)
                    add(one, two, converted)
                    add(two, one, converted)
    for value in dict.fromkeys(program.outputs):
        if value in makers:
            add(makers[value], outside, 1e9 * _copy_seconds(program, value, batch))
    ends = np.array(list(edges), np.int32).reshape(-1, 2)
    capacity = coo_array(
        (np.array(list(edges.values()), np.int32), (ends[:, 0], ends[:, 1])), (2 * count + 2,) * 2
    ).tocsr()
    flow = maximum_flow(capacity, kernel, outside).flow
    left = capacity - flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = breadth_first_order(left, kernel, return_predecessors=False)
    natives = frozenset(int(node) for node in reached if node < count)
    on_bytes = frozenset(int(node) - count for node in reached if count <= node < 2 * count)
    return natives, on_bytes & natives


def _conversion_seconds(program: Program, value: int, batch: Batch) -> float:
    floats = math.prod(sizes_at(program.values[value].shape, batch))
    return float(CONVERSION_SECONDS + 4 * floats / CONVERSION_BYTES_PER_SECOND)


def _bytes_node(position: int, count: int, times: Mapping[int, OperationTimes]) -> int:
    """The node that says whether an operation is on bytes; the far side if it cannot be."""
    known = position in times and times[position].int8 is not None
    return count + position if known else 2 * count + 1


def _copy_seconds(program: Program, value: int, batch: Batch) -> float:
    floats = math.prod(sizes_at(program.values[value].shape, batch))
    return float(COPY_SECONDS + 4 * floats / COPY_BYTES_PER_SECOND)
