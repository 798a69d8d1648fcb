"""The parts of charts: axes, filters, and the layers of a line over seeds.

A row of a line holds its mean, and under ``low`` and ``high`` the ends of what is known of it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from boxwood._internal.report.charts.looks import Spec, colour, scales

_LEVELS = 16
"""Most ticks of an axis of halvings."""


def base(
    rows: Sequence[Mapping[str, Any]], transforms: Sequence[Spec] = (), field: str = "series"
) -> Spec:
    """Start a chart: its data, and the filter in which the page puts what the reader chose.

    Args:
        rows: the data.
        transforms: applied after the filter; a transform of the chart has its place plus one.
        field: that the check boxes or the pick of the page filter.
    """
    return {
        "width": "container",
        "height": 340,
        "data": {"values": list(rows)},
        "transform": [{"filter": {"field": field, "valid": True}}, *transforms],
    }


def only(field: str, value: str) -> Spec:
    """Filter the rows of one value; an option of the page puts another in ``/filter/equal``."""
    return {"filter": {"field": field, "equal": value}}


def channel(
    field: str, title: str, style: str = "~r", ticks: Sequence[float] = (), **scale: Any
) -> Spec:
    """Encode a number along an axis.

    Args:
        field: of the rows.
        title: of the axis, with the unit.
        style: how numbers read, in the language of d3-format: ``"~%"`` shows fractions in percent.
        ticks: where they are; none leaves that to the chart.
        scale: further properties of the scale, which does not begin at zero.

    Example:
        >>> channel("kept", "weights remaining", "~%")["axis"]
        {'title': 'weights remaining', 'format': '~%'}
    """
    axis = {"title": title, "format": style} | ({"values": list(ticks)} if ticks else {})
    return {
        "field": field,
        "type": "quantitative",
        "axis": axis,
        "scale": {"zero": False, **scale},
    }


def halving(field: str, title: str, values: Sequence[float], style: str = ".3~p") -> Spec:
    """Encode a cost along a logarithmic axis with less to the right, a tick at each halving.

    Args:
        field: of the rows.
        title: of the axis.
        values: all that are placed on it, above zero; where they lie close, ticks do too.
        style: how numbers read.

    Example:
        >>> halving("kept", "weights remaining", [1.0, 0.1])["axis"]["values"]
        [1.0, 0.5, 0.25, 0.125]
    """
    highest, lowest = max(values, default=1.0), min(values, default=1.0)
    step = 2 if highest / lowest > 6 else math.sqrt(2)
    ticks = [highest / step**k for k in range(_LEVELS) if highest / step**k > lowest / 1.3]
    return {
        "field": field,
        "type": "quantitative",
        "axis": {"title": title, "format": style, "values": ticks},
        "scale": {"type": "log", "base": 2, "reverse": True, "nice": False, "padding": 14},
    }


def level(value: float, field: str, style: Sequence[int] = (6, 4)) -> Spec:
    """Draw a dashed line across the chart, such as the accuracy of the dense network."""
    return {
        "data": {"values": [{field: value}]},
        "mark": {"type": "rule", "strokeDash": list(style), "strokeWidth": 1.2},
        "encoding": {"x": None, "y": {"field": field, "type": "quantitative"}},
    }


Ends = Callable[[Spec], Spec]
"""Draws what is known of a mean, given the encoding of its colour."""


def band(encoding: Spec) -> Spec:
    """Draw a band from low to high along a line."""
    return {
        "mark": {"type": "area", "opacity": 0.14},
        "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}, **encoding},
    }  # fmt: skip


def bars(encoding: Spec) -> Spec:
    """Draw a bar from low to high at every point."""
    return {
        "mark": {"type": "rule", "strokeWidth": 1.4, "opacity": 0.75},
        "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}, **encoding},
    }  # fmt: skip


def line(encoding: Spec, width: float = 2) -> Spec:
    """Join the means."""
    return {"mark": {"type": "line", "strokeWidth": width}, "encoding": encoding}


def points(encoding: Spec, size: int = 70) -> Spec:
    """Mark the means."""
    mark = {"type": "point", "filled": True, "size": size, "opacity": 1}
    return {"mark": mark, "encoding": encoding}


def one_line(y: Spec, said: Sequence[Spec]) -> list[Spec]:
    """Draw one line over seeds, which needs no look of its own: band, means and marks.

    Args:
        y: encoding of the means.
        said: what pointing at a mean says.
    """
    plain = {"color": {"value": colour(0)}}
    return [
        band(plain),
        line({"y": y, **plain}, 1.8),
        points({"y": y, **plain, "tooltip": list(said)}, 26),
    ]


def unmarked_lines(
    rows: Sequence[Mapping[str, Any]], *, x: Spec, y: Spec, looks: Mapping[str, int]
) -> Spec:
    """Draw a line for each series, with too many points for marks.

    Args:
        rows: with ``series``, and the fields of both axes.
        x: encoding of the horizontal axis.
        y: of the vertical one.
        looks: number of the look of each series.
    """
    look = scales(looks)
    encoding = {"color": look["color"], "strokeDash": look["strokeDash"]}
    return {**base(rows), "encoding": {"x": x, "y": y}, "layer": [line(encoding, 1.6)]}


def lines(
    rows: Sequence[Mapping[str, Any]],
    *,
    x: Spec,
    y: Spec,
    looks: Mapping[str, int],
    ends: Ends = band,
    said: Sequence[Spec] = (),
    below: Sequence[Spec] = (),
) -> Spec:
    """Draw a line for each series: its means, and what is known of them.

    Args:
        rows: with ``series``, ``low`` and ``high``, and the fields of both axes.
        x: encoding of the horizontal axis.
        y: of the vertical one.
        looks: number of the look of each series.
        ends: `band` or `bars`.
        said: what pointing at a mean says.
        below: layers that are drawn first.
    """
    look = scales(looks)
    order = {"order": {"field": x["field"], "type": "quantitative"}}
    mark = {"color": look["color"], "shape": look["shape"]}
    return {
        **base(rows),
        "encoding": {"x": x, "y": y},
        "layer": [
            *below,
            ends({"color": look["color"]}),
            line({"color": look["color"], "strokeDash": look["strokeDash"], **order}),
            points(mark | ({"tooltip": list(said)} if said else {})),
        ],
    }
