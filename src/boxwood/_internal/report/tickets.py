"""Whether a lottery ticket was found: when training would have stopped, and one verdict per sparsity."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from boxwood._internal.report.contrasts import contrast
from boxwood._internal.report.estimates import Estimate, interval, over_seeds
from boxwood._internal.report.page.facts import lowest_loss
from boxwood._internal.report.significance import above, seeds_needed
from boxwood._internal.report.statistics import (
    Interval,
    PairedComparison,
    paired_difference,
    ratio,
)
from boxwood._internal.report.verdicts import ALPHA, SEEDS, enough
from boxwood.errors import InvalidInput

TOLERANCE = 0.3
"""Points of accuracy by which a ticket may be below the dense network."""

STABLE, MATCHING = 0.02, 0.002
"""Largest instability of a stable network, and largest loss of accuracy of a matching one."""

_MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """Where the validation loss was lowest.

    Args:
        step: of the row; the first of equal ones.
        censored: whether that is in the last 5 % of the training, so that the true minimum may
            come later: ``step`` is then a lower bound.
        validation: accuracy there, a fraction.
        test: test accuracy there, a fraction, if it was measured.
        answers: which test examples were answered correctly there, if that was kept.
    """

    step: int
    censored: bool
    validation: float
    test: float | None
    answers: Mapping[str, Any] | None = field(default=None, repr=False)


def early_stop(
    history: Sequence[Mapping[str, float]],
    *,
    margin: float = 0.05,
    answers: Mapping[str, Any] | None = None,
) -> EarlyStop:
    """Find the step of minimum validation loss, after the fact.

    Args:
        history: rows of a training, with ``step``, ``validation_loss`` and ``validation``.
        margin: the last fraction of the training, in which a minimum counts as censored.
        answers: `Measurement.stopped` of the network.

    Raises:
        InvalidInput: there are no rows, or they hold no validation loss.

    Example:
        >>> rows = [{"step": 100 * i, "validation_loss": loss, "validation": 0.9, "test": 0.8}
        ...         for i, loss in enumerate((0.5, 0.3, 0.4, 0.6), 1)]
        >>> early_stop(rows)
        EarlyStop(step=200, censored=False, validation=0.9, test=0.8)

    Source: Frankle and Carbin (2019), section 2.
    """
    best = lowest_loss(history)
    if best is None:
        raise InvalidInput(
            "Expected a history with validation losses, got none; measure a network that a Train "
            "phase of this version trained."
        )
    late = best["step"] > (1 - margin) * history[-1]["step"]
    return EarlyStop(
        step=int(best["step"]),
        censored=late,
        validation=best["validation"],
        test=best.get("test"),
        answers=answers,
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the seeds say about one sparsity.

    Args:
        word: ``"ticket"``, ``"no ticket"`` or ``"undecided"``.
        against_dense: accuracy at early stop, ticket minus dense, in points.
        against_reinit: accuracy at early stop, ticket minus reinitialised, in points.
        speed: steps to early stop, reinitialised over ticket.
        speed_dense: steps to early stop, dense over ticket.
        more_seeds: how many more would likely decide; None if not even a thousand.
        censored: early stops in the last 5 %: of the ticket, of the reinitialised network.
        p: two-sided p-value of the word: the largest of (i) to (iii) for a ticket, three times the
            smallest for none.
    """

    word: str
    against_dense: PairedComparison
    against_reinit: PairedComparison
    speed: Interval
    speed_dense: Interval
    more_seeds: int | None
    censored: tuple[int, int]
    p: float

    def __str__(self) -> str:
        """Say it in a line."""
        dense, reinit = self.against_dense.difference, self.against_reinit
        text = (
            f"{dense:.2f} points against dense; {reinit.difference:.2f} against reinit, "
            f"{reinit.wins} of {len(reinit.differences)} seeds better (sign test p = "
            f"{reinit.sign_p:.3f}); reinit takes {self.speed:.2f} times the steps"
        )
        if any(self.censored):
            text += f"; {self.censored[0]} + {self.censored[1]} minima of ticket + reinit censored"
        if self.word == "undecided":
            more = f"over {_MOST_SEEDS}" if self.more_seeds is None else f"{self.more_seeds}"
            text += f"; {more} more seeds would likely decide"
        return text


def verdict(
    dense: Sequence[EarlyStop],
    ticket: Sequence[EarlyStop],
    reinit: Sequence[Sequence[EarlyStop]],
    *,
    tolerance: float = TOLERANCE,
) -> Verdict:
    """Decide by five seeds or more whether a sparse network is a winning ticket.

    It is one if all of these hold at early stop, with 95 % intervals over seeds, and over test examples
    where answers were kept: (i) ticket - dense is above
    ``-tolerance`` points; (ii) ticket - reinit is above zero, and so says the sign test; (iii) the
    reinitialised network needs more steps. It is none if an interval of (i) to (iii) lies on the
    other side of its limit. Anything else is undecided.

    Args:
        dense: the early stop of each seed.
        ticket: the same seeds, in the same order.
        reinit: those of each seed's reinitialised networks; their mean counts for the seed.
        tolerance: in points.

    Raises:
        InvalidInput: the lengths differ, or a test accuracy at early stop is missing.

    Example:
        >>> def stops(step, *accuracies):
        ...     return [EarlyStop(step=step + 9 * i, censored=False, validation=0.9, test=a)
        ...             for i, a in enumerate(accuracies)]
        >>> dense = stops(4600, 0.878, 0.879, 0.877, 0.878, 0.88)
        >>> ticket = stops(2200, 0.886, 0.888, 0.887, 0.889, 0.887)
        >>> reinit = stops(4900, 0.882, 0.881, 0.883, 0.882, 0.88)
        >>> verdict(dense, ticket, [[each] for each in reinit]).word
        'ticket'

    Source: the rule is Boxwood's; what it compares is Frankle and Carbin's (2019), section 2.
    """
    if not len(dense) == len(ticket) == len(reinit) or not all(reinit):
        raise InvalidInput(
            f"Expected dense, ticket and reinitialised networks of the same seeds, got "
            f"{len(dense)}, {len(ticket)} and {len(reinit)} seeds; finish the runs first."
        )
    other = [fmean(_test(each) for each in group) for group in reinit]
    slow = [math.exp(fmean(math.log(each.step) for each in group)) for group in reinit]
    steps = [float(each.step) for each in ticket]
    # Of equal steps exactly zero, which their ratio need not be.
    slower = [
        fmean(math.log(each.step) for each in group) - math.log(one.step)
        for group, one in zip(reinit, ticket, strict=True)
    ]
    against_dense = paired_difference([_test(e) for e in ticket], [_test(e) for e in dense])
    against_reinit = paired_difference([_test(e) for e in ticket], other)
    limits = (
        (_points(ticket, [[each] for each in dense], against_dense.differences), -tolerance),
        (_points(ticket, reinit, against_reinit.differences), 0.0),
        (over_seeds(slower), 0.0),
    )
    # A ticket whose minimum is censored is slower than it seems; a censored reinit is slower still.
    late = sum(each.censored for each in ticket)
    seeds = len(ticket)
    word = "undecided"
    p_values = [above(estimate, limit) for estimate, limit in limits]
    if enough(seeds):
        if any(p > 1 - ALPHA / 2 for p in p_values):
            word = "no ticket"
        elif max(p_values) < ALPHA / 2 and against_reinit.sign_p < ALPHA and not late:
            word = "ticket"
    needed = [seeds_needed(estimate, limit, least=SEEDS) for estimate, limit in limits]
    needed.append(_seeds_of_sign_test(against_reinit))
    more = None if None in needed else max(SEEDS, *(n for n in needed if n)) - seeds
    return Verdict(
        word=word,
        against_dense=replace(against_dense, difference=interval(limits[0][0])),
        against_reinit=replace(against_reinit, difference=interval(limits[1][0])),
        speed=ratio(slow, steps),
        speed_dense=ratio([float(each.step) for each in dense], steps),
        more_seeds=0 if word != "undecided" else None if more is None else max(1, more),
        censored=(late, sum(each.censored for group in reinit for each in group)),
        p=min(1.0, 6 * (1 - max(p_values)) if word == "no ticket" else 2 * max(p_values)),
    )


@dataclass(frozen=True, kw_only=True)
class Stability:
    """What the line between two copies of a network says.

    Args:
        instability: ``sup_α error - (error(W₁) + error(W₂)) / 2``, a fraction.
        stable: whether that is below `STABLE`.
        matching: whether the copies' mean error exceeds the dense network's by `MATCHING` at most.
    """

    instability: float
    stable: bool
    matching: bool


def stability(line: Sequence[Mapping[str, Any]], *, dense: float, part: str = "test") -> Stability:
    """Judge a network by the error on the line between two copies, trained in different orders.

    Args:
        line: ``facts["line"]`` of an `Interpolate` phase.
        dense: accuracy of the dense network on the same examples, a fraction.
        part: ``"test"``, as in the paper, or ``"validation"``, to decide by.

    Example:
        >>> def at(alpha, right): return {"alpha": alpha, "test": {"correct": right, "total": 1000}}
        >>> stability([at(0, 900), at(0.5, 890), at(1, 902)], dense=0.902)
        Stability(instability=0.011, stable=True, matching=True)

    Source: Frankle, Dziugaite, Roy and Carbin (2020), section 2.
    """
    errors = [1 - row[part]["correct"] / row[part]["total"] for row in line]
    ends = (errors[0] + errors[-1]) / 2
    barrier = round(max(errors) - ends, 12)  # counts of examples, without what floats add
    return Stability(
        instability=barrier,
        stable=barrier < STABLE,
        matching=round(ends - (1 - dense), 12) <= MATCHING,
    )


def _test(stop: EarlyStop) -> float:
    if stop.test is None:
        raise InvalidInput(
            f"Expected the test accuracy at early stop (step {stop.step}), got none; train with "
            f"Training(watch_every=100)."
        )
    return 100 * stop.test


def _points(
    ticket: Sequence[EarlyStop], others: Sequence[Sequence[EarlyStop]], by_seed: Sequence[float]
) -> Estimate:
    """Points of the ticket above the mean of the others: over seeds and, if answers were kept, examples."""
    count = len(others[0])
    if any(len(each) != count for each in others):
        return over_seeds(by_seed)  # means of unlike numbers of networks
    terms = [(1.0, _facts(ticket))]
    terms += [(-1.0 / count, _facts([each[k] for each in others])) for k in range(count)]
    return contrast(terms) or over_seeds(by_seed)


def _facts(stops: Sequence[EarlyStop]) -> dict[int, dict[str, Any]]:
    return {
        seed: {"test": _test(stop) / 100}
        | ({} if stop.answers is None else {"test_answers": stop.answers})
        for seed, stop in enumerate(stops)
    }


def _seeds_of_sign_test(found: PairedComparison) -> int | None:
    """Seeds at which the sign test would decide, if the share of wins stays."""
    from scipy.stats import binom

    decided = found.wins + found.losses
    if not decided:
        return None
    share = max(found.wins, found.losses) / decided
    enough = (n for n in range(2, _MOST_SEEDS) if binom.sf(round(share * n) - 1, n, 0.5) < 0.05)
    return next(enough, None)
