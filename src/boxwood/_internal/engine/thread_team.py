"""Threads that run native functions together, without the interpreter's lock.

Where torch runs on GNU's OpenMP, they are torch's own: its threads stay awake for a while after
each of its operators, and would take the processors from others.

Only the thread that calls ``fork`` lives on in the child, and OpenMP waits there for the others for
ever. A forked process, such as a worker of a DataLoader, therefore runs everything on one thread.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import ClassVar

import torch

from boxwood.errors import InvalidInput

NativeFunction = Callable[[int, int, int], None]  # job, thread, threads
Task = tuple[NativeFunction, int, int, object]


@dataclass(frozen=True)
class OpenMP:
    """What is needed of the library whose threads torch uses.

    Args:
        parallel: ``GOMP_parallel(function, job, threads, 0)``.
        numbers: addresses of ``omp_get_thread_num`` and ``omp_get_num_threads``.
    """

    parallel: Callable[[int, int, int, int], None]
    numbers: tuple[int, int]


@cache
def torch_openmp() -> OpenMP | None:
    """Find GNU's OpenMP where torch brings it along; None where torch has other threads.

    Example:
        >>> found = torch_openmp()
        >>> found is None or len(found.numbers)
        2
    """
    brought = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if len(brought) != 1 or not torch.backends.openmp.is_available():
        return None
    library = ctypes.CDLL(str(brought[0]))
    library.GOMP_parallel.argtypes = (*[ctypes.c_void_p] * 2, *[ctypes.c_uint] * 2)
    library.GOMP_parallel.restype = None
    number, count = (
        ctypes.cast(each, ctypes.c_void_p).value or 0
        for each in (library.omp_get_thread_num, library.omp_get_num_threads)
    )
    return OpenMP(library.GOMP_parallel, (number, count))


class ThreadTeam:
    """The calling thread and ``threads - 1`` others: OpenMP's, or ones that wait for it.

    A job's function has to keep its threads together by itself (see `driver`), so `run` returns
    when the caller's share is done; the others may still be on their way out of the function.
    ``calls`` lets as many callers in at once as there are cores for; ``planning`` is for one that
    changes what they share.

    Args:
        threads: how many, at least 1.

    Example:
        >>> ThreadTeam(1).run(lambda job, thread, threads: None, 0, 0, None)
    """

    forked: ClassVar[bool] = False
    """Whether this process is a child of ``fork``."""

    _all: ClassVar[weakref.WeakSet["ThreadTeam"]] = weakref.WeakSet()

    def __init__(self, threads: int) -> None:
        self.openmp = torch_openmp()
        self._queues: list[SimpleQueue[Task | None]] = []  # first, because __del__ closes them
        if not isinstance(threads, int) or not 1 <= threads <= 4 * (os.cpu_count() or 1):
            raise InvalidInput(
                f"Expected threads between 1 and four per core ({4 * (os.cpu_count() or 1)}), got "
                f"{threads!r}; give the number of cores to use."
            )
        self.threads = threads
        self._renew()
        ThreadTeam._all.add(self)

    def _renew(self) -> None:
        """Make the locks, and forget the threads."""
        # Threads of our own would wait for each other in two jobs; OpenMP has others for each caller.
        alone = self.threads > 1 and self.openmp is None
        self.calls = threading.BoundedSemaphore(1 if alone else max(1, _cores() // self.threads))
        self.planning = threading.RLock()
        self._queues = []

    @property
    def running(self) -> int:
        """How many threads run now: one after a fork."""
        return 1 if ThreadTeam.forked else self.threads

    @classmethod
    def after_fork(cls) -> None:
        """Forget the threads, and who held the locks, of the process that forked."""
        cls.forked = True
        for team in cls._all:
            team._renew()

    def run(self, function: NativeFunction, share: int, job: int, owner: object) -> None:
        """Call the function on every thread with its number.

        Args:
            function: what to call.
            share: address of what OpenMP's threads call with the job alone.
            job: its first argument.
            owner: what keeps the function's code and the job's memory alive.
        """
        threads = self.running
        if threads > 1 and self.openmp is not None:
            self.openmp.parallel(share, job, threads, 0)
            return
        if threads > 1:
            for queue in self._started():
                queue.put((function, job, threads, owner))
        function(job, 0, threads)

    def close(self) -> None:
        """End the waiting threads."""
        for queue in self._queues:
            queue.put(None)
        self._queues = []

    def _started(self) -> list[SimpleQueue[Task | None]]:
        if not self._queues:
            for thread in range(1, self.threads):
                queue: SimpleQueue[Task | None] = SimpleQueue()
                self._queues.append(queue)
                threading.Thread(
                    target=_wait, args=(queue, thread), name=f"boxwood-{thread}", daemon=True
                ).start()
        return self._queues

    def __del__(self) -> None:
        self.close()


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ThreadTeam.after_fork)


def _wait(queue: SimpleQueue[Task | None], thread: int) -> None:
    while (task := queue.get()) is not None:
        function, job, threads, _ = task
        function(job, thread, threads)
        del task, function, _
