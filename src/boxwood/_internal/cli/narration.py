"""Progress of a run, reported line by line: for pipes, log files and several workers."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from boxwood._internal.cli.terminal import say
from boxwood._internal.recipes.phase import Phase
from boxwood._internal.report.tables import human_seconds
from boxwood._internal.runs.runner import Job, Watcher, phase_title, with_needs
from boxwood._internal.runs.store import Store
from boxwood._internal.train.settings import Training
from boxwood.errors import BoxwoodError

_POLL = 0.5  # seconds
_SILENCE = 30.0  # seconds


@dataclass(frozen=True)
class Position:
    """Where a phase of this process is.

    Args:
        where: the run and the phase, in words.
        done: steps.
        steps: all of them.
        begun: when it was first heard of, and how many steps were done by then.
    """

    where: str
    done: int
    steps: int
    begun: tuple[float, int]


class Narration:
    """Reports the phases of some jobs that have come into a store since it was asked last.

    How long the rest takes is guessed from phases alike that are done: of the same title, else of
    the same kind, by their epochs or steps, else of any.

    Args:
        jobs: what was asked for.
        store: where finished phases come.
        workers: how many phases are made at a time.
        clock: seconds.

    Example:
        >>> Narration([], Store("runs"), workers=1).news()
        []
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        store: Store,
        *,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._workers, self._clock = store, workers, clock
        self._open: dict[str, tuple[str, _Kind]] = {}
        for job in with_needs(jobs):
            for key, phase in zip(job.chain, (None, *job.recipe), strict=True):
                self._open.setdefault(key, (job.name, _kind(phase)))
        self._all = len(self._open)
        self._took: list[tuple[_Kind, float]] = []
        self._position: Position | None = None
        self.news()
        self._before, self._last = self._done, clock()

    @property
    def _done(self) -> int:
        return self._all - len(self._open)

    def first(self) -> str:
        """Say what there is to do."""
        already = f", {self._before} of them done already" if self._before else ""
        return f"{self._all} phases{already}"

    def news(self) -> list[str]:
        """Say in a line each which phases are done that were not when this was asked last."""
        lines = []
        for key, (name, kind) in list(self._open.items()):
            if self._store.has(key):
                del self._open[key]
                seconds = self._seconds(key)
                self._took.append((kind, seconds))
                lines.append(
                    f"{self._done} of {self._all} phases done: {name}, {kind.title}, in "
                    f"{human_seconds(seconds)}{self._rest()}"
                )
        if lines:
            self._last = self._clock()
        return lines

    def watch(self, job: Job, index: int, done: int, steps: int) -> None:
        """Take note of a step of a phase of this process."""
        where = f"{job.name}, {phase_title(job.recipe[index - 1])}"
        known = self._position
        same = known is not None and known.where == where and known.done <= done
        begun = known.begun if known is not None and same else (self._clock(), done)
        self._position = Position(where, done, steps, begun)

    def reminder(self) -> list[str]:
        """Say where things are, if nothing was said for a while."""
        now, at = self._clock(), self._position
        if now - self._last < _SILENCE or not self._open:
            return []
        self._last = now
        if at is None or at.done >= at.steps:
            return [f"{self._done} of {self._all} phases done{self._rest()}"]
        begun, before = at.begun
        speed = (at.done - before) / max(now - begun, 1e-9)
        left = f"; about {human_seconds((at.steps - at.done) / speed)} of it left" if speed else ""
        steps = f"{at.done:,} of {at.steps:,} steps"
        return [f"{self._done} of {self._all} phases done: {at.where}, {steps}{left}"]

    def _rest(self) -> str:
        """Guess how long the open phases take."""
        if not self._took or not self._open:
            return ""
        whole = sum(self._guess(kind) for _, kind in self._open.values())
        return f"; about {human_seconds(whole / min(self._workers, len(self._open)))} left"

    def _guess(self, kind: "_Kind") -> float:
        for like in (
            [each for each in self._took if each[0].title == kind.title],
            [each for each in self._took if each[0].family == kind.family],
        ):
            if like:
                size = sum(each.size for each, _ in like)
                return sum(seconds for _, seconds in like) / size * kind.size
        return sum(seconds for _, seconds in self._took) / len(self._took)

    def _seconds(self, key: str) -> float:
        with suppress(
            BoxwoodError, KeyError, TypeError, ValueError
        ):  # damage is reported elsewhere
            return float(self._store.record(key)["provenance"]["seconds"])
        return 0.0


@contextmanager
def narrated(jobs: Sequence[Job], store: Store, *, workers: int = 1) -> Iterator[Watcher]:
    """Report on standard error, in a line for each phase, what this and other processes have done.

    Yields:
        The watcher, to which a process reports the steps of its phases, for lines about long ones.
    """
    narration, over = Narration(jobs, store, workers=workers), threading.Event()

    def report() -> None:
        while not over.wait(_POLL):
            _say(narration.news() or narration.reminder())

    _say([narration.first()])
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield narration.watch
    finally:
        over.set()
        thread.join()
        _say(narration.news())


def _say(lines: list[str]) -> None:
    for line in lines:
        say(f"boxwood: {line}", error=True)


@dataclass(frozen=True)
class _Kind:
    """What a phase is: its title, what it has in common with phases of other lengths, its length."""

    title: str
    family: str
    size: float = 1.0


def _kind(phase: Phase | None) -> _Kind:
    if phase is None:
        return _Kind("start", "start")
    title, family = phase_title(phase), type(phase).__name__
    training = getattr(phase, "training", None)
    if not isinstance(training, Training):
        return _Kind(title, family)
    whole = training.epochs or 0 if training.steps is None else training.steps
    length = (whole if training.stop_at is None else training.stop_at) - training.start_at
    return _Kind(
        title, f"{family} {'epochs' if training.steps is None else 'steps'}", max(length, 1)
    )
