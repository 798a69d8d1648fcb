"""Read the results files that the claims are held against."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boxwood._internal.report.claims import NotRun, Report
from boxwood._internal.report.contrasts import BySeed, value_of
from boxwood._internal.report.tickets import EarlyStop
from boxwood._internal.report.tickets import Verdict as TicketVerdict
from boxwood._internal.report.tickets import verdict as ticket_verdict
from boxwood._internal.report.verdicts import (
    SMALLEST_GAIN,
    SMALLEST_GAIN_IN_LOSS,
    compared,
)
from boxwood.runs import Finding

DATA = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
RESULTS = Path(__file__).parent / "results"


def reports() -> dict[str, Report]:
    """All results files by name."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    return {name: each for name, each in found.items() if isinstance(each, dict)}


def network(report: Report, name: str) -> BySeed:
    """The runs of one network, by seed."""
    found = {row["seed"]: row for row in report["runs"] if row.get("name") == name}
    if not found:
        raise NotRun(f"no network {name!r} yet")
    return found


def better(
    report: Report, claim: str, ours: str, theirs: str, limit: float = 0.0, **how: Any
) -> Finding:
    """Whether one network is better than another by more than a limit."""
    terms = [(1.0, network(report, ours)), (-1.0, network(report, theirs))]
    return compared(claim, terms, limit, smallest_gain=0.0 if limit else SMALLEST_GAIN, **how)


def lower_loss(
    report: Report, claim: str, ours: str, theirs: str, limit: float = 0.0, unit: str = "nats"
) -> Finding:
    """Whether the test loss of one network is lower than another's by more than a limit."""
    terms = [(1.0, network(report, theirs)), (-1.0, network(report, ours))]
    least = 0.0 if limit else SMALLEST_GAIN_IN_LOSS
    return compared(
        claim, terms, limit, smallest_gain=least, what="loss", scale=1.0, unit=unit, digits=4
    )


def best_soft(report: Report, label: str = "") -> str:
    """The taught network of the highest mean validation accuracy."""
    return best(report, "soft", label)


def best(report: Report, start: str, label: str = "") -> str:
    """The network of the highest mean validation accuracy, of those whose names start alike."""
    names = dict.fromkeys(row["name"] for row in report["runs"])
    found = [n for n in names if n.startswith(start) and n.endswith(label)]
    if not found:
        raise NotRun(f"no network {start!r} yet")

    def validation(name: str) -> float:
        rows = network(report, name).values()
        return sum(value_of(row, "validation", "right") for row in rows) / len(rows)

    return max(found, key=validation)


def first_run(report: Report, names: Sequence[str]) -> str:
    """The first of some names that was run."""
    for name in names:
        if any(row["name"] == name for row in report["runs"]):
            return name
    raise NotRun(f"no network {names[0]!r} yet")


def stops(report: Report, name: str) -> dict[int, EarlyStop]:
    """Where the networks of one name would have stopped, by seed."""
    found = report.get("early_stops", {}).get(name)
    if not found:
        raise NotRun(f"no network {name!r} yet")
    return {int(seed): EarlyStop(**stop) for seed, stop in found.items()}


def at_stop(report: Report, name: str) -> BySeed:
    """What a network was worth where it would have stopped, by seed."""
    return {
        seed: {"test": stop.test, "validation": stop.validation}
        | ({} if stop.answers is None else {"test_answers": stop.answers})
        for seed, stop in stops(report, name).items()
    }


def controls(report: Report, level: int, control: str, prefix: str = "") -> list[str]:
    """Names of the networks that a ticket is held against, such as all reinitialised ones."""
    names = [
        name
        for name in report.get("early_stops", {})
        if name.startswith(f"{prefix}{control}") and name.endswith(f" level-{level}")
    ]
    if not names:
        raise NotRun(f"no {prefix}{control} at level {level} yet")
    return names


def ticket(report: Report, level: int, control: str = "reinit", prefix: str = "") -> TicketVerdict:
    """The rule for tickets at one level, against all controls of that level."""
    names = controls(report, level, control, prefix)
    mine = stops(report, f"{prefix}ticket level-{level}")
    dense = f"{prefix}ticket level-0"
    # Tickets of one dense training list it once.
    whole = stops(report, dense if dense in report["early_stops"] else "ticket level-0")
    others = [stops(report, name) for name in names]
    seeds = sorted(set(mine).intersection(whole, *others))
    return ticket_verdict(
        [whole[s] for s in seeds], [mine[s] for s in seeds], [[o[s] for o in others] for s in seeds]
    )


def rows_of(report: Report, **wanted: Any) -> Sequence[Mapping[str, Any]]:
    """Rows of a study that lists its own kind of runs."""
    found = [row for row in report["runs"] if all(row.get(k) == v for k, v in wanted.items())]
    if not found:
        raise NotRun(f"no rows with {wanted} yet")
    return found
