"""The claims of Frankle and Carbin (2019): lottery tickets.

The only figures written here are the paper's own.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import log
from statistics import fmean

from result_files import DATA, at_stop, better, controls, stops, ticket

from boxwood._internal.report.claims import Claim, NotRun, Report
from boxwood._internal.report.estimates import over_seeds
from boxwood._internal.report.tickets import stability
from boxwood._internal.report.verdicts import SMALLEST_GAIN, compared, exceeds
from boxwood.runs import Finding

Judge = Callable[[Report], Finding]


def claims() -> list[Claim]:
    """All of them, in the order of the table."""
    paper = "Frankle and Carbin 2019"
    run = "python experiments/run_lottery_ticket.py"

    def claim(statement: str, figure: str, judge: Judge, of: str = "mnist") -> Claim:
        return Claim(
            paper=paper,
            statement=f"{statement}, LeNet-300-100, {DATA[of]}",
            figure=figure,
            scaled="12,000 steps instead of 50,000"
            if of == "mnist"
            else "Fashion-MNIST, 12,000 steps",
            file=f"lottery_lenet_300_100_{of}",
            command=f"{run} lenet_300_100 --data {of.replace('_', '-')}"
            + (" --set steps=12000 --seeds 9" if of == "mnist" else " --seeds 6"),
            judge=judge,
        )

    def conv(statement: str, figure: str, judge: Judge) -> Claim:
        return Claim(
            paper=paper,
            statement=f"{statement}, Conv-2",
            figure=figure,
            scaled="Fashion-MNIST of 14 × 14, a quarter of the width, 15,000 images, 6,000 steps",
            file="lottery_conv_2_15000",
            command=f"{run} conv_2_scaled --set images=15000 --first-seed 10 --name conv_2_15000",
            judge=judge,
        )

    def ablation(statement: str, figure: str, judge: Judge) -> Claim:
        return Claim(
            paper=paper,
            statement=f"{statement}, LeNet-300-100, MNIST",
            figure=figure,
            scaled="12,000 steps instead of 50,000",
            file="lottery_ablations_mnist",
            command=f"{run} ablations --data mnist",
            judge=judge,
        )

    at_21 = "2.51 times as fast as reinitialised and 0.5 points better, at 21.1 %"
    found = []
    for of in ("mnist", "fashion_mnist"):
        found += [
            claim("a winning ticket at 21 % of the weights", at_21, partial(_ticket, level=7), of),
            claim(
                "a winning ticket at 13.5 % of the weights",
                "accuracy peaks there, 0.3 points above dense",
                partial(_ticket, level=9),
                of,
            ),
            claim("tickets at 13.5 % are above dense at early stop", "+0.3 points", partial(_above_dense, level=9), of),
            claim(
                "the same mask needs more steps if reinitialised, at 21 %",
                "2.51 times as many",
                partial(_slower, level=7),
                of,
            ),
            claim(
                "tickets are better than random masks with the same layer sparsities, at 21 %",
                "random masks are worse than reinitialised ones",
                partial(_above_control, level=7, control="random"),
                of,
            ),
            claim(
                "no ticket where the learning rate is too large, at 21 %",
                "VGG-19 at a rate of 0.1: none",
                _no_ticket_at_large_rate,
                of,
            ),
        ]  # fmt: skip
    return [
        *found,
        claim(
            "at the last step tickets of 13.5 % are above dense",
            "up to 0.35 points",
            lambda r: better(r, "", "ticket level-9", "ticket level-0"),
        ),
        conv("a winning ticket at 22 % of the weights", "3.5 times as fast (at 8.8 %)", partial(_ticket, level=7)),
        conv("a winning ticket at 15 % of the weights", "3.4 points better (at 4.6 %)", partial(_ticket, level=9)),
        ablation("continuing to train instead of resetting is worse, at 21 %", "worse than resetting", partial(_above, ours="ticket level-7", theirs="continued level-7")),
        ablation("a mask from the initial weights is worse than a reinitialised ticket, at 21 %", "worse than reinitialising", _masked_at_start),
        ablation("one-shot tickets exist at 21 %", "faster from 67.5 to 17.6 %", partial(_ticket, level=7, prefix="one-shot: ")),
        ablation("noise of half a deviation on the initial weights costs less than 0.3 points, at 21 %", "0.5 σ nearly harmless", partial(_above, ours="noise 0.5 at 7 level-7", theirs="ticket level-7", limit=-0.3)),
        ablation("LeNet is stable from its initial weights on", "instability below 2 % at step 0", _stable),
    ]  # fmt: skip


def _ticket(report: Report, *, level: int, prefix: str = "") -> Finding:
    found = ticket(report, level, prefix=prefix)
    seeds = len(found.against_dense.differences)
    return Finding(
        "",
        {"ticket": True, "no ticket": False}.get(found.word),
        str(found),
        p=found.p,
        seeds=seeds,
        needed=None if found.more_seeds is None else seeds + found.more_seeds,
    )


def _above_dense(report: Report, *, level: int) -> Finding:
    ours, dense = (at_stop(report, f"ticket level-{each}") for each in (level, 0))
    return compared("", [(1.0, ours), (-1.0, dense)], smallest_gain=SMALLEST_GAIN)


def _above(report: Report, *, ours: str, theirs: str, limit: float = 0.0) -> Finding:
    terms = [(1.0, at_stop(report, ours)), (-1.0, at_stop(report, theirs))]
    return compared("", terms, limit, smallest_gain=0.0 if limit else SMALLEST_GAIN)


def _masked_at_start(report: Report) -> Finding:
    names = controls(report, 7, "reinit")
    others = [(1.0 / len(names), at_stop(report, name)) for name in names]
    terms = [*others, (-1.0, at_stop(report, "masked at start at 7 level-7"))]
    return compared("", terms, smallest_gain=SMALLEST_GAIN)


def _stable(report: Report) -> Finding:
    if "lines" not in report:
        raise NotRun("no line between two copies yet")
    found = [100 * stability(line, dense=0.0).instability for line in report["lines"].values()]
    points = f"{min(found):.2f} to {max(found):.2f} points of instability"
    below = exceeds("", over_seeds([2.0 - each for each in found]), unit="points below 2")
    return replace(below, evidence=f"{points}; {below.evidence}")


def _above_control(report: Report, *, level: int, control: str) -> Finding:
    names = controls(report, level, control)
    others = [(-1.0 / len(names), at_stop(report, name)) for name in names]
    terms = [(1.0, at_stop(report, f"ticket level-{level}")), *others]
    return compared("", terms, smallest_gain=SMALLEST_GAIN)


def _slower(report: Report, *, level: int) -> Finding:
    slow = [stops(report, name) for name in controls(report, level, "reinit")]
    fast = stops(report, f"ticket level-{level}")
    ratios = [
        fmean(log(each[seed].step / fast[seed].step) for each in slow)
        for seed in sorted(set(fast).intersection(*slow))
    ]
    found = exceeds("", over_seeds(ratios), unit="(logarithm of the ratio)")
    times = f"{ticket(report, level).speed:.2f} times as many"
    return replace(found, evidence=f"{times}; {found.evidence}")


def _no_ticket_at_large_rate(report: Report) -> Finding:
    found = _ticket(report, level=7, prefix="large rate: ")
    return replace(found, held=None if found.held is None else not found.held)
