"""Kernels called on memory that changes from call to call, by any number of threads at once."""

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


def loaded(codes: Iterable[Code], target: Target) -> Mapping[str, Library]:
    """Return the library of each code by entry; a process compiles and loads each once."""
    wanted = {code.entry: code for code in (driver.CODE, driver.SHARE, *codes)}
    with _loading:
        missing = [code for entry, code in wanted.items() if (target, entry) not in _libraries]
        if missing:
            library = jit.load_codes(missing, target, default_cache())
            _libraries.update({(target, code.entry): library for code in missing})
        return {entry: _libraries[target, entry] for entry in wanted}


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
        self.run = partial(team.run, driver.function(own), share, address, self)


class Chain:
    """Kernels that run one after the other, with arguments and memory of their own.

    The first reads, and the last writes, where a call says; what lies between is the chain's.

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
        scratch = max(bound.kernel.scratch for bound in kernels) * team.threads
        starts = [sum(between[:place]) for place in range(len(between))]
        self._memory = allocate_aligned(sum(between) + scratch)
        base = self._memory.ctypes.data
        places = [0, *(base + start for start in starts), 0]
        self._blocks = [
            arguments(
                bound.kernel, bound.addresses, source=places[number], target=places[number + 1],
                scratch=base + sum(between),
            )
            for number, bound in enumerate(kernels)
        ]  # fmt: skip
        self._first, self._last = self._blocks[0], self._blocks[-1]
        self._list = NativeList(list(zip(kernels, self._blocks, strict=True)), target, team)

    def __call__(self, source: int, target: int, images: int) -> None:
        """Run the kernels.

        Args:
            source: address that the first one reads.
            target: address that the last one writes.
            images: how many there are.
        """
        self._first[0], self._last[1] = source, target
        for block in self._blocks:
            block[4] = images
        self._list.run()


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
