"""The page of a comparison: league tables with intervals, what they cost, fronts, and ranks over tasks."""

from typing import Any

from boxwood._internal.report.charts.looks import numbered, scales, tooltip
from boxwood._internal.report.charts.marks import bars, base, channel, halving, points
from boxwood._internal.report.estimates import interval
from boxwood._internal.report.league import League, Standing
from boxwood._internal.report.page.document import (
    Article,
    Column,
    Figure,
    Note,
    Notes,
    Part,
    Section,
    Series,
    Table,
)
from boxwood._internal.report.page.metrics import percent
from boxwood._internal.report.page.render import render
from boxwood._internal.report.ranks import Ranking
from boxwood._internal.report.tables import human

_APART = 0.005
"""How far the sparsity that came out may be from the one that was asked for, without a warning."""


def league_page(league: League, *, title: str, store: str) -> str:
    """Write a league as one self-contained HTML page.

    Args:
        league: what came out.
        title: of the page.
        store: name of the folder with the runs.

    Raises:
        MissingDependency: the charts' library is not installed.
    """
    articles = [_article(league, task, index) for index, task in enumerate(league.tasks, 1)]
    if (ranking := league.ranking()) is not None:
        articles.insert(0, _ranks(ranking))
    methods = len({each.place.method for each in league.standings})
    subtitle = f"{methods} methods and controls, {_seeds(league)}; all have the same steps"
    return render(articles, title=title, subtitle=subtitle, stores=store)


def shown(each: Standing, *, by_loss: bool) -> str:
    """Write a score with its interval.

    Example:
        >>> from boxwood._internal.recipes.comparison import Place
        >>> from boxwood.statistics import over_seeds
        >>> row = Standing(
        ...     place=Place("t", "m", 0.9), score=over_seeds([0.9, 0.92]), validation=0.9, rate=0.1,
        ...     edge="", sparsity=0.9, nonzero=1.0, multiply_adds=1.0, steps=1,
        ...     training_multiply_adds=1.0, hours=1.0,
        ... )
        >>> shown(row, by_loss=False)
        '91.00 % [78.29, 103.71]'
    """
    found = interval(each.score)
    if by_loss:
        figures = f"{found.estimate:.4f}"
        return figures if found.low is None else f"{figures} [{found.low:.4f}, {found.high:.4f}]"
    low, high = found.low, found.high
    figures = percent(found.estimate)
    return (
        figures if low is None or high is None else f"{figures} [{100 * low:.2f}, {100 * high:.2f}]"
    )


def _article(league: League, task: str, index: int) -> Article:
    rows = league.of(task)
    by_loss = task in league.by_loss
    sections = [
        Section(
            "league",
            "League table",
            "Test scores with 95 % intervals over seeds, and over examples where answers were kept. "
            "Learning rates were chosen on validation from one grid for all. Training multiply-adds "
            "are those of the weights that were kept at the time; steps are equal.",
            (_table(rows, by_loss=by_loss), *_notes(rows)),
        ),
        Section("front", "Score against cost", "", (_figure(rows, by_loss=by_loss),)),
    ]
    return Article(f"task-{index}", task, f"{len(rows)} rows, {_seeds(league)}", sections)


def _table(rows: tuple[Standing, ...], *, by_loss: bool) -> Table:
    columns = (
        Column("sparsity", "sparsity asked for", percent, number=True),
        Column("method", "method"),
        Column("kind", "kind"),
        Column("text", "loss on test" if by_loss else "accuracy on test"),
        Column("validation", "on validation", "{:.4f}".format, number=True),
        Column("front", "front"),
        Column("reached", "sparsity", percent, number=True),
        Column("nonzero", "parameters left", human, number=True),
        Column("multiply_adds", "multiply-adds", human, number=True),
        Column("steps", "steps", "{:,}".format, number=True),
        Column("training", "training multiply-adds", "{:.3g}".format, number=True),
        Column("hours", "hours a seed", "{:.3g}".format, number=True),
        Column("rate", "rate", "{:g}".format, number=True),
        Column("keys", "keys"),
    )
    return Table("league", "All methods and controls", columns, [
        {
            "sparsity": each.place.sparsity, "method": each.place.method,
            "kind": "control" if each.place.control else "method",
            "text": shown(each, by_loss=by_loss), "validation": each.validation,
            "front": "yes" if each.front else "", "reached": each.sparsity,
            "nonzero": round(each.nonzero), "multiply_adds": round(each.multiply_adds),
            "steps": each.steps, "training": each.training_multiply_adds, "hours": each.hours,
            "rate": each.rate, "keys": " ".join(key[:8] for key in each.keys),
        }
        for each in rows
    ], opened=True)  # fmt: skip


def _notes(rows: tuple[Standing, ...]) -> tuple[Part, ...]:
    notes = []
    at_edge = [f"{_named(each)}: the {each.edge}est, {each.rate:g}" for each in rows if each.edge]
    if at_edge:
        text = (
            "The best learning rate lies on the edge of the grid, beyond which nobody has looked."
        )
        notes.append(Note("mild", text, at_edge))
    if lost := [
        f"{_named(each)}: {each.diverged} of {len(each.keys)}" for each in rows if each.diverged
    ]:
        text = "Some runs diverged at the rate that was chosen, and count as they were before training."
        notes.append(Note("serious", text, lost))
    off = [
        f"{_named(each)}: {percent(each.sparsity)} came out"
        for each in rows
        if each.place.sparsity is not None and abs(each.sparsity - each.place.sparsity) > _APART
        and each.place.method != "dense small"
    ]  # fmt: skip
    if off:
        text = (
            "These networks are not as sparse as was asked for, and are not comparable with others."
        )
        notes.append(Note("serious", text, off))
    if rows and rows[0].score.seeds < 3:
        notes.append(Note("serious", "Fewer than three seeds say little about a method."))
    return (Notes("Before believing a number", notes),) if notes else ()


def _named(each: Standing) -> str:
    at = "" if each.place.sparsity is None else f" at {100 * each.place.sparsity:.4g} %"
    return f"{each.place.method}{at}"


def _figure(rows: tuple[Standing, ...], *, by_loss: bool) -> Figure:
    look = numbered([each.place.method for each in rows])
    data: list[dict[str, Any]] = []
    for each in rows:
        found = interval(each.score)
        data.append({
            "series": each.place.method, "name": _named(each), "x": each.multiply_adds,
            "y": found.estimate, "low": found.low, "high": found.high,
            "text": shown(each, by_loss=by_loss), "at": human(round(each.multiply_adds)),
        })  # fmt: skip
    scale = scales(look)
    said = tooltip(("name", "network"), ("text", "test"), ("at", "multiply-adds"))
    coloured = {"color": scale["color"]}
    title = "mean loss on test" if by_loss else "test accuracy"
    spec = {
        **base(data),
        "height": 420,
        "encoding": {
            "x": halving("x", "multiply-adds of one example", [row["x"] for row in data], ".3~s"),
            "y": channel("y", title, "~r" if by_loss else ".1~%"),
        },
        "layer": [
            bars(coloured),
            points({**coloured, "shape": scale["shape"], "tooltip": said}),
        ],
    }
    return Figure(
        name="front",
        title=f"{title[:1].upper()}{title[1:]} against multiply-adds",
        text="Each point is a method at a sparsity, with its 95 % interval; the table marks the Pareto "
        "front: networks that no other matches on validation at no higher cost.",
        alternative=f"{title} of {len(look)} methods against multiply-adds.",
        spec=spec,
        table=_table(rows, by_loss=by_loss),
        series=[Series(name, number) for name, number in look.items()],
    )


def _ranks(ranking: Ranking) -> Article:
    rows: list[dict[str, Any]] = [
        {
            "method": name,
            "rank": rank,
            "group": ", ".join(
                str(number) for number, group in enumerate(ranking.alike, 1) if name in group
            ),
        }
        for name, rank in zip(ranking.names, ranking.ranks, strict=True)
    ]
    columns = (
        Column("method", "method"),
        Column("rank", "average rank", "{:.2f}".format, number=True),
        Column("group", "groups that do not differ"),
    )
    p = f"{ranking.p:.2g}" if ranking.p >= 0.0001 else "less than 0.0001"
    text = (
        f"Each task at each sparsity is one block, of {ranking.tasks}; rank 1 is best. That all methods "
        f"are alike has p = {p} (Friedman's test in the form of Iman and Davenport). Two methods differ "
        f"at 5 % where their average ranks are more than {ranking.critical_difference:.2f} apart "
        f"(Nemenyi); methods of a common group do not. Sparsities of one task are not independent, so "
        f"few tasks make this test too sure of itself."
    )
    table = Table("ranks", "Average ranks", columns, rows, opened=True)
    section = Section("ranks", "Ranks over tasks and sparsities", text, (table,))
    return Article("ranks", "Ranks", f"{len(rows)} methods", (section,))


def _seeds(league: League) -> str:
    return f"{len(league.seeds)} seed{'s' * (len(league.seeds) != 1)}"
