"""A compiled network gives what torch gives at every batch, or says that it was made for others."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine import aten_ops
from boxwood._internal.engine.capture import capture
from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.program import (
    LinearSize,
    Program,
    SizeCondition,
    SizeOperator,
    TorchOp,
)
from boxwood._internal.engine.recording import UncapturableError
from boxwood._internal.engine.session import Session, load_session
from boxwood.errors import BoxwoodError

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 20, 33, 64)


class Net(nn.Module):
    """A layer, then a function of its result."""

    def __init__(self, function) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(6, 6), function
        self.register_buffer("table", torch.randn(8, 6))
        self.tables = {1: torch.zeros(6), 2: torch.ones(6)}

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.layer(x))


def groups_of_four(net, x):
    group = min(x.shape[0], 4)
    return (x.view(group, -1, 6) - x.view(group, -1, 6).mean(0)).reshape(x.shape)


def a_threshold(net, x):
    return x if x.size(0) <= 16 else x - x.mean(0)


def a_threshold_by_len(net, x):
    return x if len(x) <= 16 else x - x.mean(0)


def a_threshold_of_a_count(net, x):
    return x if x.numel() < 70 else -x


def a_threshold_of_a_quotient(net, x):
    return x if x.shape[0] // 4 < 2 else -x


def a_threshold_of_a_root(net, x):
    return x if math.sqrt(x.shape[0]) < 3.5 else -x


def a_threshold_of_a_product(net, x):
    return x if x.shape[0] * x.shape[0] < 100 else -x


def even_and_odd(net, x):
    return x if x.shape[0] % 2 else -x


def one_alone(net, x):
    return x.squeeze(0).unsqueeze(0) * 2 if x.shape[0] == 1 else x


def the_size_of_a_table(net, x):
    return x + net.table if x.shape[0] == net.table.shape[0] else x


def an_equal_shape(net, x):
    return x + net.table if x.shape == net.table.shape else x


def the_first_eight(net, x):
    return net.layer(x[:8])


def a_share_of_the_batch(net, x):
    return x[: (x.shape[0] + 3) // 4] * 2


def an_average_of_a_part(net, x):
    return x - x[:5].mean(0)


def two_by_two(net, x):
    return x.view(x.shape[0] // 2, 2, 6).sum(1) if x.shape[0] % 2 == 0 else x


def chunks(net, x):
    return torch.cat([part - part.mean(0) for part in x.chunk(4)])


def pieces(net, x):
    return torch.cat([part - part.mean(0) for part in x.split(4)])


def a_table_by_the_batch(net, x):
    return x + net.tables[x.shape[0]] if x.shape[0] in net.tables else x


def a_scale_by_the_batch(net, x):
    return x / x.shape[0] + x * float(x.size(0))


def a_bounded_loop(net, x):
    for row in range(min(x.shape[0], 3)):
        x = x + x[row]
    return x


def a_loop(net, x):
    return torch.stack([row * index for index, row in enumerate(x)])


def a_rounded_share(net, x):
    return x[: int(0.3 * x.shape[0]) + 1] * 2


def the_batch_beside(net, x):
    return {"y": x, "batch": x.shape[0]}


NEVER_WRONG = (
    groups_of_four, a_threshold, a_threshold_by_len, a_threshold_of_a_count,
    a_threshold_of_a_quotient, a_threshold_of_a_root, a_threshold_of_a_product, even_and_odd,
    one_alone, the_size_of_a_table, an_equal_shape, the_first_eight, a_share_of_the_batch,
    an_average_of_a_part, two_by_two, chunks, pieces, a_table_by_the_batch, a_scale_by_the_batch,
    a_bounded_loop, a_loop, a_rounded_share, the_batch_beside,
)  # fmt: skip


def flattened(net, x):
    n, f = x.shape
    return x.reshape(n * 2, f // 2).view(n, 2, -1).flatten(1)


def positions_and_zeros(net, x):
    return torch.cat([x, x.new_zeros(x.shape[0], 2), torch.arange(x.size(0)).view(-1, 1)], 1)


def statistics_of_the_batch(net, x):
    return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-3).sqrt()


def a_product_with_itself(net, x):
    return x @ x.t() / x.shape[-1]


def windows_and_back(net, x):
    windows = x.view(-1, 3)
    return windows.view(windows.shape[0] // 2, -1)


def asserted(net, x):
    assert x.shape[0] == x.sum(1).shape[0]
    assert x.shape[0] > 0
    return x


ALWAYS = (
    flattened, positions_and_zeros, statistics_of_the_batch, a_product_with_itself,
    windows_and_back, asserted,
)  # fmt: skip


def replay(program: Program, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    tensors = dict(program.constants) | dict(zip(program.inputs, inputs, strict=True))
    for op in program.ops:
        assert isinstance(op, TorchOp)
        op = aten_ops.at_batch(op, len(inputs[0]))
        tensors.update(zip(op.writes, aten_ops.run_operator(op, tensors), strict=True))
    return [tensors[value] for value in program.outputs]


def close(got, wanted) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("example", [1, 2, 8])
@pytest.mark.parametrize("function", NEVER_WRONG)
def test_another_batch_is_right_or_refused(function, example, tmp_path) -> None:
    """The example's own is right; a file carries the same sizes."""
    torch.manual_seed(0)
    net = Net(function).eval()
    fast = compile_(net, torch.randn(example, 6))
    assert isinstance(fast, Session)
    fast.save(tmp_path / "net.bxw")
    loaded = load_session(tmp_path / "net.bxw")
    right = []
    for size in SIZES:
        x = torch.randn(size, 6)
        for session in (fast, loaded):
            try:
                got = session(x)
            except BoxwoodError as error:
                assert "compile" in str(error)  # noqa: PT017
                continue
            with torch.no_grad():
                close(got, net(x))
            right.append(size)
    assert right.count(example) == 2
    assert all(right.count(size) == 2 for size in right)


@pytest.mark.parametrize("function", ALWAYS)
def test_what_is_the_same_for_every_batch_runs_for_every_batch(function) -> None:
    """Sizes that follow the batch are no reason to refuse."""
    torch.manual_seed(0)
    net = Net(function).eval()
    fast = compile_(net, torch.randn(1, 6))
    for size in SIZES:
        x = torch.randn(size, 6)
        with torch.no_grad():
            close(fast(x), net(x))


def test_a_refusal_says_what_the_code_asks() -> None:
    """And compiling with such an example is the way out."""
    net, x = Net(a_threshold).eval(), torch.randn(20, 6)
    with pytest.raises(BoxwoodError, match=r"got 20: it was compiled where batch <= 16 is true"):
        compile_(net, x[:2])(x)
    with torch.no_grad():
        close(compile_(net, x)(x), net(x))
    with pytest.raises(BoxwoodError, match=r"cannot be followed \(len\(\)\), so that only 1, 2, 3"):
        compile_(Net(a_threshold_by_len).eval(), x[:2])(x)


def test_conditions_hold_where_the_code_gets_the_same() -> None:
    """A quotient lies on the line of the program, a comparison gives what it gave."""
    batch = LinearSize(per=1, plus=0)
    half = SizeCondition(SizeOperator.FLOOR, batch, 2, found=LinearSize(per=1, plus=-1))
    assert [size for size in range(1, 9) if half.holds(size)] == [1, 2]
    odd = SizeCondition(SizeOperator.REST, batch, 2, found=1)
    assert [size for size in range(1, 9) if odd.holds(size)] == [1, 3, 5, 7]
    assert not SizeCondition(SizeOperator.FLOOR, 8, LinearSize(1, -1), found=8).holds(1)
    small = SizeCondition(SizeOperator.MORE, LinearSize(per=6, plus=1), 16, found=0)
    assert [size for size in range(1, 9) if small.holds(size)] == [1, 2]
    assert str(small) == "(6·batch +1) > 16 is false"


SIZE = st.deferred(
    lambda: st.one_of(
        st.just("n"),
        st.integers(-3, 12).map(str),
        st.builds("({} {} {})".format, SIZE, st.sampled_from(("+", "-", "*", "//", "%")), SIZE),
        st.builds("{}({}, {})".format, st.sampled_from(("min", "max")), SIZE, SIZE),
        st.builds("divmod({}, {})[{}]".format, SIZE, SIZE, st.integers(0, 1)),
        st.builds("(-{})".format, SIZE),
        st.builds("abs({})".format, SIZE),
        st.builds("int({} / 2)".format, SIZE),
        st.builds("({} if {} {} {} else {})".format, SIZE, SIZE, COMPARED, SIZE, SIZE),
        st.builds("({} if {} in ({}, {}) else {})".format, SIZE, SIZE, SIZE, SIZE, SIZE),
        st.builds("({} if {} else {})".format, SIZE, SIZE, SIZE),
    )
)
COMPARED = st.sampled_from(("==", "!=", "<", "<=", ">", ">="))


@settings(max_examples=25, deadline=None)
@given(SIZE, st.integers(1, 9), st.sampled_from(("x.shape[0]", "x.numel() // 3", "len(x)")))
@example("((n // 2) * 2)", 2, "x.shape[0]")
@example("(n % 4)", 4, "x.shape[0]")
@example("min(n, 4)", 1, "x.shape[0]")
@example("((n * n) - (n * n))", 3, "x.shape[0]")
def test_any_arithmetic_with_sizes_is_followed_or_refused(text, batch, source) -> None:
    """Where the conditions hold, the code computes what the program has."""
    code = compile(f"({text}, n)", "sizes", "eval")

    def function(x):
        number, n = eval(code, {"n": eval(source, {"x": x, "len": len})})  # noqa: S307
        return [x * number, x.new_zeros(n)]

    try:
        program = capture(function, (torch.zeros(batch, 3),)).program
    except (ZeroDivisionError, UncapturableError):
        return
    for size in range(1, 25):
        if program.batch is None or program.batches.against(size):
            continue
        x = torch.randn(size, 3)
        wanted = function(x)
        for ours, theirs in zip(replay(program, (x,)), wanted, strict=True):
            assert torch.equal(ours, theirs)
