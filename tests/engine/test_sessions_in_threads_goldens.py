"""One session called by many threads, and what it holds in memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.constants import CompactTensor, Constants
from boxwood._internal.engine.session import Session, load_session
from boxwood._internal.engine.supported import supported_problems
from boxwood._internal.engine.thread_team import ThreadTeam


def pruned(net: nn.Module, sparsity: float) -> nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter *= torch.rand_like(parameter) >= sparsity
    return net.eval()


def in_kernels(net: nn.Module, x: Tensor) -> Session:
    """Compile with every operation that a kernel can do in one."""
    session = compile_(net, x)
    session = session.with_native(frozenset(supported_problems(session.program, len(x))))
    session.compact(len(x))
    return session


@pytest.mark.parametrize("cores", [1, 3])
def test_many_threads_get_their_own_results(monkeypatch, cores) -> None:
    """With other inputs and batches at the same time, some of which nobody has planned."""
    monkeypatch.setattr("boxwood._internal.engine.thread_team._cores", lambda: cores)
    torch.manual_seed(0)
    net = pruned(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Flatten(), nn.Linear(8 * 36, 10)), 0.5
    )
    fast = in_kernels(net, torch.zeros(1, 3, 8, 8))
    xs = [torch.randn(1 + number % 6, 3, 8, 8) for number in range(12)]
    with torch.no_grad():
        wanted = [net(x) for x in xs]
    alone = [fast(x) for x in xs]
    for got, want in zip(alone, wanted, strict=True):
        torch.testing.assert_close(got, want)

    def call(number: int) -> None:
        for turn in range(10):
            which = (number + turn) % len(xs)
            assert torch.equal(fast(xs[which]), alone[which])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))


def test_as_many_calls_as_there_are_cores(monkeypatch) -> None:
    """Threads of our own serve one call at a time: two would wait for each other."""
    monkeypatch.setattr("boxwood._internal.engine.thread_team._cores", lambda: 4)
    assert ThreadTeam(1).calls._value == 4
    assert ThreadTeam(3).calls._value == 1
    monkeypatch.setattr("boxwood._internal.engine.thread_team.torch_openmp", lambda: None)
    assert ThreadTeam(2).calls._value == 1


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (
        lambda: nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)),
        (1, 512),
    ),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(64, 128, 3, groups=2), nn.ReLU(), nn.Conv2d(128, 128, 3)),
        (1, 64, 8, 8),
    ),
    "tokens": (
        lambda: nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256)), (1, 20, 256),
    ),
    "recurrence": (lambda: nn.LSTM(256, 256, 2), (1, 1, 256)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_weights_are_held_once(name, tmp_path) -> None:
    """At 80 % zeros, all that is held is at most 45 % of the dense weights; every weight comes back exactly."""
    torch.manual_seed(0)
    make, shape = NETS[name]
    net, x = pruned(make(), 0.8), torch.randn(shape)
    fast = in_kernels(net, x)
    dense = sum(4 * parameter.numel() for parameter in net.parameters())
    parts = {
        part.ctypes.data: part.nbytes
        for bound in fast.kernels.built.values()
        for part in bound.kernel.constants
    }
    constants = Constants(fast.program.constants).nbytes
    assert constants + sum(parts.values()) <= 0.45 * dense
    own = dict(net.named_parameters())
    read = {name: number for number, name in fast.program.names.items() if own[name].ndim > 1}
    assert read
    for name, number in read.items():
        weight = fast.program.constants[number]
        assert torch.equal(weight.reshape(own[name].shape), own[name])
    fast.save(tmp_path / "net.bxw")
    with pytest.MonkeyPatch.context() as patch:  # reading makes no dense weight
        patch.setattr(CompactTensor, "tensor", None)
        again = load_session(tmp_path / "net.bxw")
    first, second = fast(x), again(x)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(first, net(x))
