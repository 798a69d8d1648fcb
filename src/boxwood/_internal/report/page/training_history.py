"""How training went along a recipe: every history among the facts, and where pruning came between."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeGuard

from boxwood._internal.report.page.facts import counted, number
from boxwood._internal.report.page.store_reader import Run, Study

POINTS = 300
"""Rows of all histories of a run that are drawn, evenly spaced, the last of each among them."""


@dataclass(frozen=True)
class Point:
    """One place along a recipe, over its seeds.

    Args:
        branch: name of the recipe.
        at: epochs since the start.
        what: name of the quantity.
        value: mean over seeds.
        low: lowest seed.
        high: highest seed.
        seeds: number of seeds.
        keys: keys of the phases, eight digits of each.
    """

    branch: str
    at: float
    what: str
    value: float
    low: float
    high: float
    seeds: int
    keys: str


@dataclass(frozen=True)
class Event:
    """A phase between trainings that changed the network.

    Args:
        branch: name of the recipe.
        at: epochs since the start.
        event: kind of the phase, and what it left.
        short: what it left.
        key: eight digits of its key, for the first seed.
    """

    branch: str
    at: float
    event: str
    short: str
    key: str


@dataclass(frozen=True)
class _Place:
    """One row of a history, along the whole run."""

    branch: str
    at: float
    what: str
    value: float
    key: str


def points(study: Study) -> list[Point]:
    """Put the seeds of every history together, in the order of the recipe."""
    places: dict[tuple[str, float, str], list[_Place]] = {}
    for run in study.runs:
        for place in _places(run):
            places.setdefault((place.branch, place.at, place.what), []).append(place)
    return [
        Point(
            branch, at, what, fmean(p.value for p in group), min(p.value for p in group),
            max(p.value for p in group), len(group), " ".join(p.key[:8] for p in group),
        )
        for (branch, at, what), group in places.items()
    ]  # fmt: skip


def events(study: Study) -> list[Event]:
    """Find where the first seed of every recipe that trains was changed between trainings."""
    trained = [runs[0] for runs in study.branches.values() if _trains(runs[0])]
    return [event for run in trained for event in _events(run)]


def quantities(found: Sequence[Point]) -> list[str]:
    """Name what histories hold, validation first."""
    return sorted(dict.fromkeys(each.what for each in found), key=lambda what: what != "validation")


def title_of(what: str) -> str:
    """Say in words what a history holds under a name.

    Example:
        >>> title_of("validation"), title_of("validation_loss")
        ('validation accuracy', 'validation loss')
    """
    return f"{what} accuracy" if what in ("validation", "test", "train") else what.replace("_", " ")


def fractions(what: str, values: Sequence[float]) -> bool:
    """Say whether numbers read best as percent: fractions other than losses."""
    return "loss" not in what and all(0 <= value <= 1 for value in values)


def _trains(run: Run) -> bool:
    return any("history" in step.facts for step in run.steps)


def _places(run: Run) -> Iterator[_Place]:
    before = 0.0
    share = POINTS // max(1, sum("history" in step.facts for step in run.steps))
    for step in run.steps:
        history = step.facts.get("history")
        epochs = number(step.facts.get("epochs")) or 0.0
        if not numeric(history):
            before += epochs
            continue
        start, per_epoch = steps_of(history, epochs)
        for row in thinned(history, max(share, 10)):
            at = before + ((number(row.get("step", row.get("epoch"))) or 0.0) - start) / per_epoch
            for what, value in numbers(row):
                if what not in ("epoch", "step"):
                    yield _Place(run.branch, round(at, 4), what, value, step.key)
        before += epochs


def steps_of(history: Sequence[Mapping[str, Any]], epochs: float) -> tuple[float, float]:
    """Where the steps of a history begin, and how many make an epoch; 0 and 1 for epochs.

    A training that starts at a later step, as after rewinding, counts from there.
    """
    steps = [number(row["step"]) or 0.0 for row in history if "step" in row]
    if len(steps) < len(history) or not epochs:
        return 0.0, 1.0
    start = steps[0] - (steps[1] - steps[0] if len(steps) > 1 else steps[0])
    return start, (steps[-1] - start) / epochs or 1.0


def _events(run: Run) -> Iterator[Event]:
    before = 0.0
    for step in run.steps:
        epochs = number(step.facts.get("epochs")) or 0.0
        if step.kind not in ("Train", "Measure", "RemoveDead", "Scan") and step.record:
            sparsity = number(step.facts.get("sparsity"))
            left = "" if sparsity is None else f"{100 * (1 - sparsity):.3g} % left"
            what = f"{step.kind} {left}".strip()
            yield Event(run.branch, before, what, left, step.key[:8])
        before += epochs


def numeric(rows: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    """Say whether a fact is rows with numbers in them."""
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(isinstance(row, Mapping) for row in rows)
        and any(True for _ in numbers(rows[0]))
    )


def numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Name the numbers of a row, and accuracies as fractions."""
    for name, value in row.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
        elif counted(value):
            yield name, value["correct"] / value["total"]


def thinned(rows: Sequence[Mapping[str, Any]], most: int) -> Sequence[Mapping[str, Any]]:
    """Take at most ``most`` rows, evenly spaced, the last among them."""
    every = -(-len(rows) // most)
    return [row for i, row in enumerate(rows) if (len(rows) - 1 - i) % every == 0]
