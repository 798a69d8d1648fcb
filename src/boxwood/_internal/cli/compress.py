"""``boxwood compress``: turn a task in a user's file into a folder with a smaller, faster network."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from boxwood._internal.cli import checks
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.target import arguments
from boxwood._internal.cli.terminal import say
from boxwood._internal.compress.api import Asked, compress_task, prepared
from boxwood._internal.compress.search import Attempt
from boxwood._internal.compress.task import Task
from boxwood._internal.core.spec import load
from boxwood._internal.report.tables import human_seconds
from boxwood.errors import InvalidInput

NOT_HELD = 1


def compress(
    target: Annotated[
        str,
        typer.Argument(help="file.py:function that returns a boxwood.compression.Task."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the result and the search.", callback=checks.new_folder),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(
            help="How far the score may drop, in percentage points: 0.5 is half a per cent."
        ),
    ] = 0.5,
    what: Annotated[
        str, typer.Option("--for", help="What to minimise: latency, size or macs.")
    ] = "latency",
    at_most: Annotated[
        str | None,
        typer.Option(
            help="Target cost at which to stop: 8ms, 5MB, 100M, or a "
            "fraction of the dense network's."
        ),
    ] = None,
    hours: Annotated[float | None, typer.Option(help="Time budget in hours. Default: 1.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Budget in optimizer steps, instead of --hours.", callback=checks.whole(1)
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value to pass to the function. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    dry_run: Annotated[
        bool, typer.Option(help="Measure how sensitive each layer is, print the plan and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print compress.json.")] = False,
) -> None:
    """Find the smallest or fastest network whose score stays within a limit, and write it to a folder.

    Run the command again to continue a search that was stopped, or to search longer with more hours.
    The exit code is 1 if no network stays within the limit.

    Example: boxwood compress examples/compress.py:task --max-drop 1 --for latency --hours 0.1 --out small
    """
    found = load(target)
    if callable(found) and not isinstance(found, Task):
        found = found(**arguments(found, target, None, settings or ()))
    if not isinstance(found, Task):
        raise InvalidInput(
            f"Expected {target} to return a Task, got {type(found).__name__}; return "
            f"boxwood.compression.Task(model=…, train=…, validate=…)."
        )
    asked = Asked(max_drop / 100, what, at_most, hours, steps, seed)  # type: ignore[arg-type]
    watch = _Watch(asked)
    if dry_run:
        _show_plan(found, asked, watch, as_json=as_json)
        return
    if out is None:
        raise InvalidInput("Expected a folder for the result, got none; give --out FOLDER.")
    result = compress_task(found, out, asked, watch)
    say((out / "compress.json").read_text().rstrip() if as_json else f"{result}\nIn {out}: load.py runs it, report.html shows what was tried.")  # fmt: skip
    if not result.held:
        sys.exit(NOT_HELD)


def _show_plan(task: Task, asked: Asked, watch: Any, *, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ready = prepared(task, Path(folder), asked, watch)
        seconds = ready.search.step_seconds()
    costs = ready.search.costs
    if as_json:
        plan = {
            "unit": costs.unit, "dense_cost": costs.whole, "steps": ready.steps,
            "seconds_of_a_step": seconds,
            "candidates": [{"name": e.name, "forecast": e.forecast} for e in ready.candidates],
        }  # fmt: skip
        say(json.dumps(plan, indent=1))
        return
    table = Table(
        "candidate", Column(costs.unit, justify="right"), Column("of dense", justify="right")
    )
    for each in ready.candidates:
        table.add_row(each.name, f"{each.forecast:.4g}", f"{each.forecast / costs.whole:.0%}")
    show(table)
    say(
        f"All are repaired and validated; then {ready.steps:,} steps of training in all, about "
        f"{human_seconds(ready.steps * seconds)} if each took as long as the dense network's. Costs "
        f"are forecasts; the dense network has {costs.whole:.4g} {costs.unit}."
    )


class _Watch:
    """Says on standard error what is done, at most once a second: the best so far, and the time left."""

    def __init__(self, asked: Asked) -> None:
        self._asked, self._begun, self._last = asked, time.monotonic(), 0.0

    def __call__(self, what: str, done: float, best: Attempt | None) -> None:
        now = time.monotonic()
        if now - self._last < 1:
            return
        self._last = now
        left = ""
        if done > 0.02:
            left = f"; about {human_seconds((now - self._begun) * (1 - done) / done)} left"
        said = ""
        if best is not None:
            held = "" if best.drop.held(self._asked.max_drop) else ", not held"
            said = f"; best so far: {best.name}, {100 * best.drop.mean:+.2f} points lost{held}"
        say(f"boxwood: {what}{said}{left}", error=True)
