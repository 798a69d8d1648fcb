"""What was gained and what it cost: every network as a point, with the uncertainty of its seeds."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from boxwood.report.page.charts import base, scales, tooltip
from boxwood.report.page.metrics import (
    KEPT,
    TEST,
    VALIDATION,
    Metric,
    Network,
    against,
    percent,
    points,
    times_fewer,
)
from boxwood.report.page.parts import Column, Control, Figure, Option, Series, Table
from boxwood.report.tables import human, human_bytes, human_seconds

_MARGIN = 0.05
"""How far below the dense network the closer view of accuracy reaches."""
_LEVELS = 12


def looks(found: Sequence[Network]) -> dict[str, int]:
    """Give every curve its number, by name."""
    return {curve: i for i, curve in enumerate(dict.fromkeys(each.curve for each in found))}


def front(found: Sequence[Network], cost: Metric) -> set[str]:
    """Name the networks that no other beats in validation accuracy at no higher cost.

    Validation accuracy decides, because whoever picks from the front by test accuracy has used the
    test examples to choose.
    """
    placed = [
        (c, -a, each.name)
        for each in found
        if (c := each.mean(cost)) is not None and (a := each.mean(VALIDATION)) is not None
    ]
    best, chosen = float("inf"), set()
    for _, negative, name in sorted(placed):
        if negative < best:
            best = negative
            chosen.add(name)
    return chosen


def trade_off(
    found: Sequence[Network],
    dense: Network | None,
    costs: Sequence[Metric],
    worths: Sequence[Metric],
) -> Figure:
    """Draw worth against cost; every pair of the two can be chosen.

    Args:
        found: the networks.
        dense: what they are compared with.
        costs: metrics for the horizontal axis that some network has.
        worths: metrics for the vertical one.
    """
    fronts = {cost.name: front(found, cost) for cost in costs}
    rows = [row for each in found for row in _rows(each, costs, worths, fronts)]
    floors = {worth.name: _floor(found, dense, worth) for worth in worths}
    of_mean, of_seed = ({"filter": f"datum.what === '{what}'"} for what in ("mean", "seed"))
    said = tooltip(
        ("name", "network"), ("text", "mean [95 % interval]"), ("at", "cost"), ("n", "seeds"), ("keys", "keys")
    )  # fmt: skip
    one = tooltip(
        ("name", "network"), ("seed", "seed"), ("text", "value"), ("at", "cost"), ("keys", "key")
    )
    look = scales(looks(found))
    line = {name: look[name] for name in ("color", "strokeDash")}
    mark = {name: look[name] for name in ("color", "shape")}
    spec = {
        **base(
            rows,
            [
                {"calculate": "datum[cost]", "as": "x"},
                {"calculate": "datum[worth]", "as": "y"},
                {"calculate": "datum[worth + '_' + band + '_low']", "as": "low"},
                {"calculate": "datum[worth + '_' + band + '_high']", "as": "high"},
                {"calculate": "datum[worth + '_text']", "as": "text"},
                {"calculate": "datum[cost + '_text']", "as": "at"},
                {"filter": "isValid(datum.x) && isValid(datum.y)"},
            ],
        ),
        "height": 420,
        "params": [
            {"name": "cost", "value": costs[0].name},
            {"name": "worth", "value": worths[0].name},
            {"name": "band", "value": "interval"},
            {"name": "floors", "value": floors},
        ],
        "encoding": {
            "x": {"field": "x", "type": "quantitative", **_x_axis(found, costs[0])},
            "y": {
                "field": "y",
                "type": "quantitative",
                "axis": _y_axis(worths[0]),
                "scale": {"zero": False, "domainMin": {"expr": "floors[worth]"}},
            },
        },
        "layer": [
            {
                "transform": [of_mean, {"filter": "datum['front_' + cost]"}],
                "mark": {
                    "type": "line", "interpolate": "step-before", "strokeWidth": 7, "clip": True,
                    "color": "var(--front)", "strokeCap": "round", "strokeJoin": "round",
                },
                "encoding": {"order": {"field": "x"}},
            },
            *_dense_rule(dense, worths),
            {
                "transform": [of_mean, {"filter": "isValid(datum.low)"}],
                "mark": {"type": "area", "opacity": 0.08, "clip": True},
                "encoding": {"y": {"field": "low"}, "y2": {"field": "high"}, "color": look["color"]},
            },
            {
                "transform": [of_mean, {"filter": "isValid(datum.low)"}],
                "mark": {"type": "rule", "strokeWidth": 1.4, "opacity": 0.75, "clip": True},
                "encoding": {"y": {"field": "low"}, "y2": {"field": "high"}, "color": look["color"]},
            },
            {
                "transform": [of_mean],
                "mark": {"type": "line", "strokeWidth": 2, "clip": True},
                "encoding": {**line, "order": {"field": "x"}},
            },
            {
                "transform": [of_seed],
                "mark": {"type": "circle", "size": 22, "opacity": 0, "clip": True},
                "encoding": {"color": look["color"], "tooltip": one},
            },
            {
                "transform": [of_mean],
                "mark": {"type": "point", "filled": True, "size": 75, "opacity": 1, "clip": True},
                "encoding": {**mark, "tooltip": said},
            },
        ],
    }  # fmt: skip
    seeds_layer = len(spec["layer"]) - 2
    return Figure(
        name="trade-off",
        title="Accuracy against cost",
        text=(
            "Each point is one network, the mean over its seeds; bars and bands are as chosen. "
            "The wide grey line is the Pareto front: networks that no other beats in validation "
            "accuracy at no higher cost. Cheaper networks are to the right."
        ),
        alternative=_alternative(found, dense),
        spec=spec,
        table=accuracy_table(found, dense),
        series=[
            Series(name, number, _note(found, name)) for name, number in looks(found).items()
        ],
        controls=[
            Control("Horizontal", [
                Option(cost.title, {
                    "/params/0/value": cost.name,
                    **{f"/encoding/x/{k}": v for k, v in _x_axis(found, cost).items()},
                }) for cost in costs
            ]),
            Control("Vertical", [
                Option(worth.title, {
                    "/params/1/value": worth.name, "/encoding/y/axis": _y_axis(worth),
                }) for worth in worths
            ]),
            Control("Range", [
                Option("near the dense network", {}),
                Option("everything", {"/encoding/y/scale": {"zero": False}}),
            ]),
            Control("Uncertainty", [
                Option("95 % interval of the mean", {}),
                Option("range over seeds", {"/params/2/value": "range"}),
                Option("each seed", {
                    "/params/2/value": "none", f"/layer/{seeds_layer}/mark/opacity": 0.9,
                }),
            ]),
            Control("Pareto front", [
                Option("shown", {}), Option("hidden", {"/layer/0/mark/opacity": 0}),
            ]),
        ],
    )  # fmt: skip


def accuracy_table(found: Sequence[Network], dense: Network | None) -> Table:
    """How good every network is, and how sure that is."""
    rows = []
    for each in found:
        tested, checked = each.interval(TEST), each.interval(VALIDATION)
        compared = None if dense is None or each is dense else against(each, dense, TEST)
        kept = each.mean(KEPT)
        rows.append({
            "network": each.name,
            "seeds": each.seeds,
            "kept_fraction": kept,
            "test": tested and tested.estimate,
            "test_sd": each.sd(TEST),
            "test_low": tested and tested.low,
            "test_high": tested and tested.high,
            "interval": tested and tested.method,
            "validation": checked and checked.estimate,
            "difference": compared and compared.difference.estimate,
            "difference_low": compared and compared.difference.low,
            "difference_high": compared and compared.difference.high,
            "wins": compared and compared.wins,
            "losses": compared and compared.losses,
            "p_paired": compared and compared.t_p,
            "keys": each.keys,
        })  # fmt: skip
    return Table(
        "accuracy",
        "Accuracy of every network; differences are to the dense network, paired by seed",
        (
            Column("network", "network"),
            Column("seeds", "seeds", number=True),
            Column("kept_fraction", "weights kept", percent, number=True),
            Column("test", "test", percent, number=True),
            Column("test_sd", "sd", points_of, number=True),
            Column("test_low", "95 % from", percent, number=True),
            Column("test_high", "to", percent, number=True),
            Column("validation", "validation", percent, number=True),
            Column("difference", "to dense, points", points, number=True),
            Column("difference_low", "95 % from", points, number=True),
            Column("difference_high", "to", points, number=True),
            Column("wins", "seeds better", number=True),
            Column("losses", "worse", number=True),
            Column("p_paired", "p", "{:.2g}".format, number=True),
            Column("interval", "interval by"),
            Column("keys", "keys"),
        ),
        rows,
        opened=True,
    )


def cost_table(found: Sequence[Network], extra: Sequence[Metric]) -> Table:
    """What every network weighs, what it needs for one example, and what it cost to make."""
    rows: list[dict[str, Any]] = []
    for each in found:
        first = each.members[0].facts

        def mean(name: str, each: Network = each) -> float | None:
            values = [m.facts[name] for m in each.members if name in m.facts]
            return fmean(values) if values else None

        row: dict[str, Any] = {
            "network": each.name,
            "parameters": first.get("parameters"),
            "nonzero": mean("nonzero"),
            "weights_ratio": _ratio(first.get("parameters"), mean("nonzero")),
            "multiply_adds": mean("multiply_adds"),
            "multiply_adds_ratio": _ratio(first.get("dense_multiply_adds"), mean("multiply_adds")),
            "bytes": mean("bytes"),
            "bytes_ratio": _ratio(first.get("dense_bytes"), mean("bytes")),
            "epochs": float(each.members[0].epochs),
            "seconds": sum(m.seconds for m in each.members) / each.seeds,
            "keys": each.keys,
        }
        row |= {metric.name: each.mean(metric) for metric in extra}
        rows.append(row)
    whole = lambda value: human(round(value))  # noqa: E731 - means of counts
    return Table(
        "cost",
        "Size, arithmetic and training of every network; ratios are theoretical, to the same network before pruning",
        (
            Column("network", "network"),
            Column("parameters", "parameters", whole, number=True),
            Column("nonzero", "non-zero", whole, number=True),
            Column("weights_ratio", "", times_fewer, number=True),
            Column("multiply_adds", "multiply-adds", whole, number=True),
            Column("multiply_adds_ratio", "", times_fewer, number=True),
            Column("bytes", "on disk", lambda v: human_bytes(round(v)), number=True),
            Column("bytes_ratio", "", times_fewer, number=True),
            *(Column(metric.name, metric.title, metric.show, number=True) for metric in extra),
            Column("epochs", "epochs", "{:.4g}".format, number=True),
            Column("seconds", "training time", human_seconds, number=True),
            Column("keys", "keys"),
        ),
        rows,
    )  # fmt: skip


def points_of(value: float) -> str:
    """A spread of fractions in percentage points.

    Example:
        >>> points_of(0.0021)
        '0.21'
    """
    return f"{100 * value:.2f}"


def _ratio(dense: float | None, now: float | None) -> float | None:
    return dense / now if dense and now else None


def _rows(
    network: Network,
    costs: Sequence[Metric],
    worths: Sequence[Metric],
    fronts: Mapping[str, set[str]],
) -> list[dict[str, Any]]:
    about = {"series": network.curve, "name": network.name, "n": network.seeds}
    mean: dict[str, Any] = {**about, "what": "mean", "keys": network.keys}
    for cost in costs:
        at = network.mean(cost)
        mean[cost.name] = at
        mean[f"{cost.name}_text"] = None if at is None else f"{cost.title}: {_said(cost, at)}"
        mean[f"front_{cost.name}"] = network.name in fronts[cost.name]
    for worth in worths:
        interval, values = network.interval(worth), network.values(worth)
        if interval is None:
            continue
        mean[worth.name] = interval.estimate
        mean[f"{worth.name}_interval_low"] = interval.low
        mean[f"{worth.name}_interval_high"] = interval.high
        mean[f"{worth.name}_range_low"] = min(values)
        mean[f"{worth.name}_range_high"] = max(values)
        ends = (interval.low, interval.high)
        mean[f"{worth.name}_text"] = worth.show(interval.estimate) + (
            " (1 seed)" if None in ends else f" [{', '.join(worth.show(e) for e in ends)}]"
        )
    seeds = []
    for each in network.members:
        row: dict[str, Any] = {**about, "what": "seed", "seed": each.seed, "keys": each.key[:8]}
        for metric in (*costs, *worths):
            value = metric.of(each)
            row[metric.name] = value
            row[f"{metric.name}_text"] = None if value is None else _said(metric, value)
        seeds.append(row)
    return [mean, *seeds]


def _said(metric: Metric, value: float) -> str:
    return metric.show(round(value) if metric.show in (human, human_bytes) else value)


def _x_axis(found: Sequence[Network], cost: Metric) -> dict[str, Any]:
    values = [value for each in found if (value := each.mean(cost)) is not None and value > 0]
    title, highest, lowest = cost.title, max(values, default=1.0), min(values, default=1.0)
    if not cost.log:
        return {"axis": {"title": title, "format": "~g"}, "scale": {"zero": False, "padding": 14}}
    ticks = [highest / 2**k for k in range(_LEVELS) if highest / 2**k > lowest / 1.5]
    style = {"kept_fraction": ".3~p", "energy": ".2~g", "latency": ".2~g"}.get(cost.name, ".3~s")
    return {
        "axis": {"title": title, "format": style, "values": ticks},
        "scale": {"type": "log", "base": 2, "reverse": True, "nice": False, "padding": 14},
    }


def _y_axis(worth: Metric) -> dict[str, Any]:
    return {"title": worth.title, "format": ".1~%" if worth.show is percent else "~s"}


def _floor(found: Sequence[Network], dense: Network | None, worth: Metric) -> float:
    values = [value for each in found for value in each.values(worth)] or [0.0]
    anchor = None if dense is None or worth.show is not percent else dense.mean(worth)
    return min(values) if anchor is None else max(min(values), anchor - _MARGIN)


def _dense_rule(dense: Network | None, worths: Sequence[Metric]) -> list[dict[str, Any]]:
    if dense is None:
        return []
    row = {worth.name: dense.mean(worth) for worth in worths}
    return [
        {
            "data": {"values": [row]},
            "transform": [{"calculate": "datum[worth]", "as": "y"}, {"filter": "isValid(datum.y)"}],
            "mark": {"type": "rule", "strokeDash": [6, 4], "strokeWidth": 1.2},
            "encoding": {"x": None, "y": {"field": "y", "type": "quantitative"}},
        }
    ]


def _note(found: Sequence[Network], curve: str) -> str:
    count = sum(each.curve == curve for each in found)
    return f"{count} points" if count > 1 else "1 point"


def _alternative(found: Sequence[Network], dense: Network | None) -> str:
    curves = looks(found)
    said = [f"Lines of accuracy against cost for {len(curves)} ways of making a network."]
    if dense is not None and (tested := dense.mean(TEST)) is not None:
        said.append(f"The dense network reaches {percent(tested)} on test.")
    for curve in curves:
        placed = [
            (kept, tested)
            for each in found
            if each.curve == curve
            and (kept := each.mean(KEPT)) is not None
            and (tested := each.mean(TEST)) is not None
        ]
        if placed:
            kept, tested = min(placed)
            said.append(f"{curve}: {percent(tested)} with {percent(kept)} of the weights.")
    return " ".join(said)


def chosen(found: Sequence[Network], dense: Network | None, margin: float) -> Network | None:
    """Pick the smallest network whose validation accuracy is within ``margin`` of the dense one's."""
    if dense is None or (anchor := dense.mean(VALIDATION)) is None:
        return None
    near = [
        each
        for each in found
        if not each.dense
        and each.mean(KEPT) is not None
        and (checked := each.mean(VALIDATION)) is not None
        and checked >= anchor - margin
    ]
    return min(near, key=lambda each: each.mean(KEPT) or 0.0, default=None)
