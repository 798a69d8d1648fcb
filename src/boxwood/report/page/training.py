"""How training went: every history of rows among the facts, along the run that made it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, TypeGuard

from boxwood.report.page.charts import base, tooltip
from boxwood.report.page.parts import Column, Control, Figure, Option, Table
from boxwood.report.page.reading import Run, Step, Study, counted, number

BRANCH = "branch"
"""Name of the pick that chooses a branch in this section."""
_POINTS = 300
"""Rows of all histories of a run that are drawn, evenly spaced, the last of each among them."""


@dataclass(frozen=True)
class _Place:
    """One row of a history, along the whole run."""

    branch: str
    at: float
    what: str
    value: float
    key: str


def training_figure(study: Study) -> Figure | None:
    """Draw loss and accuracy along each recipe, pruning marked where it happened."""
    runs = [run for run in study.runs if any("history" in step.facts for step in run.steps)]
    if not runs:
        return None
    places: dict[tuple[str, float, str], list[_Place]] = {}
    for run in runs:
        for place in _places(run):
            places.setdefault((place.branch, place.at, place.what), []).append(place)
    rows: list[dict[str, Any]] = [
        {
            "branch": branch, "at": at, "what": what, "value": fmean(p.value for p in group),
            "low": min(p.value for p in group), "high": max(p.value for p in group),
            "seeds": len(group), "said": f"{fmean(p.value for p in group):.4f}",
            "keys": " ".join(p.key[:8] for p in group),
        }
        for (branch, at, what), group in places.items()
    ]  # fmt: skip
    if not rows:
        return None
    events = [event for run in _firsts(runs) for event in _events(run)]
    kinds = list(dict.fromkeys(str(row["what"]) for row in rows))
    kinds.sort(key=lambda kind: kind != "validation")
    axes = {kind: _axis(kind, rows) for kind in kinds}
    spec = {
        **base(rows, field=BRANCH),
        "params": [{"name": "what", "value": kinds[0]}],
        "encoding": {
            "x": {"field": "at", "type": "quantitative", "axis": {"title": "epochs since the start"},
                  "scale": {"nice": False}},
        },
        "layer": [
            {
                "data": {"values": events or [{"branch": "", "at": 0, "event": ""}]},
                "transform": [{"filter": {"field": BRANCH, "valid": True}}],
                "mark": {"type": "rule", "strokeDash": [3, 3], "color": "var(--c1)", "opacity": 0.8},
                "encoding": {"x": {"field": "at", "type": "quantitative"},
                             "tooltip": tooltip(("event", "event"), ("key", "key"))},
            },
            {
                "data": {"values": events or [{"branch": "", "at": 0, "event": ""}]},
                "transform": [{"filter": {"field": BRANCH, "valid": True}}],
                "mark": {"type": "text", "align": "left", "baseline": "top", "dx": 4, "angle": 0,
                         "fontSize": 11, "color": "var(--soft)"},
                "encoding": {"x": {"field": "at", "type": "quantitative"}, "y": {"value": 2},
                             "text": {"field": "short"}},
            },
            {
                "transform": [{"filter": "datum.what === what"}],
                "mark": {"type": "area", "opacity": 0.2, "color": "var(--c0)"},
                "encoding": {"y": {"field": "low", "type": "quantitative", "scale": {"zero": False}},
                             "y2": {"field": "high"}},
            },
            {
                "transform": [{"filter": "datum.what === what"}],
                "mark": {"type": "line", "strokeWidth": 1.8, "color": "var(--c0)"},
                "encoding": {"y": {"field": "value", "type": "quantitative",
                                   "axis": axes[kinds[0]], "scale": {"zero": False}}},
            },
            {
                "transform": [{"filter": "datum.what === what"}],
                "mark": {"type": "circle", "size": 26, "color": "var(--c0)", "opacity": 1},
                "encoding": {"y": {"field": "value", "type": "quantitative"},
                             "tooltip": tooltip(("at", "epoch"), ("said", "mean"), ("seeds", "seeds"), ("keys", "keys"))},
            },
        ],
    }  # fmt: skip
    return Figure(
        name="training",
        title="Training along the recipe",
        text=(
            "Mean over seeds, the band from the lowest seed to the highest. Dotted lines mark "
            "pruning and other changes of the network between trainings."
        ),
        alternative=(
            f"A line of {kinds[0]} against epochs for the chosen recipe, with "
            f"{len(events)} marked events over all recipes; the table has the numbers."
        ),
        spec=spec,
        table=Table(
            "training",
            "History of the chosen recipe, means over seeds",
            (
                Column("branch", "branch"),
                Column("at", "epoch", "{:.5g}".format, number=True),
                Column("what", "of"),
                Column("value", "mean", "{:.4f}".format, number=True),
                Column("low", "lowest", "{:.4f}".format, number=True),
                Column("high", "highest", "{:.4f}".format, number=True),
                Column("seeds", "seeds", number=True),
                Column("keys", "keys"),
            ),
            rows,
            picked_by=BRANCH,
        ),
        controls=[
            Control("Shown", [
                Option(kind.replace("_", " "), {
                    "/params/0/value": kind,
                    "/layer/3/encoding/y/axis": axes[kind],
                }) for kind in kinds
            ])
        ],
        picked_by=BRANCH,
    )  # fmt: skip


def other_figures(study: Study) -> list[Figure]:
    """Draw every other list of rows among the facts, such as the episodes of an agent.

    The first number of a row that only grows is the horizontal axis; where there is none, the
    number of the row is.
    """
    found: dict[tuple[str, str], list[tuple[Run, Step, list[Mapping[str, Any]]]]] = {}
    for run in study.runs:
        for step in run.steps:
            for name, rows in step.facts.items():
                if name not in ("history", "layers") and _numeric(rows):
                    found.setdefault((step.kind, name), []).append((run, step, rows))
    return [
        _other(
            f"facts-{index}-{_slug(f'{kind} {name}')}", f"{name.replace('_', ' ')} of {kind}", group
        )
        for index, ((kind, name), group) in enumerate(found.items(), 1)
    ]


def _slug(text: str) -> str:
    """A part of a file's name, whatever the text is."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40]


def _other(
    unique: str, title: str, group: Sequence[tuple[Run, Step, list[Mapping[str, Any]]]]
) -> Figure:
    rows: list[dict[str, Any]] = []
    for run, step, history in group:
        across = _rising(history)
        for index, row in enumerate(_thinned(history, _POINTS)):
            for what, value in _numbers(row):
                if what != across:
                    rows.append({
                        unique: run.branch, "seed": run.seed, "what": what, "value": value,
                        "at": row[across] if across else index, "label": step.label,
                        "line": step.key[:8], "key": step.key[:8],
                    })  # fmt: skip
    kinds = list(dict.fromkeys(row["what"] for row in rows))
    across = _rising(group[0][2]) or "row"
    return Figure(
        name=unique,
        title=title[:1].upper() + title[1:],
        text="One line for each seed and phase.",
        alternative=f"Lines of {kinds[0]} against {across}; the table has the numbers.",
        spec={
            **base(rows, [{"filter": "datum.what === what"}], field=unique),
            "params": [{"name": "what", "value": kinds[0]}],
            "mark": {"type": "line", "strokeWidth": 1.5, "color": "var(--c0)", "opacity": 0.8},
            "encoding": {
                "x": {"field": "at", "type": "quantitative", "axis": {"title": across}},
                "y": {"field": "value", "type": "quantitative", "scale": {"zero": False},
                      "axis": {"title": kinds[0].replace("_", " ")}},
                "detail": {"field": "line"},
                "tooltip": tooltip(("seed", "seed"), ("label", "label"), ("value", "value"), ("key", "key")),
            },
        },
        table=Table(
            unique,
            title,
            (
                Column(unique, "branch"),
                Column("seed", "seed", number=True),
                Column("label", "label"),
                Column("at", across, "{:.5g}".format, number=True),
                Column("what", "of"),
                Column("value", "value", "{:.5g}".format, number=True),
                Column("key", "key"),
            ),
            rows,
            picked_by=unique,
        ),
        controls=[
            Control("Shown", [
                Option(each.replace("_", " "), {
                    "/params/0/value": each,
                    "/encoding/y/axis/title": each.replace("_", " "),
                }) for each in kinds
            ])
        ],
        picked_by=unique,
    )  # fmt: skip


def fact_table(study: Study) -> Table | None:
    """List the single numbers that other phases than measurements wrote down, over the seeds."""
    found: dict[tuple[str, int, str], list[tuple[Step, float]]] = {}
    for run in study.runs:
        for index, step in enumerate(run.steps, 1):
            for name, value in () if step.measures else _flat(step.facts):
                if (step.kind, name) != ("Train", "epochs"):
                    found.setdefault((run.branch, index, name), []).append((step, value))
    if not found:
        return None
    rows = [
        {
            "branch": branch, "step": index, "phase": group[0][0].kind, "label": group[0][0].label,
            "fact": name, "value": fmean(value for _, value in group),
            "low": min(value for _, value in group), "high": max(value for _, value in group),
            "seeds": len(group), "keys": " ".join(step.key[:8] for step, _ in group),
        }
        for (branch, index, name), group in found.items()
    ]  # fmt: skip
    return Table(
        "facts",
        "Everything else that phases wrote down",
        (
            Column("branch", "branch"),
            Column("step", "#", number=True),
            Column("phase", "phase"),
            Column("label", "label"),
            Column("fact", "fact"),
            Column("value", "mean", "{:,.6g}".format, number=True),
            Column("low", "lowest", "{:,.6g}".format, number=True),
            Column("high", "highest", "{:,.6g}".format, number=True),
            Column("seeds", "seeds", number=True),
            Column("keys", "keys"),
        ),
        rows,
        picked_by=BRANCH,
    )


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield before + name, value


def _axis(kind: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fractions other than losses read best as percent."""
    fractions = "loss" not in kind and all(0 <= r["value"] <= 1 for r in rows if r["what"] == kind)
    title = (
        f"{kind} accuracy" if kind in ("validation", "test", "train") else kind.replace("_", " ")
    )
    return {"title": title, "format": "~%" if fractions else "~g"}


def _places(run: Run) -> Iterator[_Place]:
    before = 0.0
    share = _POINTS // max(1, sum("history" in step.facts for step in run.steps))
    for step in run.steps:
        history = step.facts.get("history")
        epochs = number(step.facts.get("epochs")) or 0.0
        if not _numeric(history):
            before += epochs
            continue
        start, per_epoch = _steps(history, epochs)
        for row in _thinned(history, max(share, 10)):
            at = before + ((number(row.get("step", row.get("epoch"))) or 0.0) - start) / per_epoch
            for what, value in _numbers(row):
                if what not in ("epoch", "step"):
                    yield _Place(run.branch, round(at, 4), what, value, step.key)
        before += epochs


def _steps(history: Sequence[Mapping[str, Any]], epochs: float) -> tuple[float, float]:
    """Where the steps of a history begin, and how many make an epoch; 0 and 1 for epochs.

    A training that enters its course late, as after rewinding, counts from there.
    """
    steps = [number(row["step"]) or 0.0 for row in history if "step" in row]
    if len(steps) < len(history) or not epochs:
        return 0.0, 1.0
    start = steps[0] - (steps[1] - steps[0] if len(steps) > 1 else steps[0])
    return start, (steps[-1] - start) / epochs or 1.0


def _events(run: Run) -> Iterator[dict[str, Any]]:
    before = 0.0
    for step in run.steps:
        epochs = number(step.facts.get("epochs")) or 0.0
        if step.kind not in ("Train", "Measure", "RemoveDead", "Scan") and step.record:
            sparsity = number(step.facts.get("sparsity"))
            left = "" if sparsity is None else f"{100 * (1 - sparsity):.3g} % left"
            yield {
                "branch": run.branch, "at": before, "key": step.key[:8],
                "event": f"{step.kind} {left}".strip(), "short": left,
            }  # fmt: skip
        before += epochs


def _firsts(runs: Sequence[Run]) -> list[Run]:
    return list({run.branch: run for run in reversed(runs)}.values())


def _numeric(rows: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(isinstance(row, Mapping) for row in rows)
        and any(True for _ in _numbers(rows[0]))
    )


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
        elif counted(value):
            yield name, value["correct"] / value["total"]


def _rising(rows: Sequence[Mapping[str, Any]]) -> str | None:
    for name, _ in _numbers(rows[0]):
        values = [row.get(name, float("nan")) for row in rows]
        if all(not isinstance(v, Mapping) for v in values) and all(
            a < b for a, b in pairwise(values)
        ):
            return name
    return None


def _thinned(rows: Sequence[Mapping[str, Any]], most: int) -> Sequence[Mapping[str, Any]]:
    every = -(-len(rows) // most)
    return [row for i, row in enumerate(rows) if (len(rows) - 1 - i) % every == 0]
