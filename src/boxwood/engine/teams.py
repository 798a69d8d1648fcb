"""Threads that run native functions together, without the interpreter's lock."""

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from boxwood.core.errors import BoxwoodError

Function = Callable[[int, int, int], None]  # job, thread, threads
Task = tuple[Function, int, int, object]


class Team:
    """The calling thread and ``threads - 1`` that wait for it.

    A job's function has to keep its threads together by itself (see `driver`), so `run` returns
    when the caller's share is done; the others may still be on their way out of the function.

    Args:
        threads: how many, at least 1.

    Example:
        >>> Team(1).run(lambda job, thread, threads: None, 0, None)
    """

    def __init__(self, threads: int) -> None:
        self._queues: list[SimpleQueue[Task | None]] = []
        if not isinstance(threads, int) or not 1 <= threads <= 4 * (os.cpu_count() or 1):
            raise BoxwoodError(
                f"Expected threads between 1 and four per core ({4 * (os.cpu_count() or 1)}), got "
                f"{threads!r}; give the number of cores to use."
            )
        self.threads = threads

    def run(self, function: Function, job: int, owner: object) -> None:
        """Call the function on every thread with its number.

        Args:
            function: what to call.
            job: its first argument.
            owner: what keeps the function's code and the job's memory alive.
        """
        if self.threads > 1:
            for queue in self._started():
                queue.put((function, job, self.threads, owner))
        function(job, 0, self.threads)

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


def _wait(queue: SimpleQueue[Task | None], thread: int) -> None:
    while (task := queue.get()) is not None:
        function, job, threads, _ = task
        function(job, thread, threads)
        del task, function, _
