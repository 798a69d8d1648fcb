"""``report.html``: everything that was tried, what was decided, and what that is worth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boxwood._internal.compress.candidates import Candidate, Made
from boxwood._internal.compress.result import Compressed
from boxwood._internal.core.replacing import write_whole
from boxwood._internal.report.charts.looks import numbered, scales, tooltip
from boxwood._internal.report.charts.marks import bars, base, channel, halving, level, points
from boxwood._internal.report.page.document import (
    Article,
    Card,
    Cards,
    Column,
    Figure,
    Note,
    Notes,
    Section,
    Series,
    Table,
)
from boxwood._internal.report.page.render import render
from boxwood._internal.report.tables import human_seconds


def write_page(result: Compressed, made: Made, max_drop: float, notes: Sequence[str]) -> Path:
    """Write the report of a search next to its files.

    Args:
        result: what came out.
        made: the network that was chosen.
        max_drop: the most that the score was allowed to fall.
        notes: of the checks.

    Raises:
        MissingDependency: the charts' library is not installed.
    """
    article = Article(
        "compressed",
        "What was compressed, and what it cost",
        str(result).splitlines()[0],
        (
            Section("decision", "The decision", "", _decision(result, max_drop, notes)),
            Section("tried", "What was tried", "", (_figure(result, max_drop), _tried(result))),
            Section("layers", "What stays", "", (_layers(made),)),
            Section("time", "Time on this machine", "One thread, in turn.", (_times(result),)),
        ),
    )
    path = result.folder / "report.html"
    text = render(
        [article], title=article.title, subtitle=article.subtitle, stores=result.folder.name
    )
    write_whole(path, text.encode())
    return path


def _decision(result: Compressed, max_drop: float, notes: Sequence[str]) -> tuple[Cards, Notes]:
    cards = [
        Card(
            f"{result.dense_cost / result.cost:.2f} ×" if result.cost else "–",
            f"less {result.unit}",
            f"{_number(result.cost)} where the dense network has {_number(result.dense_cost)}",
        ),
        Card(f"{human_seconds(3600 * result.hours)}", "spent on the search"),
    ]
    found = result.attempt.drop
    where = (
        f"{found.examples:,} examples" if found.examples > 1 else "one number, without an interval"
    )
    cards.insert(
        1,
        Card(
            f"{100 * found.mean:+.2f}",
            f"points of {result.score} lost on validation",
            f"at most {100 * found.most:.2f} (95 %, {where}); allowed were {100 * max_drop:g}",
        ),
    )
    said: list[Note] = []
    if not result.held:
        text = (
            f"The score is not held within {100 * max_drop:g} points; this candidate comes nearest."
        )
        said.append(Note("serious", text))
    if result.test is not None:
        cards.append(
            Card(
                f"{100 * result.test.mean:+.2f}",
                "points lost on the test examples",
                f"read once; at most {100 * result.test.most:.2f} (95 %)",
            )
        )
    said += [Note("mild", each) for each in result.advice]
    said += [Note("fine", each) for each in notes]
    return Cards(cards), Notes("What to know", said)


def _rows(result: Compressed) -> list[dict[str, Any]]:
    return [
        {
            "series": f"{kind_of(each.candidate)}{', int8' * (each.precision == 'int8')}",
            "name": each.name,
            "rung": each.rung,
            "steps": each.steps,
            "cost": each.cost,
            "mean": 100 * each.drop.mean,
            "low": 100 * (2 * each.drop.mean - each.drop.most),
            "high": 100 * each.drop.most,
            "text": f"{100 * each.drop.mean:.2f}, at most {100 * each.drop.most:.2f}",
            "measured": "measured" if each.rung else "forecast",
            "chosen": "yes" if each is result.attempt else "",
        }
        for each in result.tried
    ]


def kind_of(candidate: Candidate) -> str:
    """Say what kind of pruning a candidate is.

    Example:
        >>> kind_of(Candidate("weights 50%", {}, {"weight": 0.5}, False, 1.0))
        'fewer weights'
    """
    weights = "fewer blocks of weights" if candidate.in_blocks else "fewer weights"
    if candidate.units and candidate.weights:
        return f"fewer units, then {weights}"
    return weights if candidate.weights else "fewer units" if candidate.units else "all weights"


def _figure(result: Compressed, max_drop: float) -> Figure:
    rows = _rows(result)
    kinds = list(dict.fromkeys(row["series"] for row in rows))
    looks = numbered(kinds)
    coloured = {"color": scales(looks)["color"]}
    spec = {
        **base([row for row in rows if row["rung"] or not _trained(rows, row["name"])]),
        "encoding": {
            "x": halving(
                "cost", result.unit, [result.dense_cost, *(row["cost"] for row in rows)], ".3~s"
            ),
            "y": channel("mean", f"points of {result.score} lost", "~r"),
        },
        "layer": [
            level(100 * max_drop, "mean"),
            bars(coloured),
            points(
                {
                    **coloured,
                    "tooltip": tooltip(
                        ("name", "candidate"),
                        ("text", "points lost"),
                        ("steps", "steps"),
                        ("measured", "cost"),
                    ),
                },
            ),
        ],
    }
    return Figure(
        name="front",
        title=f"{result.score} against {result.unit}",
        text="Dashed: what was allowed to be lost. Bars: 95 % intervals over the examples.",
        alternative=f"{len(rows)} attempts of {len({r['name'] for r in rows})} candidates.",
        spec=spec,
        table=_tried(result),
        series=[Series(kind, looks[kind]) for kind in kinds],
    )


def _trained(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(row["name"] == name and row["rung"] for row in rows)


def _tried(result: Compressed) -> Table:
    return Table(
        "tried",
        "Every candidate at every stage",
        (
            Column("name", "candidate"),
            Column("steps", "steps", "{:,}".format, number=True),
            Column("cost", result.unit, _number, number=True),
            Column("measured", "cost is"),
            Column("mean", "points lost", "{:.2f}".format, number=True),
            Column("high", "at most (95 %)", "{:.2f}".format, number=True),
            Column("chosen", "chosen"),
        ),
        _rows(result),
    )


def _layers(made: Made) -> Table:
    units = made.selection.units
    rows: list[dict[str, Any]] = [
        {
            "name": group.name,
            "what": "units",
            "whole": len(group.units),
            "left": int(made.selection.kept[group.units].sum()),
        }
        for group in units.groups
    ]
    rows += [
        {"name": name, "what": "weights", "whole": mask.numel(), "left": int(mask.sum())}
        for name, mask in made.masks.items()
    ]
    for row in rows:
        row["share"] = row["left"] / row["whole"]
    return Table(
        "layers",
        "Groups of units, and matrices of weights",
        (
            Column("name", "of"),
            Column("what", "what"),
            Column("whole", "there were", "{:,}".format, number=True),
            Column("left", "there are", "{:,}".format, number=True),
            Column("share", "share", "{:.0%}".format, number=True),
        ),
        rows,
    )


def _times(result: Compressed) -> Table:
    rows = [
        {"name": name, "seconds": each, "ratio": each / min(result.seconds.values())}
        for name, each in sorted(result.seconds.items(), key=lambda item: item[1])
    ]
    return Table(
        "times",
        "One call of the example, the median",
        (
            Column("name", "engine and network"),
            Column("seconds", "seconds", "{:.3g}".format, number=True),
            Column("ratio", "of the fastest", "{:.2f}".format, number=True),
        ),
        rows,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
