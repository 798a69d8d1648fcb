"""Charts of curves over seeds: accuracy against weights left, sensitivity by layer, values by name.

What they take is plain numbers, so that they serve a page, and a study whose results lie in a file.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import Any

from boxwood._internal.report.charts.looks import Spec, colour, numbered
from boxwood._internal.report.charts.marks import base, channel, halving, level, lines
from boxwood.errors import InvalidInput

Curves = Mapping[str, Sequence[tuple[float, Sequence[float]]]]
"""Points of each curve, in any order: a place on the horizontal axis, and the value of each seed."""

_SHADES = ["var(--c6)", "var(--c0)", "var(--c5)", "var(--line)"]
"""Of bars, which have no markers: from dark to light."""

OVER_SEEDS = "Means over seeds; bands reach from the lowest seed to the highest."


def curve_rows(
    curves: Curves, centre: Callable[[Sequence[float]], float] = fmean
) -> list[dict[str, Any]]:
    """Put the seeds of every point together, in the order of the horizontal axis.

    Args:
        curves: at least one, with a point each.
        centre: what is drawn as the line, such as the mean.

    Raises:
        InvalidInput: there is no curve, one is empty, a point has no value, or one that is not
            finite.

    Example:
        >>> curve_rows({"ticket": [(0.5, (3, 5))]})
        [{'series': 'ticket', 'at': 0.5, 'value': 4.0, 'low': 3, 'high': 5, 'seeds': 2}]
    """
    empty = [name for name, points in curves.items() if not points or not all(v for _, v in points)]
    if not curves or empty:
        raise InvalidInput(
            f"Expected at least one curve, and a point with a value on each, got {len(curves)} "
            f"curves of which {empty} are empty; leave those out."
        )
    broken = [n for n, points in curves.items() for _, v in points if not all(map(isfinite, v))]
    if broken:
        raise InvalidInput(
            f"Expected finite numbers to draw, got others on {broken[0]!r}; leave out the runs that "
            f"failed."
        )
    return [
        {
            "series": name, "at": at, "value": centre(values), "low": min(values),
            "high": max(values), "seeds": len(values),
        }
        for name, points in curves.items() for at, values in sorted(points, key=lambda p: p[0])
    ]  # fmt: skip


def against_remaining(curves: Curves, quantity: str = "test accuracy") -> Spec:
    """Draw fractions, such as accuracies, against the weights that remain.

    Fewer weights are to the right, with a tick at each halving. A line joins the means over seeds.
    Its band reaches from the lowest seed to the highest.

    Args:
        curves: a kept fraction in (0, 1], and the fraction of each seed there.
        quantity: what the fractions are.

    Raises:
        InvalidInput: there is nothing to draw, or a number is out of range.

    Example:
        >>> against_remaining({"ticket": [(1.0, (0.98, 0.97))]})["encoding"]["x"]["axis"]["title"]
        'weights remaining'

    Source: Frankle and Carbin (2019), the figures of accuracy against P_m.
    """
    for name, points in curves.items():
        for kept, accuracies in points:
            _check_fractions(accuracies, f"{name!r} at kept fraction {kept}")
    return numbers_against_remaining(curves, quantity, style="~%")


def numbers_against_remaining(curves: Curves, quantity: str, style: str = "~s") -> Spec:
    """Draw numbers, such as steps or perplexities, against the weights that remain.

    Args:
        curves: a kept fraction in (0, 1], and the number of each seed there.
        quantity: what the numbers are, with their unit.
        style: how they read, in the language of d3-format.

    Raises:
        InvalidInput: there is nothing to draw, or a kept fraction is out of range.

    Source: Frankle and Carbin (2019), the figures of the early-stopping iteration against P_m.
    """
    rows = curve_rows(curves)
    wrong = {(row["series"], row["at"]) for row in rows if not 0 < row["at"] <= 1}
    for name, kept in wrong:
        raise InvalidInput(
            f"Expected kept fractions of {name!r} in (0, 1], got {kept}; give the fraction of "
            f"weights that remain, because a log axis cannot show zero."
        )
    return lines(
        rows,
        x=halving("at", "weights remaining", [1.0, *(row["at"] for row in rows)]),
        y=channel("value", quantity, style),
        looks=numbered(list(curves)),
    )


def sensitivity_chart(
    rows: Sequence[Mapping[str, Any]], dense: float, quantity: str, said: Sequence[Spec] = ()
) -> Spec:
    """Draw accuracy against the sparsity of one layer at a time, the others being dense.

    Args:
        rows: with ``series``, the layer, in the order in which they run; its ``sparsity``; the
            ``accuracy`` of the network, and its ends ``low`` and ``high``. All are fractions.
        dense: accuracy of the network before pruning, as a fraction.
        quantity: what the accuracies are.
        said: what pointing at a point says.

    Source: Han et al. (2015), the figure of pruning sensitivity.
    """
    return lines(
        rows,
        x=channel("sparsity", "sparsity of the one pruned layer", "~%", padding=12),
        y=channel("accuracy", quantity, "~%"),
        looks=numbered([row["series"] for row in rows]),
        said=said,
        below=[level(dense, "accuracy")],
    )


def dots(groups: Mapping[str, Sequence[float]], quantity: str, style: str = "~%") -> Spec:
    """Draw the value of every seed as a dot, a row for each name, and a stroke at the mean.

    Args:
        groups: values of each name, from the top down.
        quantity: what the values are, with their unit.
        style: how they read, in the language of d3-format.

    Example:
        >>> dots({"dense": [0.1, 0.2]}, "test error")["height"]
        30
    """
    rows = [
        {"series": name, "value": value, "mean": fmean(values)}
        for name, values in groups.items() for value in values
    ]  # fmt: skip
    names = {"field": "series", "type": "nominal", "sort": list(groups)}
    return {
        **base(rows),
        "height": 30 * len(groups),
        "encoding": {"y": {**names, "axis": {"title": None, "labelLimit": 300}}},
        "layer": [
            {
                "mark": {"type": "point", "size": 55, "opacity": 0.8, "color": colour(0)},
                "encoding": {"x": channel("value", quantity, style, padding=8)},
            },
            {
                "mark": {"type": "tick", "thickness": 2.5, "size": 18, "color": colour(1)},
                "encoding": {"x": {"field": "mean", "type": "quantitative"}},
            },
        ],
    }


def bars_of_groups(
    values: Mapping[str, Mapping[str, float]], quantity: str, dense: float, style: str = "~r"
) -> Spec:
    """Draw groups of bars next to one another, and a dashed line at the dense network.

    Args:
        values: by series, by group.
        quantity: what the values are, with their unit.
        dense: that of the dense network.
        style: how they read, in the language of d3-format.
    """
    rows = [
        {"series": series, "group": group, "value": value}
        for series, groups in values.items() for group, value in groups.items()
    ]  # fmt: skip
    shade = {"domain": list(values), "range": _SHADES[: len(values)]}
    groups = list(dict.fromkeys(row["group"] for row in rows))
    return {
        **base(rows),
        "layer": [
            {
                "mark": {"type": "bar", "stroke": "var(--ink)", "strokeWidth": 0.6},
                "encoding": {
                    "x": {"field": "group", "type": "nominal", "sort": groups,
                          "axis": {"title": "level", "labelAngle": 0}},
                    "xOffset": {"field": "series", "sort": list(values)},
                    "y": channel("value", quantity, style, zero=True),
                    "color": {"field": "series", "type": "nominal", "scale": shade, "legend": None},
                },
            },
            level(dense, "value"),
        ],
    }  # fmt: skip


def _check_fractions(values: Sequence[float], where: str) -> None:
    if not values or not all(0 <= value <= 1 for value in values):
        raise InvalidInput(
            f"Expected accuracies of {where} in [0, 1], at least one, got {list(values)}; "
            f"divide percentages by 100, and leave out runs that failed."
        )
