"""Every network in two tables: how good it is, and what it costs."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from boxwood._internal.core.timing import median_interval
from boxwood._internal.report import statistics
from boxwood._internal.report.page.document import Column, Table
from boxwood._internal.report.page.facts import number
from boxwood._internal.report.page.metrics import (
    KEPT,
    TOP5,
    VALIDATION_TOP5,
    Metric,
    percent,
    times_fewer,
)
from boxwood._internal.report.page.networks import Network, against, yardstick
from boxwood._internal.report.tables import human, human_bytes, human_seconds
from boxwood._internal.runs.latency import DENSE, ENGINE, TORCH, Timings


def accuracy_table(found: Sequence[Network], dense: Network | None) -> Table:
    """How good every network is, and how certain that is."""
    by = yardstick(found)
    top5 = [each for each in (TOP5, VALIDATION_TOP5) if any(n.values(each) for n in found)]
    rows = []
    for each in found:
        tested, checked = each.interval(by.test), each.interval(by.validation)
        compared = None if dense is None or each is dense else against(each, dense, by.test)
        kept = each.mean(KEPT)
        rows.append({
            "network": each.name,
            "seeds": each.seeds,
            "kept_fraction": kept,
            "test": tested and tested.estimate,
            "test_sd": each.sd(by.test),
            "test_low": tested and tested.low,
            "test_high": tested and tested.high,
            "interval": tested and tested.method,
            "validation": checked and checked.estimate,
            **{metric.name: each.mean(metric) for metric in top5},
            "difference": compared and compared.difference.estimate,
            "difference_low": compared and compared.difference.low,
            "difference_high": compared and compared.difference.high,
            "wins": compared and compared.wins,
            "losses": compared and compared.losses,
            "p_paired": compared and compared.t_p,
            "keys": each.keys,
        })  # fmt: skip
    compared_with = "" if dense is None else f"; differences are to {dense.name}, paired by seed"
    show, change = by.test.show, by.test.change
    unit = f"difference, {by.test.unit}".removesuffix(", ")
    return Table(
        by.name.replace(" ", "-").lower(),
        f"{by.name[:1].upper()}{by.name[1:]} of every network{compared_with}",
        (
            Column("network", "network"),
            Column("seeds", "seeds", number=True),
            Column("kept_fraction", "weights kept", percent, number=True),
            Column("test", "test", show, number=True),
            Column("test_sd", "sd", by.test.spread, number=True),
            Column("test_low", "95 % from", show, number=True),
            Column("test_high", "to", show, number=True),
            Column("validation", "validation", show, number=True),
            Column("difference", unit, change, number=True),
            Column("difference_low", "95 % from", change, number=True),
            Column("difference_high", "to", change, number=True),
            Column("wins", "seeds better", number=True),
            Column("losses", "worse", number=True),
            Column("p_paired", "p", "{:.2g}".format, number=True),
            *(Column(m.name, m.title.replace(" accuracy", ""), percent, number=True) for m in top5),
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


def latency_table(found: Sequence[Network], timings: Timings) -> Table | None:
    """How long every measured network takes; None where none was timed."""
    timed = [each for each in found if any(m.key in timings.networks for m in each.members)]
    ways = [way for way in (DENSE, TORCH, ENGINE) if way in timings.ways]
    ways += [way for way in timings.ways if way not in ways]
    rows = [
        {
            "network": each.name,
            **{f"way_{i}": _median(each, timings, way) for i, way in enumerate(ways)},
            **_relative(each, timings),
            "keys": " ".join(m.key[:8] for m in each.members if m.key in timings.networks),
        }
        for each in timed
    ]
    if not rows:
        return None
    said = {DENSE: "dense, in torch", TORCH: "in torch", ENGINE: "in the engine"}
    ratio = "{:.3f}".format
    return Table(
        "latency",
        "Measured milliseconds per example: medians over turns, means of these over seeds; what "
        "the engine takes of the dense network's time in torch, turn by turn",
        (
            Column("network", "network"),
            *(Column(f"way_{i}", said.get(way, way), "{:.4g}".format, number=True) for i, way in enumerate(ways)),
            Column("relative", "of the dense time", ratio, number=True),
            Column("relative_low", "95 % from", ratio, number=True),
            Column("relative_high", "to", ratio, number=True),
            Column("times", "seeds", number=True),
            Column("keys", "keys"),
        ),
        rows,
    )  # fmt: skip


def _median(network: Network, timings: Timings, way: str) -> float | None:
    times = [timings.median(m.key, way) for m in network.members]
    there = [time for time in times if time is not None]
    return fmean(there) if there else None


def _relative(network: Network, timings: Timings) -> dict[str, Any]:
    """The interval is over seeds; for one seed, over turns by order statistics."""
    turns = [ratios for m in network.members if (ratios := timings.ratios(m.key))]
    if not turns:
        return {}
    centre, low, high = median_interval(turns[0])
    if len(turns) > 1:
        over = statistics.mean([median_interval(ratios)[0] for ratios in turns])
        return {
            "relative": over.estimate, "relative_low": over.low, "relative_high": over.high,
            "times": len(turns),
        }  # fmt: skip
    return {"relative": centre, "relative_low": low, "relative_high": high, "times": 1}


def _ratio(dense: float | None, now: float | None) -> float | None:
    return dense / now if dense and now else None
