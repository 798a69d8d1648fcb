"""Copies of a bound plan, so that several threads can be in it at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from boxwood._internal.engine.runner import Runner


class RunnerPool:
    """Runners of one plan: one for each call that is under way, made when all others are in use.

    They share kernels and packed weights; each has its own memory for what lies between.

    Args:
        make: binds the plan to new memory.
    """

    def __init__(self, make: Callable[[], Runner]) -> None:
        self._make = make
        self.first = make()
        self._idle = [self.first]  # taking and returning the last one is atomic

    @contextmanager
    def taken(self) -> Iterator[Runner]:
        """Give a runner that no other thread uses meanwhile."""
        try:
            runner = self._idle.pop()
        except IndexError:
            runner = self._make()
        try:
            yield runner
        finally:
            self._idle.append(runner)
