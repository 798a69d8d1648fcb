"""The papers' claims and the verdicts of our results: records, and a table of all of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from boxwood._internal.report.study import Finding
from boxwood._internal.report.verdicts import SEEDS, corrected
from boxwood.errors import InvalidInput

BEGIN, END = "<!-- begin: python experiments/claims.py --markdown -->", "<!-- end -->"


class NotRun(Exception):  # noqa: N818 - no error, but an answer
    """A result that a claim needs does not exist yet; the message says which."""


Report = Mapping[str, Any]
"""A results file, as `json.load` reads it."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What was wrong with the protocol of some results: they decide nothing until they are made again.

    Args:
        reason: in words.
        commits: of the results that it affected; later ones are free of it.
    """

    reason: str
    commits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of one paper, and how our results compare with it.

    Args:
        paper: whose it is.
        statement: what is claimed, as we test it.
        figure: the paper's own figures.
        scaled: how our experiment differs.
        file: name of the results file, without its ending.
        command: makes that file; empty where no study does.
        judge: from the file to a finding; raises `NotRun` where something is missing.
        fault: what is wrong with the results that there are, if anything did.
    """

    paper: str
    statement: str
    figure: str
    scaled: str
    file: str
    command: str
    judge: Callable[[Report], Finding]
    fault: Fault | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known about a claim.

    Args:
        claim: the claim.
        word: ``"holds"``, ``"fails"`` or ``"undecided"``.
        ours: our figures with their interval, and what validation says; why it is undecided.
        seeds: how many seeds it rests on; None where chance plays no part, 0 where nothing was run.
        needed: seeds that would likely decide it; None where it is decided or seeds are not missing.
    """

    claim: Claim
    word: str
    ours: str
    seeds: int | None
    needed: int | None


def judge_all(claims: Sequence[Claim], reports: Mapping[str, Report]) -> tuple[Verdict, ...]:
    """Hold every claim against its results; those of one file are corrected for their number.

    Args:
        claims: in the order of the table.
        reports: results files by name; one that is missing leaves its claims undecided.

    Returns:
        One verdict for each claim, in their order.
    """
    found = [_finding(claim, reports.get(claim.file)) for claim in claims]
    valid = [index for index, claim in enumerate(claims) if not _spoilt(claim, reports)]
    for file in dict.fromkeys(claims[index].file for index in valid):
        family = [index for index in valid if claims[index].file == file]
        for index, each in zip(family, corrected([found[i] for i in family]), strict=True):
            found[index] = each
    return tuple(
        _verdict(claim, finding, claim.fault if _spoilt(claim, reports) else None)
        for claim, finding in zip(claims, found, strict=True)
    )


def table(verdicts: Sequence[Verdict]) -> str:
    """Write the verdicts as Markdown: a sum first, then a row for each claim."""
    words = ("holds", "fails", "undecided")
    counts = ", ".join(f"{sum(v.word == word for v in verdicts)} {word}" for word in words)
    lines = [
        f"{len(verdicts)} claims: {counts}.",
        "",
        "| # | work | claim | the paper | ours | verdict | seeds | scaled | command |",
        "|--:|---|---|---|---|---|--:|---|---|",
    ]
    for number, each in enumerate(verdicts, 1):
        claim = each.claim
        cells = (
            str(number), claim.paper, claim.statement, claim.figure, each.ours, f"**{each.word}**",
            _seeds(each), claim.scaled, f"`{claim.command}`" if claim.command else "—",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def refreshed(page: str, made: str) -> str:
    r"""Put a table between the two markers of a page.

    Raises:
        InvalidInput: the page has not one of each, in this order.

    Example:
        >>> page = f"Title\n{BEGIN}\nold\n{END}\nrest\n"
        >>> refreshed(page, "new\n") == page.replace("old", "new")
        True
    """
    before, begin, rest = page.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after:
        raise InvalidInput(
            f"Expected a page with one line {BEGIN!r} and one {END!r} after it, got another; put them "
            f"where the table belongs."
        )
    return before + begin + made + end + after


def records(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """Write the verdicts as plain JSON."""
    return [
        {
            "paper": each.claim.paper,
            "claim": each.claim.statement,
            "figure": each.claim.figure,
            "ours": each.ours,
            "verdict": each.word,
            "seeds": each.seeds,
            "seeds_needed": each.needed,
            "scaled": each.claim.scaled,
            "file": each.claim.file,
            "command": each.claim.command,
        }
        for each in verdicts
    ]


def _finding(claim: Claim, report: Report | None) -> Finding:
    try:
        if report is None:
            raise NotRun("not run yet" if claim.command else "no study of this yet")
        return claim.judge(report)
    except NotRun as missing:
        return Finding(claim.statement, None, str(missing), seeds=0, needed=SEEDS)


def _seeds(verdict: Verdict) -> str:
    if verdict.seeds is None:
        return "—"
    if verdict.word != "undecided":
        return str(verdict.seeds)
    if verdict.needed is None:
        return f"{verdict.seeds}, more would not decide"
    if verdict.needed <= verdict.seeds:
        return f"{verdict.seeds}, to be run again"
    return f"{verdict.seeds} of {verdict.needed}"


def _spoilt(claim: Claim, reports: Mapping[str, Report]) -> bool:
    report = reports.get(claim.file)
    if claim.fault is None or report is None:
        return False
    return report.get("machine", {}).get("commit") in claim.fault.commits


def _verdict(claim: Claim, found: Finding, fault: Fault | None) -> Verdict:
    if fault is not None and found.seeds != 0:
        said = f"to be run again: {fault.reason}. Before that: {found.evidence}"
        found = replace(found, held=None, evidence=said, needed=max(SEEDS, found.needed or 0))
    over = found.estimate
    if over is not None and not over.examples:
        found = replace(found, evidence=f"{found.evidence} (interval over seeds only)")
    return Verdict(
        claim=claim,
        word=found.word,
        ours=found.evidence,
        seeds=found.seeds,
        needed=found.needed if found.held is None else None,
    )
