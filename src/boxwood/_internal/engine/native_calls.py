"""Call kernels on memory that changes from call to call, from any number of threads at once."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine import driver
from boxwood._internal.engine.kernels.contract import BoundKernel, Code, arguments
from boxwood._internal.engine.llvm import jit
from boxwood._internal.engine.llvm.cache import default_cache
from boxwood._internal.engine.llvm.objects import Library
from boxwood._internal.engine.memory import allocate_aligned
from boxwood._internal.engine.targets import Target
from boxwood._internal.engine.thread_team import ThreadTeam

_libraries: dict[tuple[Target, str], Library] = {}
_loading = threading.Lock()
_idle: list[NDArray[np.uint8]] = []  # memory for what lies between kernels, of all layers


def loaded(codes: Iterable[Code], target: Target) -> Mapping[str, Library]:
    """Return the library of each code by entry; a process compiles and loads each once."""
    wanted = {code.entry: code for code in (driver.CODE, driver.SHARE, *codes)}
    with _loading:
        missing = [code for entry, code in wanted.items() if (target, entry) not in _libraries]
        if missing:
            library = jit.load_codes(missing, target, default_cache())
            _libraries.update({(target, code.entry): library for code in missing})
        return {entry: _libraries[target, entry] for entry in wanted}


def _after_fork() -> None:
    """Another thread of the parent may have held the lock."""
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class NativeList:
    """Kernels that run one after the other in one native call; one caller at a time.

    Args:
        calls: kernels and their arguments.
        target: the family that they are for.
        team: the threads.
    """

    def __init__(
        self,
        calls: Sequence[tuple[BoundKernel, NDArray[np.int64]]],
        target: Target,
        team: ThreadTeam,
    ) -> None:
        self._calls = calls  # whose memory is known by address alone
        libraries = loaded([bound.kernel.code for bound, _ in calls], target)
        entries = [bound.kernel.code.entry for bound, _ in calls]
        if len(calls) == 1 and team.threads == 1:
            function = libraries[entries[0]].function(entries[0])
            self.run = partial(function, calls[0][1].ctypes.data, 0, 1)
            return
        table = [
            (libraries[entry].address(entry), block.ctypes.data)
            for entry, (_, block) in zip(entries, calls, strict=True)
        ]
        own = libraries[driver.CODE.entry]
        numbers = team.openmp.numbers if team.openmp else (0, 0)
        address, self._words = driver.job(table, own, numbers)
        share = libraries[driver.SHARE.entry].address(driver.SHARE.entry)
        run = partial(team.run, driver.function(own), share, address, self)
        # Threads of our own would wait for each other in two jobs.
        alone = team.threads > 1 and team.openmp is None
        self.run = partial(_one_at_a_time, team, run) if alone else run


def _one_at_a_time(team: ThreadTeam, run: Callable[[], None]) -> None:
    with team.calls:
        run()


class Chain:
    """Kernels that run one after the other, with arguments of their own; one caller at a time.

    The first reads, and the last writes, where a call says; what lies between is in memory that
    all chains share, each call its own.

    Args:
        kernels: in order; each reads what the one before wrote.
        between: bytes between one kernel and the next.
        target: the family that they are for.
        team: the threads.
    """

    def __init__(
        self,
        kernels: Sequence[BoundKernel],
        between: Sequence[int],
        target: Target,
        team: ThreadTeam,
    ) -> None:
        self._blocks = [arguments(b.kernel, b.addresses, source=0, target=0) for b in kernels]
        self._first, self._last = self._blocks[0], self._blocks[-1]
        self._list = NativeList(list(zip(kernels, self._blocks, strict=True)), target, team)
        self._starts = [sum(between[:place]) for place in range(len(between) + 1)]
        scratch = max(bound.kernel.scratch for bound in kernels) * team.threads
        self._nbytes = self._starts[-1] + scratch

    def __call__(self, source: int, target: int, images: int) -> None:
        """Run the kernels.

        Args:
            source: address that the first one reads.
            target: address that the last one writes.
            images: how many there are.
        """
        memory = self._take() if self._nbytes else None
        self._first[0], self._last[1] = source, target
        for block in self._blocks:
            block[4] = images
        self._list.run()
        if memory is not None:
            _idle.append(memory)

    def _take(self) -> NDArray[np.uint8]:
        """Take memory that no other call uses, and let the kernels write there."""
        try:
            memory = _idle.pop()
        except IndexError:
            memory = allocate_aligned(self._nbytes)
        if memory.nbytes < self._nbytes:
            memory = allocate_aligned(self._nbytes)
        base = memory.ctypes.data
        for number, start in enumerate(self._starts[:-1]):
            self._blocks[number][1] = self._blocks[number + 1][0] = base + start
        for block in self._blocks:
            block[3] = base + self._starts[-1]
        return memory


class ChainPool:
    """Chains of the same kernels, made when all others are in use.

    Args:
        make: makes one.
    """

    def __init__(self, make: Callable[[], Chain]) -> None:
        self._make = make
        self._idle: list[Chain] = []  # taking and returning the last one is atomic

    def __call__(self, source: int, target: int, images: int) -> None:
        """Run a chain that no other thread uses meanwhile."""
        try:
            chain = self._idle.pop()
        except IndexError:
            chain = self._make()
        chain(source, target, images)
        self._idle.append(chain)
