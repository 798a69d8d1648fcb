"""The claims of Zhu and Gupta (2017): gradual pruning.

The only figures written here are the paper's own. Those marked "recalled" are from memory, not
checked against the paper.
"""

from collections.abc import Callable
from functools import partial
from math import log

from result_files import better, lower_loss

from boxwood._internal.report.claims import Claim, Fault, NotRun, Report
from boxwood._internal.report.estimates import over_seeds
from boxwood._internal.report.verdicts import SMALLEST_GAIN_IN_LOSS, exceeds
from boxwood.runs import Finding

Judge = Callable[[Report], Finding]


ONE_EPOCH = Fault(
    reason="one epoch, weights without surplus, early and late windows not where the rate is high and low",
    commits=("d849742",),
)
NO_ROOM = Fault(
    reason="300 steps on data on which wider networks are hardly better", commits=("ea1b320",)
)


def claims() -> list[Claim]:
    """All of them, in the order of the table."""
    paper = "Zhu and Gupta 2017"

    def language(statement: str, figure: str, judge: Judge, fault: Fault | None = None) -> Claim:
        return Claim(
            paper=paper,
            statement=f"{statement}, LSTM language model",
            figure=figure,
            scaled="16, 32 and 64 units, 1,000 words of the Brown corpus",
            file="gradual_language_model",
            command="python experiments/run_gradual.py language_model --seeds 5",
            judge=judge,
            fault=fault,
        )

    def sounds(statement: str, figure: str, judge: Judge) -> Claim:
        return Claim(
            paper=paper,
            statement=f"{statement}, letters to phonemes (instead of GNMT)",
            figure=figure,
            scaled="40, 64 and 128 units, CMUdict, 1,600 steps",
            file="gradual_g2p",
            command="python experiments/run_gradual_g2p.py --seeds 5",
            judge=judge,
        )

    def mobile(statement: str, figure: str, judge: Judge) -> Claim:
        return Claim(
            paper=paper,
            statement=f"{statement}, MobileNet-v1",
            figure=figure,
            scaled="three eighths of the width at most, 127 accented letters in new fonts, 2,000 steps",
            file="gradual_mobilenet",
            command="python experiments/run_gradual.py mobilenet --seeds 5",
            judge=judge,
            fault=NO_ROOM,
        )

    equal = "large and sparse beats small and dense"
    lstm = "large at 90 % 80.24, medium dense 83.37 (perplexity, recalled)"
    gnmt = "80 % 26.86, dense 768 of three times the non-zeros 26.63 (BLEU, recalled in part)"
    width = "sparse 61.8, dense 50.6 % at 0.46 million (recalled)"
    return [
        language(f"{equal} at the non-zeros of the smallest", lstm, partial(_loss_of, ours="as {small}", theirs="dense {small}")),
        language(f"{equal} at the non-zeros of the middle one", lstm, partial(_loss_of, ours="as {middle}", theirs="dense {middle}"), ONE_EPOCH),
        language(f"{equal} in the bytes of the smallest, bit mask included", lstm, partial(_loss_of, ours="bytes of {small}", theirs="dense {small}")),
        language(f"{equal} in the bytes of the middle one, bit mask included", lstm, partial(_loss_of, ours="bytes of {middle}", theirs="dense {middle}"), ONE_EPOCH),
        language("at 80 % within 3 % of the dense perplexity", "77.52 against 78.45 (recalled)", partial(_loss_of, ours="80 %", theirs="dense {large}", limit=-log(1.03)), ONE_EPOCH),
        language("the cubic schedule beats a linear one", "not measured in the paper", partial(_loss_of, ours="as {small}", theirs="as {small} linear"), ONE_EPOCH),
        language("the cubic schedule beats pruning at once at its end", "gradual is better", partial(_loss_of, ours="as {small}", theirs="as {small} one-shot"), ONE_EPOCH),
        language("pruning while the learning rate is high beats pruning after it has fallen", "no chance to recover at a tiny rate", partial(_loss_of, ours="as {small}", theirs="as {small} late"), ONE_EPOCH),
        sounds(f"{equal} at the non-zeros of 64 units", gnmt, partial(_sounds, ours="sparse, non-zeros of 64", theirs="dense 64")),
        sounds(f"{equal} at the non-zeros of 40 units", gnmt, partial(_sounds, ours="sparse, non-zeros of 40", theirs="dense 40")),
        sounds(f"{equal} in the bytes of 64 units", gnmt, partial(_sounds, ours="sparse 80 %", theirs="dense 64")),
        sounds(f"{equal} in the bytes of 40 units", gnmt, partial(_sounds, ours="sparse, bytes of 40", theirs="dense 40")),
        sounds("at 80 % within 3 % of the dense perplexity", "26.86 against 26.77 BLEU", partial(_sounds, ours="sparse 80 %", theirs="dense 128", limit=-log(1.03))),
        sounds("layers pruned one after another are better than all together", "best of three schemes on average", partial(_sounds, ours="sparse, non-zeros of 64", theirs="all together, non-zeros of 64")),
        mobile(f"{equal} at the non-zeros of width 0.1875", width, lambda r: better(r, "", "as 0.1875", "dense 0.1875")),
        mobile(f"{equal} at the non-zeros of width 0.25", width, lambda r: better(r, "", "as 0.25", "dense 0.25")),
    ]  # fmt: skip


def _loss_of(report: Report, *, ours: str, theirs: str, limit: float = 0.0) -> Finding:
    dense = {row["name"] for row in report["runs"] if row["name"].startswith("dense ")}
    sizes = sorted(int(name.removeprefix("dense ")) for name in dense)
    named = dict(zip(("small", "middle", "large"), sizes, strict=True))
    ours, theirs = ours.format(**named), theirs.format(**named)
    return lower_loss(report, "", ours, theirs, limit, "nats a word")


def _sounds(report: Report, *, ours: str, theirs: str, limit: float = 0.0) -> Finding:
    """By the runs where they hold the loss, by the table of networks in older files."""
    unit = "nats a phoneme"
    if any("test" in row for row in report["runs"]):
        return lower_loss(report, "", ours, theirs, limit, unit)
    tables = {row["name"]: row["test loss"] for row in report["networks"]}
    if ours not in tables or theirs not in tables:
        raise NotRun(f"no network {ours!r} yet")
    a, b = tables[ours], tables[theirs]
    found = over_seeds([b[seed] - a[seed] for seed in sorted(a.keys() & b.keys())])
    least = 0.0 if limit else SMALLEST_GAIN_IN_LOSS
    return exceeds("", found, limit, smallest_gain=least, unit=unit, digits=4)
