"""What was gained and what it cost: every network as a point, with the uncertainty of its seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from boxwood._internal.report.charts.looks import Spec, numbered, scales, tooltip
from boxwood._internal.report.charts.marks import band, bars, base, channel, halving, line, points
from boxwood._internal.report.page.document import Control, Figure, Option, Series
from boxwood._internal.report.page.metrics import KEPT, Metric, Yardstick, percent
from boxwood._internal.report.page.network_tables import accuracy_table
from boxwood._internal.report.page.networks import Network, front, yardstick
from boxwood._internal.report.tables import human, human_bytes

_MARGIN = 0.05
"""How far below the dense network the closer view of a fraction reaches."""
_PART = 0.25
"""How much more of the dense network's loss or perplexity the closer view shows."""


def looks(found: Sequence[Network]) -> dict[str, int]:
    """Give every curve its number, by name."""
    return numbered([each.curve for each in found])


def trade_off(
    found: Sequence[Network],
    dense: Network | None,
    costs: Sequence[Metric],
    qualities: Sequence[Metric],
) -> Figure:
    """Draw quality against cost; every pair of the two can be chosen.

    Args:
        found: the networks.
        dense: what they are compared with.
        costs: metrics for the horizontal axis that some network has.
        qualities: metrics for the vertical one.
    """
    by = yardstick(found)
    fronts = {cost.name: front(found, cost) for cost in costs}
    rows = [row for each in found for row in _rows(each, costs, qualities, fronts)]
    ends = {quality.name: _end(found, dense, quality) for quality in qualities}
    lower = {quality.name: quality.lower for quality in qualities}
    floors = {name: None if lower[name] else end for name, end in ends.items()}
    ceilings = {name: end if lower[name] else None for name, end in ends.items()}
    of_mean, of_seed = ({"filter": f"datum.what === '{what}'"} for what in ("mean", "seed"))
    said = tooltip(
        ("name", "network"), ("text", "mean [95 % interval]"), ("at", "cost"), ("n", "seeds"), ("keys", "keys")
    )  # fmt: skip
    one = tooltip(
        ("name", "network"), ("seed", "seed"), ("text", "value"), ("at", "cost"), ("keys", "key")
    )
    look = scales(looks(found))
    coloured = {"color": look["color"]}
    known = {"filter": "isValid(datum.low)"}
    spec = {
        **base(
            rows,
            [
                {"calculate": "datum[cost]", "as": "x"},
                {"calculate": "datum[quality]", "as": "y"},
                {"calculate": "datum[quality + '_' + band + '_low']", "as": "low"},
                {"calculate": "datum[quality + '_' + band + '_high']", "as": "high"},
                {"calculate": "datum[quality + '_text']", "as": "text"},
                {"calculate": "datum[cost + '_text']", "as": "at"},
                {"filter": "isValid(datum.x) && isValid(datum.y)"},
            ],
        ),
        "height": 420,
        "params": [
            {"name": "cost", "value": costs[0].name},
            {"name": "quality", "value": qualities[0].name},
            {"name": "band", "value": "interval"},
            {"name": "floors", "value": floors},
            {"name": "ceilings", "value": ceilings},
        ],
        "encoding": {
            "x": _x_axis(found, costs[0]),
            "y": {
                "field": "y",
                "type": "quantitative",
                "axis": _y_axis(qualities[0]),
                "scale": {"zero": False, "domainMin": {"expr": "floors[quality]"},
                          "domainMax": {"expr": "ceilings[quality]"}},
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
            *_dense_rule(dense, qualities),
            _clipped(band(coloured), of_mean, known),
            _clipped(bars(coloured), of_mean, known),
            _clipped(line({**coloured, "strokeDash": look["strokeDash"], "order": {"field": "x"}}), of_mean),
            {
                "transform": [of_seed, {"filter": "band === 'seeds'"}],
                "mark": {"type": "circle", "size": 22, "opacity": 0.9, "clip": True},
                "encoding": {**coloured, "tooltip": one},
            },
            _clipped(points({**coloured, "shape": look["shape"], "tooltip": said}), of_mean),
        ],
    }  # fmt: skip
    return Figure(
        name="trade-off",
        title=f"{by.name[:1].upper()}{by.name[1:]} against cost",
        text=(
            "Each point is one network, the mean over its seeds; bars and bands are as chosen. "
            "The wide grey line is the Pareto front: networks that no other beats in "
            f"{by.validation.title} at no higher cost. Cheaper networks are to the right."
        ),
        alternative=_alternative(found, dense, by),
        spec=spec,
        table=accuracy_table(found, dense),
        series=[Series(name, number) for name, number in looks(found).items()],
        controls=[
            Control("Horizontal", [
                Option(cost.title, {
                    "/params/0/value": cost.name,
                    "/encoding/x": _x_axis(found, cost),
                }) for cost in costs
            ]),
            Control("Vertical", [
                Option(quality.title, {
                    "/params/1/value": quality.name, "/encoding/y/axis": _y_axis(quality),
                }) for quality in qualities
            ]),
            Control("Range", [
                Option("near the dense network", {}),
                Option("everything", {"/encoding/y/scale": {"zero": False}}),
            ]),
            Control("Uncertainty", [
                Option("95 % interval of the mean", {}),
                Option("range over seeds", {"/params/2/value": "range"}),
                Option("each seed", {"/params/2/value": "seeds"}),
            ]),
            Control("Pareto front", [
                Option("shown", {}), Option("hidden", {"/layer/0/mark/opacity": 0}),
            ]),
        ],
    )  # fmt: skip


def _clipped(layer: Spec, *transforms: Spec) -> Spec:
    """Draw a layer of some rows, within the axes of the closer view."""
    return {**layer, "mark": {**layer["mark"], "clip": True}, "transform": list(transforms)}


def _rows(
    network: Network,
    costs: Sequence[Metric],
    qualities: Sequence[Metric],
    fronts: Mapping[str, set[str]],
) -> list[dict[str, Any]]:
    about = {"series": network.curve, "name": network.name, "n": network.seeds}
    mean: dict[str, Any] = {**about, "what": "mean", "keys": network.keys}
    for cost in costs:
        mean[cost.name] = at = _placed(cost, network.mean(cost))
        mean[f"{cost.name}_text"] = _said(cost, at)
        mean[f"front_{cost.name}"] = network.name in fronts[cost.name]
    for quality in qualities:
        interval, values = network.interval(quality), network.values(quality)
        if interval is None:
            continue
        mean[quality.name] = interval.estimate
        mean[f"{quality.name}_interval_low"] = interval.low
        mean[f"{quality.name}_interval_high"] = interval.high
        mean[f"{quality.name}_range_low"] = min(values)
        mean[f"{quality.name}_range_high"] = max(values)
        ends = (interval.low, interval.high)
        mean[f"{quality.name}_text"] = quality.show(interval.estimate) + (
            " (1 seed)" if None in ends else f" [{', '.join(quality.show(e) for e in ends)}]"
        )
    seeds = []
    for each in network.members:
        row: dict[str, Any] = {**about, "what": "seed", "seed": each.seed, "keys": each.key[:8]}
        for cost in costs:
            row[cost.name] = at = _placed(cost, cost.of(each))
            row[f"{cost.name}_text"] = _said(cost, at)
        for quality in qualities:
            row[quality.name] = value = quality.of(each)
            row[f"{quality.name}_text"] = None if value is None else quality.show(value)
        seeds.append(row)
    return [mean, *seeds]


def _placed(cost: Metric, at: float | None) -> float | None:
    """A logarithmic axis has no place for nothing at all."""
    return None if cost.log and not at else at


def _said(cost: Metric, at: float | None) -> str | None:
    if at is None:
        return None
    return f"{cost.title}: {cost.show(round(at) if cost.show in (human, human_bytes) else at)}"


def _x_axis(found: Sequence[Network], cost: Metric) -> dict[str, Any]:
    if cost.log:
        values = [value for each in found if (value := each.mean(cost)) is not None and value > 0]
        measured = cost.name.startswith("latency_") or cost.name in ("energy", "relative_time")
        style = ".3~p" if cost is KEPT else ".2~g" if measured else ".3~s"
        return halving("x", cost.title, values, style)
    return channel("x", cost.title, padding=14)


def _y_axis(quality: Metric) -> dict[str, Any]:
    return {"title": quality.title, "format": ".1~%" if quality.show is percent else "~s"}


def _end(found: Sequence[Network], dense: Network | None, quality: Metric) -> float:
    """Where the closer view ends on the bad side: far below, or high above, the dense network."""
    values = [value for each in found for value in each.values(quality)] or [0.0]
    anchor = None if dense is None else dense.mean(quality)
    if quality.lower:
        return max(values) if anchor is None else min(max(values), anchor + _PART * abs(anchor))
    if anchor is None or quality.show is not percent:
        return min(values)
    return max(min(values), anchor - _MARGIN)


def _dense_rule(dense: Network | None, qualities: Sequence[Metric]) -> list[dict[str, Any]]:
    if dense is None:
        return []
    row = {quality.name: dense.mean(quality) for quality in qualities}
    return [
        {
            "data": {"values": [row]},
            "transform": [
                {"calculate": "datum[quality]", "as": "y"},
                {"filter": "isValid(datum.y)"},
            ],
            "mark": {"type": "rule", "strokeDash": [6, 4], "strokeWidth": 1.2},
            "encoding": {"x": None, "y": {"field": "y", "type": "quantitative"}},
        }
    ]


def _alternative(found: Sequence[Network], dense: Network | None, by: Yardstick) -> str:
    curves = looks(found)
    said = [f"Lines of {by.name} against cost for {len(curves)} ways of making a network."]
    if dense is not None and (tested := dense.mean(by.test)) is not None:
        said.append(f"The dense network reaches {by.test.show(tested)} on test.")
    for curve in curves:
        placed = [
            (kept, tested)
            for each in found
            if each.curve == curve
            and (kept := each.mean(KEPT)) is not None
            and (tested := each.mean(by.test)) is not None
        ]
        if placed:
            kept, tested = min(placed)
            said.append(f"{curve}: {by.test.show(tested)} with {percent(kept)} of the weights.")
    return " ".join(said)
