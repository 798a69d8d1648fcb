"""Every network in two tables: how good it is, and what it costs."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

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
from boxwood.report.page.parts import Column, Table
from boxwood.report.page.reading import number
from boxwood.report.tables import human, human_bytes, human_seconds


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
    compared_with = "" if dense is None else f"; differences are to {dense.name}, paired by seed"
    return Table(
        "accuracy",
        f"Accuracy of every network{compared_with}",
        (
            Column("network", "network"),
            Column("seeds", "seeds", number=True),
            Column("kept_fraction", "weights kept", percent, number=True),
            Column("test", "test", percent, number=True),
            Column("test_sd", "sd", points_of, number=True),
            Column("test_low", "95 % from", percent, number=True),
            Column("test_high", "to", percent, number=True),
            Column("validation", "validation", percent, number=True),
            Column("difference", "difference, points", points, number=True),
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
            values = [number(m.facts.get(name)) for m in each.members]
            there = [value for value in values if value is not None]
            return fmean(there) if there else None

        row: dict[str, Any] = {
            "network": each.name,
            "parameters": number(first.get("parameters")),
            "nonzero": mean("nonzero"),
            "weights_ratio": _ratio(number(first.get("parameters")), mean("nonzero")),
            "multiply_adds": mean("multiply_adds"),
            "multiply_adds_ratio": _ratio(
                number(first.get("dense_multiply_adds")), mean("multiply_adds")
            ),
            "bytes": mean("bytes"),
            "bytes_ratio": _ratio(number(first.get("dense_bytes")), mean("bytes")),
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
