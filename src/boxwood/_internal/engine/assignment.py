"""Kernel or torch, for each operation: measured, and decided for the whole program at once.

Both ways are timed step by step; equal operations count as measurements of one. An operation costs
its time where it runs, and a value that one side makes and the other reads costs a copy; the
cheapest assignment is a minimum cut of the graph of operations. It is then run against both pure
assignments, and the fastest is taken; what is much slower after two turns is not run again.
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
from boxwood._internal.engine.ops import NativeOp
from boxwood._internal.engine.program import (
    Batch,
    Op,
    Program,
    TorchOp,
    sizes_at,
    substituted,
)
from boxwood._internal.engine.session import Session, torch_threads
from boxwood._internal.engine.supported import supported_problems

COPY_SECONDS = 3e-6
COPY_BYTES_PER_SECOND = 4e9
CONVERSION_SECONDS = 2e-7
CONVERSION_BYTES_PER_SECOND = 2e10
"""Of float32 into bytes or back, between kernels."""
REPEATS = 4
MUCH_SLOWER = 1.25
"""How many times as long as the fastest a session may take after two turns, to be run again."""
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
    """Return the least seconds of each operation or one equal to it, by position."""
    program = session.program
    runner, clock = session.runner(program.example), clock_for(session.threads)
    groups = equal_operations(program)
    single = elapsed(partial(runner, inputs), clock)
    # Two turns of two equal operations are four measurements.
    several = sum(map(len, filter(lambda each: len(each) > 1, groups)))
    repeats = 2 if single * REPEATS >= LONG or 2 * several > len(program.ops) else REPEATS
    found: dict[int, float] = {}
    for step, seconds in zip(
        runner.single_steps, runner.time_steps(inputs, repeats, clock), strict=True
    ):
        for position in step.positions:
            found[position] = found.get(position, 0.0) + min(seconds)
    for group in groups:
        known = [found[position] for position in group if position in found]
        found.update((position, min(known)) for position in group if position in found)
    return found


def equal_operations(program: Program) -> list[list[int]]:
    """Return the positions of operations, those together that do equal work on other values.

    Their settings and sizes are the same, and as many of their weights are zero, to a twentieth.
    """
    found: dict[str, list[int]] = {}
    kinds = {number: _kind(program, number) for number in program.values}
    for position, op in enumerate(program.ops):
        reads, writes = ([kinds[number] for number in part] for part in (op.reads, op.writes))
        if isinstance(op, TorchOp):
            does: object = op.target, substituted((op.args, op.kwargs), dict.fromkeys(op.reads, 0))
        elif isinstance(op, NativeOp):
            does = op.kind, op.weight is None, op.bias is None
        else:
            does = position
        found.setdefault(repr((does, reads, writes)), []).append(position)
    return list(found.values())


def _kind(program: Program, number: int) -> object:
    """Return a value's shape and type, and of a constant how many of its entries are not zero."""
    value, constant = program.values[number], program.constants.get(number)
    shape = sizes_at(value.shape, program.example)
    if constant is None or not constant.numel():
        return shape, value.dtype
    return shape, value.dtype, round(20 * int(constant.count_nonzero()) / constant.numel())


def least_seconds(sessions: Sequence[Session], inputs: Sequence[Tensor]) -> dict[Session, float]:
    """Return the least seconds of each session, run in turn."""
    same = {(id(each.program), each.native): each for each in sessions}
    left = {
        session: partial(session.runner(session.program.example), inputs)
        for session in same.values()
    }
    clock, begin = clock_for(sessions[0].threads), time.monotonic()
    best = dict.fromkeys(left, math.inf)
    for _ in range(REPEATS):
        for seconds in timed_turns(left, 2, clock=clock):
            best.update((each, min(best[each], now)) for each, now in seconds.items())
        limit = MUCH_SLOWER * min(best.values())
        left = {session: run for session, run in left.items() if best[session] <= limit}
        if len(left) == 1 or time.monotonic() - begin > LONG:
            break
    return {each: best[same[id(each.program), each.native]] for each in sessions}


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
