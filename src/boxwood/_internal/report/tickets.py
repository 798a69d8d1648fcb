"""Whether a lottery ticket was found: when training would have stopped, and one word per sparsity."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from boxwood._internal.report.statistics import (
    Interval,
    PairedComparison,
    bootstrap_ratio,
    paired_difference,
)
from boxwood.errors import InvalidInput

SEEDS = 5
"""Fewer seeds decide nothing: not even winning on all of them is significant."""

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
    """

    step: int
    censored: bool
    validation: float
    test: float | None


def early_stop(history: Sequence[Mapping[str, float]], *, margin: float = 0.05) -> EarlyStop:
    """Find the step of minimum validation loss, after the fact.

    Args:
        history: rows of a training, with ``step``, ``validation_loss`` and ``validation``.
        margin: the last fraction of the training, in which a minimum counts as censored.

    Raises:
        InvalidInput: there are no rows, or they hold no validation loss.

    Example:
        >>> rows = [{"step": 100 * i, "validation_loss": loss, "validation": 0.9, "test": 0.8}
        ...         for i, loss in enumerate((0.5, 0.3, 0.4, 0.6), 1)]
        >>> early_stop(rows)
        EarlyStop(step=200, censored=False, validation=0.9, test=0.8)

    Source: Frankle and Carbin (2019), section 2.
    """
    if not history or "validation_loss" not in history[0]:
        raise InvalidInput(
            "Expected a history with validation losses, got none; measure a network that a Train "
            "phase of this version trained."
        )
    best = min(history, key=lambda row: row["validation_loss"])
    late = best["step"] > (1 - margin) * history[-1]["step"]
    return EarlyStop(
        step=int(best["step"]),
        censored=late,
        validation=best["validation"],
        test=best.get("test"),
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
    """

    word: str
    against_dense: PairedComparison
    against_reinit: PairedComparison
    speed: Interval
    speed_dense: Interval
    more_seeds: int | None
    censored: tuple[int, int]

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

    It is one if all of these hold at early stop, with 95 % intervals: (i) ticket - dense is above
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
    against_dense = paired_difference([_test(e) for e in ticket], [_test(e) for e in dense])
    against_reinit = paired_difference([_test(e) for e in ticket], other)
    speed = bootstrap_ratio(slow, steps)
    logs = [math.log(a / b) for a, b in zip(slow, steps, strict=True)]
    limits = (
        (against_dense.difference, against_dense.differences, -tolerance),
        (against_reinit.difference, against_reinit.differences, 0.0),
        (_logged(speed), logs, 0.0),
    )
    # A ticket whose minimum is censored is slower than it seems; a censored reinit is slower still.
    late = sum(each.censored for each in ticket)
    seeds = len(ticket)
    word = "undecided"
    if seeds >= SEEDS:
        if any(found.high is not None and found.high < limit for found, _, limit in limits):
            word = "no ticket"
        elif (
            all(found.low is not None and found.low > limit for found, _, limit in limits)
            and against_reinit.sign_p < 0.05
            and not late
        ):
            word = "ticket"
    needed = [_seeds_that_decide(values, limit) for _, values, limit in limits]
    needed.append(_seeds_of_sign_test(against_reinit))
    more = None if None in needed else max(SEEDS, *(n for n in needed if n)) - seeds
    return Verdict(
        word=word,
        against_dense=against_dense,
        against_reinit=against_reinit,
        speed=speed,
        speed_dense=bootstrap_ratio([float(each.step) for each in dense], steps),
        more_seeds=0 if word != "undecided" else None if more is None else max(1, more),
        censored=(late, sum(each.censored for group in reinit for each in group)),
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


def _logged(ratio: Interval) -> Interval:
    low, high = (None if end is None else math.log(end) for end in (ratio.low, ratio.high))
    return Interval(
        estimate=math.log(ratio.estimate), low=low, high=high, n=ratio.n, method=ratio.method
    )


def _seeds_that_decide(values: Sequence[float], limit: float) -> int | None:
    """Seeds at which the t interval would leave the limit out, if mean and spread stay."""
    from scipy.stats import t

    if len(values) < 2:
        return SEEDS
    distance, spread = abs(fmean(values) - limit), stdev(values)
    reach = (n for n in range(2, _MOST_SEEDS) if t.ppf(0.975, n - 1) * spread < distance * n**0.5)
    return next(reach, None)


def _seeds_of_sign_test(found: PairedComparison) -> int | None:
    """Seeds at which the sign test would decide, if the share of wins stays."""
    from scipy.stats import binom

    decided = found.wins + found.losses
    if not decided:
        return None
    share = max(found.wins, found.losses) / decided
    enough = (n for n in range(2, _MOST_SEEDS) if binom.sf(round(share * n) - 1, n, 0.5) < 0.05)
    return next(enough, None)
