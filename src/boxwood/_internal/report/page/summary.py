"""The summary: the dense network, the smallest network close to it, warnings, verdicts."""

from collections.abc import Callable, Sequence

from boxwood._internal.report.page.document import (
    Card,
    Cards,
    Column,
    Note,
    Notes,
    Part,
    Section,
    Table,
)
from boxwood._internal.report.page.facts import number
from boxwood._internal.report.page.metrics import KEPT, Metric, Yardstick, times_fewer
from boxwood._internal.report.page.networks import Network, against, chosen, yardstick
from boxwood._internal.report.page.store_reader import Study
from boxwood._internal.report.page.warnings import warnings_of
from boxwood._internal.report.study import Finding, Measurement
from boxwood.errors import BoxwoodError

Judge = Callable[[tuple[Measurement, ...]], Sequence[Finding]]


def summary(
    study: Study, found: Sequence[Network], dense: Network | None, judge: Judge | None
) -> Section:
    """Say what came out, and what speaks against believing it.

    Args:
        study: its runs.
        found: its networks.
        dense: what they are compared with.
        judge: turns measurements into verdicts.
    """
    best, by = chosen(found, dense), yardstick(found)
    parts: list[Part] = []
    cards = _cards(dense, best, by.test)
    if cards:
        parts.append(Cards(cards))
    notes = warnings_of(study, found, dense)
    parts.append(
        Notes("Before you believe it", notes or [Note("fine", "Nothing was found to warn of.")])
    )
    if judge is not None:
        parts.append(_verdicts(study, judge))
    text = (
        "No network has been measured yet."
        if not found
        else _sentence(dense, best, by, pruned=any(not each.dense for each in found))
    )
    return Section("summary", "Summary", text, parts)


def _sentence(dense: Network | None, best: Network | None, by: Yardstick, *, pruned: bool) -> str:
    if dense is None:
        return "No dense network was measured, so there is nothing to compare with."
    if best is None and not pruned:
        return "Nothing is pruned here: all networks have their full size."
    if best is None:
        return (
            f"No pruned network came within {by.within} of the dense network's "
            f"{by.validation.title}."
        )
    test = by.test
    compared = against(best, dense, test)
    kept = best.mean(KEPT)
    if compared is None or not kept:
        return ""
    difference = compared.difference
    sure = (
        f" (95 % interval {test.change(difference.low)} to {test.change(difference.high)}, {difference.n} seeds)"
        if difference.low is not None and difference.high is not None
        else " (one seed, no interval)"
    )
    return (
        f"{best.name} is the smallest network within {by.within} of the dense one on "
        f"validation. It has {times_fewer(1 / kept)} weights, and its {test.title} differs from the "
        f"dense network's by {f'{test.change(difference.estimate)} {test.unit}'.rstrip()}{sure}."
    )


def _cards(dense: Network | None, best: Network | None, test: Metric) -> list[Card]:
    cards = []
    for network, label in ((dense, "dense"), (best, best.name if best else "")):
        interval = network.interval(test) if network else None
        if network is None or interval is None:
            continue
        ends = (
            f"95 %: {test.show(interval.low)} to {test.show(interval.high)}"
            if interval.low is not None and interval.high is not None
            else "no interval"
        )
        seeds = f"{network.seeds} seed{'s' if network.seeds != 1 else ''}"
        cards.append(
            Card(test.show(interval.estimate), f"{test.title}, {label}", f"{ends}, {seeds}")
        )
    if best is None:
        return cards
    for whole, part, label in (
        ("weights", "kept", "weights"),
        ("dense_multiply_adds", "multiply_adds", "multiply-adds (theoretical)"),
        ("dense_bytes", "bytes", "bytes on disk"),
    ):
        pairs_ = [(number(m.facts.get(whole)), number(m.facts.get(part))) for m in best.members]
        ratios = [dense_ / left for dense_, left in pairs_ if dense_ and left]
        if ratios:
            ratio = sum(ratios) / len(ratios)
            cards.append(Card(f"{ratio:.1f}×", f"fewer {label}", best.name))
    return cards


def _verdicts(study: Study, judge: Judge) -> Table | Notes:
    """Judge the seeds that are complete: an unfinished seed would be compared with nothing."""
    unfinished = {run.seed for run in study.runs if run.done < len(run.steps)}
    whole = tuple(each for each in study.measurements if each.seed not in unfinished)
    try:
        findings = judge(whole)
    except (KeyError, BoxwoodError) as error:
        text = "The verdicts need networks that are not measured here."
        return Notes("Verdicts", [Note("mild", text, (str(error),))])
    words = {True: "holds", False: "fails", None: "undecided"}
    held, failed = (sum(f.held is word for f in findings) for word in (True, False))
    return Table(
        "verdicts",
        f"Verdicts: {held} of {len(findings)} hold, {failed} fail",
        (
            Column("status", "verdict"),
            Column("claim", "claim"),
            Column("evidence", "evidence"),
        ),
        [{"status": words[f.held], "claim": f.claim, "evidence": f.said} for f in findings],
    )
