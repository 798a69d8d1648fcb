"""How training went: every history of rows among the facts, along the run that made it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from statistics import fmean
from typing import Any

from boxwood._internal.report.charts.looks import tooltip
from boxwood._internal.report.charts.marks import base, channel, one_line, only
from boxwood._internal.report.page.document import Column, Control, Figure, Option, Table
from boxwood._internal.report.page.episodes import searched
from boxwood._internal.report.page.store_reader import Run, Study
from boxwood._internal.report.page.training_history import (
    POINTS,
    Point,
    events,
    fractions,
    numbers,
    numeric,
    points,
    quantities,
    thinned,
    title_of,
)
from boxwood._internal.report.study import Step

BRANCH = "branch"
"""Name of the pick that chooses a branch in this section."""


def training_figure(study: Study) -> Figure | None:
    """Draw loss and accuracy along each recipe, pruning marked where it happened."""
    found = points(study)
    if not found:
        return None
    rows = [{**asdict(each), "said": f"{each.value:.4f}"} for each in found]
    marked = [asdict(each) for each in events(study)]
    kinds = quantities(found)
    axes = {kind: _axis(kind, found) for kind in kinds}
    events_data = {
        "data": {"values": marked or [{"branch": "", "at": 0, "event": ""}]},
        "transform": [{"filter": {"field": BRANCH, "valid": True}}],
    }
    x = {"field": "at", "type": "quantitative"}
    spec = {
        **base(rows, [only("what", kinds[0])], field=BRANCH),
        "encoding": {"x": channel("at", "epochs since the start", nice=False)},
        "layer": [
            *one_line(
                {**channel("value", ""), "axis": axes[kinds[0]]},
                tooltip(("at", "epoch"), ("said", "mean"), ("seeds", "seeds"), ("keys", "keys")),
            ),
            {
                **events_data,
                "mark": {"type": "rule", "strokeDash": [3, 3], "color": "var(--c1)", "opacity": 0.8},
                "encoding": {"x": x, "tooltip": tooltip(("event", "event"), ("key", "key"))},
            },
            {
                **events_data,
                "mark": {"type": "text", "align": "left", "baseline": "top", "dx": 4, "fontSize": 11},
                "encoding": {"x": x, "y": {"value": 2}, "text": {"field": "short"}},
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
            f"{len(marked)} marked events over all recipes; the table has the numbers."
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
                Option(title_of(kind), {
                    "/transform/1/filter/equal": kind,
                    "/layer/1/encoding/y/axis": axes[kind],
                    "/layer/2/encoding/y/axis": axes[kind],
                }) for kind in kinds
            ])
        ],
        picked_by=BRANCH,
    )  # fmt: skip


def other_figures(study: Study) -> list[Figure]:
    """Draw every other list of rows among the facts.

    The first number of a row that only grows is the horizontal axis; where there is none, the
    number of the row is.
    """
    found: dict[tuple[str, str], list[tuple[Run, Step, list[Mapping[str, Any]]]]] = {}
    for run in study.runs:
        for step in run.steps:
            for name, rows in step.facts.items():
                known = name in ("history", "layers") or (
                    name == "episodes" and searched(step.facts)
                )
                if not known and numeric(rows) and _values(rows):
                    found.setdefault((step.kind, name), []).append((run, step, rows))
    return [
        _other(
            f"facts-{index}-{_slug(f'{kind} {name}')}", f"{name.replace('_', ' ')} of {kind}", group
        )
        for index, ((kind, name), group) in enumerate(found.items(), 1)
    ]


def _values(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a row has a number other than that of the horizontal axis."""
    across = _rising(rows)
    return any(what != across for row in rows for what, _ in numbers(row))


def _slug(text: str) -> str:
    """A part of a file's name, whatever the text is."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40]


def _other(
    unique: str, title: str, group: Sequence[tuple[Run, Step, list[Mapping[str, Any]]]]
) -> Figure:
    rows: list[dict[str, Any]] = []
    for run, step, history in group:
        across = _rising(history)
        for index, row in enumerate(thinned(history, POINTS)):
            for what, value in numbers(row):
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
            **base(rows, [only("what", kinds[0])], field=unique),
            "mark": {"type": "line", "strokeWidth": 1.5, "color": "var(--c0)", "opacity": 0.8},
            "encoding": {
                "x": channel("at", across),
                "y": channel("value", kinds[0].replace("_", " ")),
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
                    "/transform/1/filter/equal": each,
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


def _axis(kind: str, found: Sequence[Point]) -> dict[str, Any]:
    percent = fractions(kind, [each.value for each in found if each.what == kind])
    return {"title": title_of(kind), "format": "~%" if percent else "~r"}


def _rising(rows: Sequence[Mapping[str, Any]]) -> str | None:
    for name, _ in numbers(rows[0]):
        values = [row.get(name, float("nan")) for row in rows]
        if all(not isinstance(v, Mapping) for v in values) and all(
            a < b for a, b in pairwise(values)
        ):
            return name
    return None
