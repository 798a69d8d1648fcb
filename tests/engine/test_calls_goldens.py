"""How a compiled network is called, and what a wrong call says."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.session import Uncompiled
from boxwood.errors import BoxwoodError


class Pair(NamedTuple):
    """A network's output."""

    first: torch.Tensor
    second: dict


class Net(nn.Module):
    """Takes named arguments, a number among them, and returns a nested output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x, scale=2.0, *, other=None):
        y = self.layer(x) * scale
        return Pair(y, {"plain": 7, "none": None, "both": [y if other is None else y + other]})


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_arguments_go_by_position_or_name(net) -> None:
    """A call by name is a call by position; the output's nesting is the network's."""
    x, other = torch.randn(2, 4), torch.randn(2, 3)
    fast = compile_(net, {"x": x, "other": other, "scale": 3.0})
    for got in (fast(x, 3.0, other=other), fast(other=other, scale=3.0, x=x)):
        assert isinstance(got, Pair)
        assert (got.second["plain"], got.second["none"]) == (7, None)
        with torch.no_grad():
            wanted = net(x, 3.0, other=other)
        torch.testing.assert_close(got.second["both"], wanted.second["both"])


def test_the_network_is_left_as_it_was() -> None:
    """Training mode, gradients and weights; changing it later does not reach the session."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.PReLU(4))
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(2, 4)
    fast = compile_(net, x)
    assert [module.training for module in net.modules()] == [True, True, True, False, True]
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    y = fast(x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(fast(x), y)


def test_results_are_the_callers() -> None:
    """Writing into a result changes no later result, constants included."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(3))

        def forward(self, x):
            return x.relu(), self.table, self.table * 2

    fast = compile_(Constant(), torch.randn(1, 3))
    x = torch.randn(1, 3)
    for result in fast(x):
        result.fill_(9.0)
    assert fast(x)[1].tolist() == [1.0, 1.0, 1.0]
    assert fast(x)[2].tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fast: fast(torch.zeros(2, 5)), r"shape \(batch, 4\), got \(2, 5\)"),
        (lambda fast: fast(torch.zeros(0, 4)), r"got \(0, 4\)"),
        (lambda fast: fast(torch.zeros(2, 4, dtype=torch.float64)), "to be torch.float32 on cpu"),
        (lambda fast: fast(), "arguments like the example's"),
        (lambda fast: fast(torch.zeros(2, 4), 3.0), "arguments like the example's"),
        (lambda fast: fast(torch.zeros(2, 4), wrong=1), "arguments for the parameters"),
        (lambda fast: fast("text"), "Expected a tensor, got str"),
    ],
)
def test_a_wrong_call_says_what_was_expected(net, call, message) -> None:
    """Before anything runs."""
    fast = compile_(net, torch.zeros(2, 4))
    with pytest.raises(BoxwoodError, match=message):
        call(fast)


def test_a_fixed_argument_stays_fixed(net) -> None:
    """A number of the example is part of the program."""
    fast = compile_(net, (torch.zeros(2, 4), 2.0))
    with pytest.raises(BoxwoodError, match=r"argument 2.0 of the example, got 3.0"):
        fast(torch.zeros(2, 4), 3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"example": 3}, "as the example"),
        ({"example": torch.zeros(1, 4), "threads": 0}, "Expected threads between 1"),
        ({"example": torch.zeros(1, 4), "threads": 1.5}, "Expected threads between 1"),
        ({"example": {"y": torch.zeros(1, 4)}}, "arguments for the parameters"),
    ],
)
def test_what_cannot_be_compiled_is_said(net, arguments, message) -> None:
    """Examples and threads are checked first."""
    with pytest.raises(BoxwoodError, match=message):
        compile_(net, **arguments)


def test_a_network_that_looks_at_values_stays_in_torch(tmp_path) -> None:
    """It runs, says why, and cannot be saved."""

    class Choosing(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x - 1

    fast = compile_(Choosing(), torch.ones(2, 2))
    assert isinstance(fast, Uncompiled)
    assert torch.equal(fast(-torch.ones(2, 2)), -2 * torch.ones(2, 2))
    assert "reads the result of" in str(fast.explain(torch.ones(2, 2)))
    with pytest.raises(BoxwoodError, match="one list of operations"):
        fast.save(tmp_path / "no.bxw")


def test_an_explanation_names_every_operation(net) -> None:
    """With its weight, its place, its time and a reason."""
    deep = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8), nn.Softplus()).eval()
    with torch.no_grad():
        deep[0].weight.mul_(torch.rand_like(deep[0].weight) >= 0.9)
    x = torch.zeros(1, 64)
    found = compile_(deep, x).explain(x)
    names = [line.name for line in found.lines]
    assert "project 0.weight + relu" in names
    assert "softplus" in names
    assert all(line.seconds > 0 and (line.why or line.place == "torch") for line in found.lines)
    assert "bytes each" in str(found)


@pytest.mark.parametrize("whose", ["torch's", "ours"])
def test_threads_give_the_same_bits(monkeypatch, whose) -> None:
    """As far as kernels make them."""
    from boxwood._internal.engine import thread_team
    from boxwood._internal.engine.kernel_cache import KernelCache
    from boxwood._internal.engine.session import Session
    from boxwood._internal.engine.supported import supported_problems

    if whose == "ours":
        monkeypatch.setattr(thread_team, "torch_openmp", lambda: None)
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 1)).eval()
    one = compile_(body, torch.zeros(1, 8, 20, 20))
    able = frozenset(supported_problems(one.program, 1))
    x = torch.randn(2, 8, 20, 20)
    wanted = one.with_native(able)(x)
    for threads in (2, 3):
        kernels = KernelCache(one.program, one.kernels.target, threads)
        many = Session(one.program, one.interface, able, kernels, thread_team.ThreadTeam(threads))
        for _ in range(20):
            assert torch.equal(many(x), wanted)


def test_kernels_run_on_the_threads_that_torch_has() -> None:
    """Other ones would fight with them for the processors."""
    from boxwood._internal.engine.kernel_cache import KernelCache
    from boxwood._internal.engine.session import Session
    from boxwood._internal.engine.supported import supported_problems
    from boxwood._internal.engine.thread_team import ThreadTeam, torch_openmp

    if torch_openmp() is None:
        pytest.skip("torch has no GNU OpenMP here")
    net = nn.Linear(64, 64).eval()
    one = compile_(net, torch.zeros(8, 64))
    able = frozenset(supported_problems(one.program, one.program.batch or 0))
    many = Session(
        one.program,
        one.interface,
        able,
        KernelCache(one.program, one.kernels.target, 2),
        ThreadTeam(2),
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.ones(1000, 1000).add(1)
        tasks = Path("/proc/self/task")
        had = {task.name for task in tasks.iterdir()}
        many(torch.ones(8, 64))
        assert {task.name for task in tasks.iterdir()} <= had
    finally:
        torch.set_num_threads(before)


def test_nan_and_infinity_pass_as_in_torch() -> None:
    """Where no weight is zero; a kernel skips zeros, and with them what only they would meet."""
    from boxwood._internal.engine.supported import supported_problems

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.Hardswish(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(16, 16, 1), nn.GELU(), nn.Flatten(),
        nn.Linear(256, 6), nn.ReLU6(),
    )  # fmt: skip
    compiled = compile_(net, torch.zeros(1, 3, 8, 8))
    for native in (frozenset(supported_problems(compiled.program, 1)), frozenset()):
        fast = compiled.with_native(native)
        for value in (float("nan"), float("inf"), -float("inf")):
            x = torch.randn(1, 3, 8, 8)
            x[0, 1, 4, 5] = value
            with torch.no_grad():
                wanted = net(x)
            torch.testing.assert_close(fast(x), wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_kept_weights_take_less_than_dense_ones() -> None:
    """Apart from the packed kernels only a bit for each entry and the entries are kept."""
    from boxwood._internal.engine.supported import supported_problems

    net = nn.Linear(256, 256, bias=False)
    with torch.no_grad():
        net.weight.mul_(torch.rand_like(net.weight) >= 0.9)
    x = torch.randn(1, 256)
    fast = compile_(net, x)
    fast = fast.with_native(frozenset(supported_problems(fast.program, 1)))
    fast.compact(1)
    found = fast.explain(x)
    assert found.kept_bytes <= 4 * found.nonzero + 256 * 256 // 8
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-5, atol=1e-5)
        wide = torch.randn(9, 256)  # another batch has to pack the weight again
        torch.testing.assert_close(fast(wide), net(wide), rtol=1e-5, atol=1e-5)
