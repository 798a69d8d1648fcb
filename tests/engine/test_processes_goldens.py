"""Compiled networks next to other processes, in long-lived ones, and without a home folder."""

import contextlib
import copy
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine import thread_team
from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.kernel_cache import KernelCache
from boxwood._internal.engine.session import PLANS, Session, load_session
from boxwood._internal.engine.supported import supported_problems
from boxwood.errors import BoxwoodError

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def in_kernels(net: nn.Module, example: torch.Tensor, threads: int = 1) -> Session:
    """Compile with every operation that a kernel can do in one, whatever is fastest."""
    one = compile_(net, example)
    able = frozenset(supported_problems(one.program, len(example)))
    kernels = KernelCache(one.program, one.kernels.target, threads)
    session = Session(one.program, one.interface, able, kernels, thread_team.ThreadTeam(threads))
    session.compact(len(example))
    return session


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8), nn.Softmax(-1)).eval()


def in_child(work: Callable[[], bool], seconds: float = 60) -> bool:
    """Say whether a forked child did its work, and rightly; one that hangs is ended."""
    child = os.fork()
    if child == 0:
        right = False
        try:
            right = work()
        finally:
            os._exit(0 if right else 1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@forks
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("whose", ["torch's", "ours"])
def test_a_forked_process_runs_what_was_compiled_before(net, monkeypatch, threads, whose) -> None:
    """With the same bits, although the threads of the parent are not there any more."""
    if whose == "ours":
        monkeypatch.setattr(thread_team, "torch_openmp", lambda: None)
    x = torch.randn(8, 64)
    fast = in_kernels(net, x, threads)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.ones(1000, 1000).add(1)  # OpenMP has started its threads
        wanted = fast(x)
        assert in_child(lambda: torch.equal(fast(x), wanted))
        assert in_child(lambda: torch.allclose(compile_(net, x, threads=threads)(x), wanted))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(fast(x), wanted)


@forks
def test_a_process_that_is_forked_during_a_call_is_not_locked_out(net) -> None:
    """A lock that another thread of the parent held has nobody to release it in the child."""
    x = torch.randn(8, 64)
    fast = in_kernels(net, x)
    wanted = fast(x)
    with contextlib.ExitStack() as held:
        held.enter_context(fast.team.planning)
        while fast.team.calls.acquire(blocking=False):
            held.callback(fast.team.calls.release)
        assert in_child(lambda: torch.equal(fast(x), wanted))


@forks
def test_forked_processes_do_not_write_into_each_others_results(net) -> None:
    """Each process has an arena of its own while both run the same session."""
    fast = in_kernels(net, torch.zeros(8, 64))
    xs = torch.randn(2, 8, 64)
    wanted = [fast(x) for x in xs]
    # The child writes into its arena between two steps of the parent.
    runner = fast.runner(8)
    runner._arena.fill_(1)
    assert in_child(lambda: bool(torch.equal(fast(xs[1]), wanted[1])))
    assert bool((runner._arena == 1).all())
    assert torch.equal(fast(xs[0]), wanted[0])


@pytest.mark.parametrize(
    "way", [pickle.dumps, copy.deepcopy, copy.copy, lambda each: torch.save(each, os.devnull)]
)
def test_what_cannot_be_pickled_says_what_to_do(net, way) -> None:
    """Machine code lies at addresses of one process."""
    fast = compile_(net, torch.zeros(8, 64))
    with pytest.raises(BoxwoodError, match=r"use save\(path\) and boxwood.load\(path\)"):
        way(fast)


def held(session: Session) -> tuple[int, int]:
    """Return how many kernels a session has, and the bytes of memory that they keep alive."""
    kernels = [each.kernel for each in session.kernels.built.values()]
    parts = [part for kernel in kernels for part in kernel.constants]
    memories = {}
    for part in parts:
        while isinstance(part.base, np.ndarray):
            part = part.base
        memories[part.ctypes.data] = part.nbytes
    return len(kernels), sum(memories.values())


def test_many_batches_take_no_more_memory_than_a_few(net) -> None:
    """Kernels of batches whose plans are dropped go with them; those of the example stay."""
    fast = in_kernels(net, torch.zeros(8, 64))
    first = set(fast.kernels.built)
    most = (0, 0)
    for batch in range(9, 9 + PLANS + 1):
        fast(torch.zeros(batch, 64))
        most = max(most, held(fast))
    for batch in range(20, 70):
        x = torch.randn(batch, 64)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), net(x))
        count, nbytes = held(fast)
        assert count <= most[0]
        assert nbytes <= 2 * most[1]
    assert first <= set(fast.kernels.built)


def test_batches_share_packed_weights(monkeypatch) -> None:
    """As far as they are packed alike."""
    from boxwood._internal.engine import costs
    from boxwood._internal.engine.kernels.packing import ConvPacking

    monkeypatch.setattr(
        costs, "choose_packing", lambda *args, **more: ConvPacking(vectors=2, block=128)
    )
    fast = in_kernels(nn.Linear(256, 256).eval(), torch.zeros(8, 256))
    _, one = held(fast)
    for batch in range(20, 20 + PLANS):
        fast(torch.zeros(batch, 256))
    packed = [each for each in fast.kernels.built.values() if each.kernel.packing]
    assert len(packed) == PLANS + 1
    assert held(fast)[1] < 1.2 * one


def test_a_loaded_session_keeps_the_kernels_of_its_file(net, tmp_path, monkeypatch) -> None:
    """However many other batches it has seen, it packs and compiles nothing for that one."""
    from boxwood._internal.engine import kernel_problems

    saved = in_kernels(net, torch.zeros(8, 64))
    saved.save(tmp_path / "net.bxw")
    loaded = load_session(tmp_path / "net.bxw")
    for batch in range(9, 9 + 2 * PLANS):
        loaded(torch.zeros(batch, 64))

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("packed")

    monkeypatch.setattr(kernel_problems, "build_kernel", refuse)
    x = torch.randn(8, 64)
    assert torch.equal(loaded(x), saved(x))


def test_no_home_folder_is_no_error(net, monkeypatch) -> None:
    """A user without one, as in many containers, compiles without a cache."""

    def homeless(*args: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    x = torch.randn(8, 64)
    with torch.no_grad():
        torch.testing.assert_close(compile_(net, x)(x), net(x))


_SMALL_DECODER = """
import sys
import torch
from torch import nn
from boxwood._internal.engine.compiling import compile

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.norm, self.head = nn.Embedding(9, 16), nn.RMSNorm(16), nn.Linear(16, 9)

    def forward(self, ids):
        x = self.table(ids)
        x = self.norm(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        return self.head(nn.functional.silu(x) * x)

compile(Net(), torch.zeros(1, 4, dtype=torch.long))
assert not {"torch._dynamo", "sympy"} & sys.modules.keys()
"""


def test_compiling_a_decoder_imports_nothing_of_torch_compile() -> None:
    """`torch._dynamo` and sympy take longer to import than a small network takes to compile."""
    subprocess.run([sys.executable, "-c", _SMALL_DECODER], check=True, timeout=300)
