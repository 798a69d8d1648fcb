"""Progress bars: one line per active run, with rate and remaining time."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.report.tables import human_bytes, human_seconds
from boxwood._internal.runs.runner import Job, Watcher, phase_title

_EVERY = 10.0  # seconds between lines where there is no bar


def seen() -> bool:
    """Say whether standard error is a terminal, on which bars can be drawn."""
    return Console(file=sys.stderr).is_terminal


class _Lines:
    """Lines in place of a bar: none in the first seconds, and then one now and again."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self._first = 0

    def begin(self, done: int) -> None:
        """Count time from here, and what is done from there: something is taken up again."""
        self._begun, self._first = time.monotonic(), done

    def report(self, what: str, done: int, total: int, unit: Callable[[int], str]) -> None:
        now = time.monotonic()
        if now - self._last < _EVERY:
            return
        self._last = now
        of = left = ""
        if total:
            of = f" of {unit(total)}"
        if total and done > self._first:
            each = (now - self._begun) / (done - self._first)
            left = f"; about {human_seconds(each * (total - done))} left"
        say(f"boxwood: {what}: {unit(done)}{of}{left}", error=True)


@contextmanager
def bar(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show one bar on standard error, called with (done, all); lines where that is no terminal."""
    console, lines = Console(file=sys.stderr), _Lines()
    if quiet:
        yield None
        return
    if not console.is_terminal:
        yield lambda done, whole: lines.report(title, done, whole, str)
        return
    with _counted(console) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, whole: progress.update(task, completed=done, total=whole)


@contextmanager
def titled_bar(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show one bar whose title changes, called with (title, done, all); the first call says what is taken up again."""
    console, lines = Console(file=sys.stderr), _Lines()
    if quiet:
        yield lambda title, done, whole: None  # noqa: ARG005
        return
    if not console.is_terminal:
        begun: list[int] = []

        def watch(title: str, done: int, whole: int) -> None:
            if not begun:
                begun.append(done)
                lines.begin(done)
            lines.report(title, done, whole, str)

        yield watch
        return
    with _counted(console) as progress:
        task = progress.add_task("", total=None)
        yield lambda title, done, whole: progress.update(
            task, description=title, completed=done, total=whole
        )


def _counted(console: Console) -> Progress:
    """Bars that say how many are done of how many."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Steps per second."""
        return Text(f"{task.speed:.0f}/s" if task.speed else "", style="progress.data.speed")


@contextmanager
def bars() -> Iterator[Watcher]:
    """Show a bar for the phase under way, on standard error, which is a terminal."""
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[tuple[str, int], int] = {}

        def watch(job: Job, index: int, done: int, steps: int) -> None:
            key = (job.chain[-1], index)
            if key not in tasks:
                for old in tasks.values():
                    progress.update(old, visible=False)  # type: ignore[arg-type]
                title = (
                    f"{job.name} [{index}/{len(job.recipe)}] {phase_title(job.recipe[index - 1])}"
                )
                tasks[key] = progress.add_task(title, total=steps)
            # Drawing at every step would cost more than the step.
            if done == steps or not done % 16:
                progress.update(tasks[key], completed=done)  # type: ignore[arg-type]

        yield watch


@contextmanager
def byte_bar(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show how many bytes are done of how many, 0 for unknown, on standard error."""
    console, lines = Console(file=sys.stderr), _Lines()
    if quiet:
        yield lambda what, done, total: None  # noqa: ARG005
        return
    if not console.is_terminal:
        yield lambda what, done, total: lines.report(what, done, total, human_bytes)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def watch(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        yield watch
