"""The page of evaluated language models: perplexity with intervals, differences, tasks, and cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from boxwood._internal.report.charts.looks import numbered, scales, tooltip
from boxwood._internal.report.charts.marks import bars, base, channel, halving, points
from boxwood._internal.report.language_models import MeasuredModel, TextRow, task_interval
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
from boxwood._internal.report.page.render import render
from boxwood._internal.report.statistics import Interval
from boxwood._internal.report.tables import human, human_bytes


def evaluation_page(
    measured: Sequence[MeasuredModel],
    rows: Sequence[TextRow],
    *,
    against: str | None,
    settings: Mapping[str, Any],
    title: str,
) -> str:
    """Write an evaluation as one self-contained HTML page.

    Args:
        measured: what every folder gave.
        rows: of `text_rows`.
        against: name of the reference of the differences.
        settings: of the evaluation, by name.
        title: of the page.

    Raises:
        MissingDependency: the charts' library is not installed.
    """
    sections = []
    if rows:
        text = (
            "Perplexity is exp of the mean cross-entropy of a token. Intervals are 95 %, over the pieces "
            "of a text, and over seeds where a model has several."
        )
        if against is not None:
            text += f" Differences are in nats a token from {against}, taken piece by piece."
        figures = [_figure(measured, [r for r in rows if r.text == name], name) for name in _texts(rows)]  # fmt: skip
        sections.append(
            Section("texts", "Texts", text, (text_table(rows, against), *figures, *_notes(rows)))
        )
    if any(each.tasks for each in measured):
        said = (
            "Scores of lm-eval without examples in the prompt, with 95 % intervals over examples."
        )
        sections.append(Section("tasks", "Tasks", said, (task_table(measured),)))
    said = "Tokens are those that went through the model, one call after the other."
    sections.append(
        Section("cost", "Size, speed and memory", said, (cost_table(measured), _settings(settings)))
    )
    models = len({each.name for each in measured})
    subtitle = f"{models} model{'s' * (models != 1)}"
    article = Article("evaluation", title, subtitle, sections)
    folders = ", ".join(dict.fromkeys(each.folder for each in measured))
    return render([article], title=title, subtitle=subtitle, stores=folders)


def shown(found: Interval, digits: int = 2, *, sign: bool = False) -> str:
    """Write an estimate with its interval.

    Example:
        >>> shown(Interval(estimate=17.91, low=17.1, high=18.8, n=20, method=""))
        '17.91 [17.10, 18.80]'
        >>> shown(Interval(estimate=0.5, low=None, high=None, n=1, method=""), 3, sign=True)
        '+0.500'
    """
    style = f"{'+' * sign},.{digits}f"
    text = format(found.estimate, style)
    if found.low is None or found.high is None:
        return text
    return f"{text} [{format(found.low, style)}, {format(found.high, style)}]"


def text_table(rows: Sequence[TextRow], against: str | None) -> Table:
    """One row for each model and text."""
    columns = [
        Column("text", "text"),
        Column("model", "model"),
        Column("perplexity", "perplexity"),
        Column("nats", "nats a token"),
        *([Column("difference", f"from {against}, nats a token")] if against is not None else []),
        Column("bits", "bits a byte", "{:.4f}".format, number=True),
        Column("tokens", "tokens", "{:,}".format, number=True),
        Column("pieces", "pieces", number=True),
        Column("seeds", "seeds", number=True),
    ]
    return Table("texts", "Models on texts", columns, [
        {
            "text": row.text, "model": row.model, "perplexity": shown(row.perplexity),
            "nats": shown(row.nats, 4), "bits": row.bits_per_byte, "tokens": row.tokens,
            "difference": None if row.difference is None else shown(row.difference, 4, sign=True),
            "pieces": row.pieces, "seeds": row.seeds,
        }
        for row in rows
    ], opened=True)  # fmt: skip


def task_table(measured: Sequence[MeasuredModel]) -> Table:
    """One row for each model, task and metric."""
    columns = (
        Column("task", "task"),
        Column("metric", "metric"),
        Column("model", "model"),
        Column("score", "score"),
        Column("examples", "examples", "{:,}".format, number=True),
    )
    made = [
        {
            "task": score.task, "metric": score.metric, "model": each.name,
            "score": shown(task_interval(score), 4), "examples": score.examples,
        }
        for each in measured
        for score in each.tasks
    ]  # fmt: skip
    made.sort(key=lambda row: (row["task"], row["metric"]))
    return Table("tasks", "Models in tasks", columns, made, opened=True)


def cost_table(measured: Sequence[MeasuredModel]) -> Table:
    """One row for each folder."""
    columns = (
        Column("model", "model"),
        Column("parameters", "parameters", human, number=True),
        Column("nonzero", "not zero", human, number=True),
        Column("bytes", "weights", human_bytes, number=True),
        Column("speed", "tokens a second", "{:,.0f}".format, number=True),
        Column("memory", "most memory", human_bytes, number=True),
        Column("folder", "folder"),
    )
    return Table("cost", "Folders", columns, [
        {
            "model": each.name, "parameters": each.parameters, "nonzero": each.nonzero,
            "bytes": each.bytes, "speed": each.tokens_per_second, "memory": each.peak_memory_bytes,
            "folder": each.folder,
        }
        for each in measured
    ], opened=True)  # fmt: skip


def _figure(measured: Sequence[MeasuredModel], rows: Sequence[TextRow], text: str) -> Figure:
    look = numbered([row.model for row in rows])
    left = {each.name: each.nonzero for each in measured}
    data: list[dict[str, Any]] = [
        {
            "series": row.model,
            "x": left[row.model],
            "y": row.perplexity.estimate,
            "low": row.perplexity.low,
            "high": row.perplexity.high,
            "text": shown(row.perplexity),
            "at": human(left[row.model]),
        }
        for row in rows
    ]
    scale = scales(look)
    coloured = {"color": scale["color"]}
    said = tooltip(("series", "model"), ("text", "perplexity"), ("at", "weights that are not zero"))
    spec = {
        **base(data),
        "encoding": {
            "x": halving("x", "weights that are not zero", [row["x"] for row in data], ".3~s"),
            "y": channel("y", f"perplexity on {text}", ",.3~r", type="log"),
        },
        "layer": [bars(coloured), points({**coloured, "shape": scale["shape"], "tooltip": said})],
    }
    return Figure(
        name=f"perplexity-{1 + list(left).index(rows[0].model)}-{text}",
        title=f"Perplexity on {text} against size",
        text="Each point is a model, with its 95 % interval.",
        alternative="; ".join(f"{row['series']}: {row['text']}" for row in data),
        spec=spec,
        table=text_table(rows, None),
        series=[Series(name, number) for name, number in look.items()],
    )


def _texts(rows: Sequence[TextRow]) -> list[str]:
    return list(dict.fromkeys(row.text for row in rows))


def _notes(rows: Sequence[TextRow]) -> tuple[Part, ...]:
    few = [f"{row.model} on {row.text}: {row.pieces}" for row in rows if row.pieces < 10]
    if not few:
        return ()
    text = "Fewer than ten pieces say little about a text: give more of it."
    return (Notes("Before believing a number", (Note("mild", text, few),)),)


def _settings(settings: Mapping[str, Any]) -> Table:
    columns = (Column("name", "setting"), Column("value", "value"))
    made = [{"name": name, "value": str(value)} for name, value in settings.items()]
    return Table("settings", "How it was measured", columns, made, opened=True)
