"""Laws of buffers, of the cheapest assignment, and of what is written down."""

import itertools

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from boxwood._internal.engine import codec
from boxwood._internal.engine.assignment import _copy_seconds, cheapest_assignment
from boxwood._internal.engine.explain import OperationTimes
from boxwood._internal.engine.kernel_cache import place_constants
from boxwood._internal.engine.kernels.contract import Activation, Code, Kernel
from boxwood._internal.engine.layouts import padded
from boxwood._internal.engine.memory import Buffer, arrange_buffers
from boxwood._internal.engine.ops import Convolve, NativeOp
from boxwood._internal.engine.program import LinearSize, Program, TorchOp, Value, ValueRef


@given(
    st.lists(
        st.tuples(st.integers(1, 500), st.integers(0, 3), st.integers(0, 6), st.integers(0, 3)),
        max_size=25,
    )
)
@example([(1, 0, 0, 0), (1, 0, 0, 1), (1, 0, 0, 1)])  # all made in one step
@example([(1, 0, 1, 0), (1, 1, 2, 1), (1, 0, 1, 2)])  # two over the same
def test_buffers_that_live_at_once_do_not_overlap(drawn) -> None:
    """Unless one is written over another of its size in that one's last step."""
    buffers, step = [], 0
    for nbytes, later, length, over in drawn:
        step += later
        before = len(buffers) - over
        buffers.append(
            Buffer(nbytes, step, step + length, before if over and before >= 0 else None)
        )
    starts, total = arrange_buffers(buffers)
    taken = {}
    for index, buffer in enumerate(buffers):
        assert starts[index] % 64 == 0
        assert starts[index] + buffer.nbytes <= total
        old = buffer.over
        if old is not None and buffers[old].last == buffer.first and starts[old] == starts[index]:
            taken.setdefault(old, index)
    for one, two in itertools.combinations(range(len(buffers)), 2):
        a, b = buffers[one], buffers[two]
        apart = starts[one] + a.nbytes <= starts[two] or starts[two] + b.nbytes <= starts[one]
        at_once = a.first <= b.last and b.first <= a.last
        assert apart or not at_once or taken.get(one) == two


@settings(max_examples=60, deadline=None)  # the first example imports scipy
@given(st.data())
def test_the_minimum_cut_is_the_cheapest_assignment(data) -> None:
    """No other assignment of kernels and torch sums to less, copies included."""
    count = data.draw(st.integers(1, 6))
    shape = data.draw(st.sampled_from(((10,), (100_000,))))
    ops = []
    for index in range(count):
        reads = data.draw(st.lists(st.integers(0, index), min_size=1, max_size=2, unique=True))
        ops.append(TorchOp("aten.cat.default", (tuple(map(ValueRef, reads)),), (), (index + 1,)))
    value = Value(shape, torch.float32)
    program = Program(tuple(ops), dict.fromkeys(range(count + 1), value), {}, (0,), (count,), None)
    seconds = st.integers(1, 300).map(lambda micro: micro * 1e-6)
    times = {
        position: OperationTimes(data.draw(st.one_of(st.none(), seconds)), data.draw(seconds))
        for position in range(count)
    }

    def cost(native: frozenset[int]) -> float:
        total = 0.0
        for position, op in enumerate(ops):
            side = position in native
            spent = times[position].kernel if side else times[position].torch
            total += float("inf") if spent is None else spent
            for read in op.reads:
                total += ((read - 1 in native) != side) * _copy_seconds(program, read, 0)
        return total + (count - 1 in native) * _copy_seconds(program, count, 0)

    best = min(
        cost(frozenset(chosen))
        for size in range(count + 1)
        for chosen in itertools.combinations(range(count), size)
    )
    assert cost(cheapest_assignment(program, 0, times)) <= best + 1e-8 * count


def test_what_is_written_down_is_read_as_it_was() -> None:
    """Operations, problems and torch's constants survive JSON."""
    import json

    from boxwood._internal.engine.kernels.conv import Conv

    layout = padded(4, 5, 6, halo=1)
    parts = (
        TorchOp("aten.full.default", ((LinearSize(2, 1), 3), float("inf")), (("dtype", torch.int64),), (4,)),
        NativeOp(Convolve((1, 1), (0, 1), (1, 1), 2, Activation.GELU), (1, 2), 3, weight=7),
        Conv(layout, layout, (3, 3), padding=(1, 1)),
        torch.channels_last, torch.device("cpu"), None, True,
    )  # fmt: skip
    assert codec.decode(json.loads(json.dumps(codec.encode(parts)))) == parts


def test_constants_lie_once_in_memory_if_all_their_bytes_are_equal() -> None:
    """Arrays that differ in one byte have places of their own, wherever that byte is."""
    one = np.arange(40_000, dtype=np.float32)
    others = [one.copy() for _ in range(4)]
    for index, other in enumerate(others[1:]):
        other[1 + 12_345 * index] += 1
    parts = [one, *others, one.view(np.int32)]
    kernels = [Kernel(Code("none", str), constants=(part,)) for part in parts]
    held: dict = {}
    bound = place_constants(kernels, held)
    for part, each in zip(parts, bound, strict=True):
        (placed,) = each.kernel.constants
        assert placed.dtype == part.dtype
        np.testing.assert_array_equal(placed, part)
    addresses = [address for each in bound for address in each.addresses]
    assert addresses[0] == addresses[1]
    assert len(set(addresses)) == 5
    again = place_constants([Kernel(Code("none", str), constants=(others[3].copy(),))], held)
    assert again[0].addresses == bound[4].addresses
