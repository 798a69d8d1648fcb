"""How an agent searched: its rewards and what it kept, update after update, layer by layer.

A phase is shown whose facts hold ``episodes``, a list of updates of its policy:
``{"layer": name, "update": number, "kept": [units each try kept], "drop": [points that it lost],
"reward": [of each]}``.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, TypeGuard

from boxwood._internal.report.charts.looks import tooltip
from boxwood._internal.report.charts.marks import base, channel, one_line, only
from boxwood._internal.report.page.document import Column, Control, Figure, Option, Table
from boxwood._internal.report.page.facts import number
from boxwood._internal.report.page.store_reader import Study
from boxwood._internal.report.page.training_history import thinned

AGENT = "agent"
"""Name of the pick that chooses a recipe in this figure."""
_QUANTITIES = {
    "reward": "reward",
    "kept": "units kept of the layer",
    "drop": "accuracy lost by a try (points)",
}
_LISTED, _FEWEST, _ROWS = 300, 10, 6000
"""Most and fewest updates of a search that are drawn, evenly spaced, and most rows of all."""


def searched(facts: Mapping[str, Any]) -> TypeGuard[Mapping[str, list[Mapping[str, Any]]]]:
    """Say whether facts hold the updates of an agent.

    Example:
        >>> searched({"episodes": [{"layer": "conv1", "update": 0, "kept": [3], "drop": [0.1], "reward": [2.0]}]})
        True
        >>> searched({"episodes": [{"episode": 0, "reward": 0.1}]})
        False
    """
    rows = facts.get("episodes")
    return isinstance(rows, list) and bool(rows) and all(map(_update, rows))


def episode_figure(study: Study) -> Figure | None:
    """Draw the tries of every search, by layer; None where nothing was searched."""
    rows = list(_rows(study))
    if not rows:
        return None
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    several = len({row["seed"] for row in rows}) > 1
    spec = {
        **base(
            rows,
            [only("layer", layers[0]), only("what", "reward")],
            field=AGENT,
        ),
        "encoding": {
            "x": {**channel("update", ""), "axis": {"title": "update of the policy", "tickMinStep": 1}},
            "detail": {"field": "key"},
        },
        "layer": one_line(
            channel("mean", _QUANTITIES["reward"]),
            tooltip(
                ("layer", "layer"), ("update", "update"), ("seed", "seed"), ("said", "mean over tries"),
                ("tries", "tries"), ("key", "key"),
            ),
        ),
    }  # fmt: skip
    return Figure(
        name="episodes",
        title="What the agent tried",
        text=(
            f"Means over the tries of an update{', a line for each seed' if several else ''}; the "
            "band reaches from the lowest try to the highest."
        ),
        alternative=f"Lines of reward against update for the chosen layer, of {_said(rows, layers)}.",
        spec=spec,
        table=Table(
            "episodes",
            "Updates of the chosen recipe's agents",
            (
                Column(AGENT, "branch"),
                Column("seed", "seed", number=True),
                Column("layer", "layer"),
                Column("update", "update", "{:g}".format, number=True),
                Column("title", "of"),
                Column("mean", "mean", "{:.4g}".format, number=True),
                Column("low", "lowest", "{:.4g}".format, number=True),
                Column("high", "highest", "{:.4g}".format, number=True),
                Column("tries", "tries", number=True),
                Column("key", "key"),
            ),
            rows,
            picked_by=AGENT,
        ),
        controls=[
            Control("Layer", [Option(layer, {"/transform/1/filter/equal": layer}) for layer in layers]),
            Control("Shown", [
                Option(what, {"/transform/2/filter/equal": what, "/layer/1/encoding/y/axis": {"title": title},
                              "/layer/2/encoding/y/axis": {"title": title}})
                for what, title in _QUANTITIES.items()
            ]),
        ],
        picked_by=AGENT,
    )  # fmt: skip


def _rows(study: Study) -> list[dict[str, Any]]:
    searches = [(run, s) for run in study.runs for s in run.steps if searched(s.facts)]
    share = _ROWS // (len(_QUANTITIES) * max(1, len(searches)))
    rows = []
    for run, step in searches:
        for update in thinned(step.facts["episodes"], min(_LISTED, max(_FEWEST, share))):
            for what, title in _QUANTITIES.items():
                values = update[what]
                rows.append({
                    AGENT: run.branch, "seed": run.seed, "layer": update["layer"],
                    "update": update["update"], "what": what, "title": title,
                    "mean": fmean(values), "low": min(values), "high": max(values),
                    "tries": len(values), "said": f"{fmean(values):.4g}", "key": step.key[:8],
                })  # fmt: skip
    return rows


def _said(rows: Sequence[Mapping[str, Any]], layers: Sequence[str]) -> str:
    """In words, what each layer began and ended with."""
    said = []
    for layer in layers:
        kept = [row for row in rows if (row["layer"], row["what"]) == (layer, "kept")]
        said.append(
            f"{layer}: {kept[0]['mean']:.4g} units kept at first, {kept[-1]['mean']:.4g} last"
        )
    return f"{len(layers)} {'layers' if len(layers) != 1 else 'layer'}. " + "; ".join(said)


def _update(row: Any) -> bool:
    return (
        isinstance(row, Mapping)
        and isinstance(row.get("layer"), str)
        and number(row.get("update")) is not None
        and all(_listed(row.get(what)) for what in _QUANTITIES)
    )


def _listed(values: Any) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(number(each) is not None for each in values)
    )
