"""Turn estimates into verdicts: holds, fails or undecided. The claims of every study are judged here.

Fewer than five seeds decide nothing. Otherwise the 95 % interval decides, over seeds and examples
where answers were kept, corrected for the number of claims of the study by `corrected`.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import log

from boxwood._internal.report.contrasts import BySeed, contrast
from boxwood._internal.report.estimates import Estimate, interval
from boxwood._internal.report.significance import above, holm, seeds_needed, within
from boxwood._internal.report.statistics import Interval
from boxwood._internal.report.study import Finding

SEEDS = 5
"""Fewer seeds decide nothing: not even winning on all of them is significant."""

ALPHA = 0.05
"""Chance of a wrong verdict, two-sided: half of it on each side."""

SMALLEST_GAIN = 0.3
"""Points of accuracy by which a better network must be better: as near as that counts as equally good."""

SMALLEST_GAIN_IN_LOSS = log(1.03)
"""The same in nats: 3 % of perplexity."""


def enough(seeds: int) -> bool:
    """Say whether that number of seeds may decide anything.

    Example:
        >>> enough(4), enough(5)
        (False, True)
    """
    return seeds >= SEEDS


def exceeds(
    claim: str,
    estimate: Estimate | None,
    limit: float = 0.0,
    *,
    smallest_gain: float = 0.0,
    unit: str = "points",
    digits: int = 2,
) -> Finding:
    """Decide whether a mean is above a limit.

    It holds if the 95 % interval lies above the limit, and fails if it lies below. A claim that one
    network is *better* also fails if the interval lies below the smallest gain that counts: more
    seeds would only confirm that both are about as good.

    Args:
        claim: in words.
        estimate: from `contrast` or `over_seeds`; None if nothing was run.
        limit: -0.3 asks whether ours is at most 0.3 points worse.
        smallest_gain: above the limit; declared before the study is run. 0 if any gain counts.
        unit: of the estimate.
        digits: of its figures.

    Example:
        >>> from boxwood.statistics import over_seeds
        >>> found = exceeds("iterative > one-step", over_seeds([0.5, 0.4, 0.6, 0.5, 0.7]))
        >>> found.word, found.evidence
        ('holds', '0.54 [0.40, 0.68] points over 5 seeds, 5 seeds above 0')
        >>> level = over_seeds([0.05, -0.02, 0.03, -0.04, 0.02])
        >>> exceeds("a > b", level).word, exceeds("a > b", level, smallest_gain=0.3).word
        ('undecided', 'fails')
    """
    if estimate is None:
        return _not_run(claim)
    # What is clearly above the limit holds, however small it is.
    p, too_small = above(estimate, limit), 1 - above(estimate, limit + smallest_gain)
    sides = (p, 1.0) if smallest_gain and 2 * p <= ALPHA else (p, too_small)
    farther = max(limit, limit + smallest_gain, key=lambda each: abs(estimate.value - each))
    found = _decided(claim, estimate, sides, farther, unit, digits, counted=limit)
    if found.held is False and smallest_gain and 1 - p > ALPHA / 2:
        said = f"{found.evidence}; less than the {smallest_gain:g} {unit} that would count"
        found = replace(found, evidence=said)
    return found


def compared(
    claim: str,
    terms: Sequence[tuple[float, BySeed]],
    limit: float = 0.0,
    *,
    smallest_gain: float = 0.0,
    what: str = "right",
    scale: float = 100.0,
    unit: str = "points",
    digits: int = 2,
) -> Finding:
    """Decide on test whether a sum of networks is above a limit, and say what validation says.

    Args:
        claim: in words.
        terms: as for `contrast`: ``[(1, a), (-1, b)]`` asks whether a is better than b.
        limit: as for `exceeds`.
        smallest_gain: likewise.
        what: as for `contrast`.
        scale: likewise.
        unit: of the estimate.
        digits: of its figures.

    Example:
        >>> a, b = ({s: {"test": k / 1000 + s / 100} for s in range(5)} for k in (905, 900))
        >>> compared("a is better than b", [(1, a), (-1, b)]).word
        'holds'
    """
    test = contrast(terms, what=what, scale=scale)
    found = exceeds(claim, test, limit, smallest_gain=smallest_gain, unit=unit, digits=digits)
    if test is None or any("validation" not in facts for _, by in terms for facts in by.values()):
        return found
    validation = contrast(terms, part="validation", what=what, scale=scale)
    on_validation = disagreement(test, validation, digits) or (
        f"on validation {shown(validation, digits)}" if validation is not None else ""
    )
    return replace(found, evidence=f"{found.evidence}; {on_validation}")


def within_margin(
    claim: str, estimate: Estimate | None, margin: float, *, unit: str = "points", digits: int = 2
) -> Finding:
    """Decide whether a mean is within a margin of zero: equivalence, by two one-sided tests.

    It holds if the 95 % interval lies inside the margin, and fails if it lies outside. For "not
    worse by more than" use `exceeds` with a negative limit.

    Example:
        >>> from boxwood.statistics import over_seeds
        >>> within_margin("as good as dense", over_seeds([0.1, 0, -0.1, 0.05, -0.05]), 0.3).word
        'holds'
    """
    if estimate is None:
        return _not_run(claim)
    inside = within(estimate, margin)
    outside = min(above(estimate, margin), 1 - above(estimate, -margin))
    nearest = margin if estimate.value > 0 else -margin
    return _decided(claim, estimate, (inside, outside), nearest, unit, digits)


def in_every_seed(claim: str, values: Sequence[float], evidence: str = "") -> Finding:
    """Decide by a rule that every seed must meet: all values above zero.

    Args:
        claim: in words.
        values: one for each seed, above zero if the seed agrees.
        evidence: figures to show with the count.

    Example:
        >>> in_every_seed("lower in every seed", [0.1, 0.2, 0.1, 0.3, -0.1]).evidence
        'in 4 of 5 seeds'
    """
    count = f"in {sum(value > 0 for value in values)} of {len(values)} seeds"
    held = all(value > 0 for value in values) if enough(len(values)) else None
    said = "; ".join(part for part in (evidence, count) if part)
    return Finding(claim, held, said, seeds=len(values), needed=_least(held, len(values)))


def by_p_value(claim: str, p: float, seeds: int, evidence: str) -> Finding:
    """Decide by a one-sided test whose null is that the claim is wrong, such as one of a trend.

    It holds where p is at most 5 %, and is undecided otherwise: no evidence is not the contrary.

    Example:
        >>> by_p_value("kept filters fall", 0.01, 5, "Page's trend test").word
        'holds'
    """
    held = True if enough(seeds) and p <= ALPHA else None
    said = f"{evidence}: p = {p:.2g}, {seeds} seeds"
    return Finding(claim, held, said, p=p, seeds=seeds, needed=_least(held, seeds))


def all_hold(claim: str, findings: Sequence[Finding]) -> Finding:
    """Join claims that must hold together: it holds if all do, and fails if one does.

    No correction is due among them: the largest p-value counts.

    Example:
        >>> all_hold("both", [Finding("a", True, "x"), Finding("b", None, "y")]).word
        'undecided'
    """
    p_values = [each.p for each in findings if each.p is not None]
    held = None
    if any(each.held is False for each in findings):
        held = False
    elif all(each.held for each in findings):
        held = True
    return _joined(claim, held, findings, max(p_values, default=None))


def enough_hold(claim: str, findings: Sequence[Finding], count: int) -> Finding:
    """Ask for some of several claims: it holds if ``count`` do, and fails if too many fail.

    Example:
        >>> enough_hold("two sizes", [Finding("a", True, "x"), Finding("b", False, "y")], 2).word
        'fails'
    """
    won, lost = (sum(each.held is word for each in findings) for word in (True, False))
    held = True if won >= count else False if len(findings) - lost < count else None
    p_values = sorted(each.p for each in findings if each.p is not None and each.held is not False)
    p = p_values[count - 1] if held and len(p_values) >= count else None
    return _joined(claim, held, findings, p)


def corrected(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Apply Holm's correction to the claims of one study: a claim that chance could explain becomes undecided.

    Claims without a p-value are not changed. The number of seeds that an undecided claim would need
    is estimated again for the strictest level of the correction, ``α / number of claims``.

    Example:
        >>> weak = Finding("weak", True, "0.2 [0.01, 0.4]", p=0.04, seeds=5)
        >>> strong = Finding("strong", True, "2 [1, 3]", p=0.001, seeds=5)
        >>> [each.word for each in corrected([weak, weak, strong])]
        ['undecided', 'undecided', 'holds']
    """
    tested = [index for index, each in enumerate(findings) if each.p is not None]
    p_values = holm([findings[index].p or 0.0 for index in tested])
    found = list(findings)
    for index, p in zip(tested, p_values, strict=True):
        each = findings[index]
        if each.held is not None and p > ALPHA:
            said = f"{each.evidence}; not after correction for {len(tested)} claims (p = {p:.2g})"
            each = replace(each, held=None, evidence=said)
        if each.held is None and each.estimate is not None:
            each = replace(each, needed=_needed(each.estimate, each.limit, ALPHA / len(tested)))
        found[index] = each
    return tuple(found)


def disagreement(test: Estimate | None, validation: Estimate | None, digits: int = 2) -> str:
    """Warn where validation and test say different things; empty where they agree.

    Settings were chosen on validation, which flatters it; but a claim that holds on one part of the
    data only is no claim about either. What counts as disagreement says `disagree`.

    Example:
        >>> from boxwood.statistics import over_seeds
        >>> disagreement(over_seeds([0.1, 0.2, 0.15]), over_seeds([-0.5, -0.4, -0.6]))
        'validation says otherwise: -0.50 [-0.75, -0.25] over 3 seeds'
    """
    if test is None or validation is None or min(test.seeds, validation.seeds) < 2:
        return ""
    apart = disagree(interval(test), interval(validation))
    return f"validation says otherwise: {shown(validation, digits)}" if apart else ""


def disagree(test: Interval, validation: Interval) -> bool:
    """Say whether two intervals of one difference contradict each other.

    They do if the signs differ and one of both leaves zero out, or if they have nothing in common. An
    interval of no width, of seeds that agree exactly, says nothing about its error and contradicts none.

    Example:
        >>> from boxwood._internal.report.statistics import mean
        >>> disagree(mean([0.1, 0.2, 0.15]), mean([-0.5, -0.4, -0.6]))
        True
    """
    a, b = (test.low, test.high), (validation.low, validation.high)
    if a[0] is None or a[1] is None or b[0] is None or b[1] is None:
        return False
    if a[0] == a[1] or b[0] == b[1]:
        return False
    opposed = test.estimate * validation.estimate < 0
    clear = not (a[0] <= 0 <= a[1] and b[0] <= 0 <= b[1])
    return a[0] > b[1] or b[0] > a[1] or (opposed and clear)


def shown(estimate: Estimate, digits: int = 2, unit: str = "") -> str:
    """Write an estimate with its interval, its unit and what it rests on.

    Example:
        >>> from boxwood.statistics import over_seeds
        >>> shown(over_seeds([0.1, 0.2, 0.15]))
        '0.15 [0.03, 0.27] over 3 seeds'
    """
    figures = f"{_figures(estimate, digits)} {unit}".rstrip()
    return f"{figures} {_rests_on(estimate)}"


def _decided(
    claim: str,
    estimate: Estimate,
    sides: tuple[float, float],
    limit: float,
    unit: str,
    digits: int,
    counted: float | None = None,
) -> Finding:
    """Take the side of the smaller p-value; wins are counted above ``counted``, by default the limit."""
    p = min(1.0, 2 * min(sides))
    decides = enough(estimate.seeds) and p <= ALPHA
    held = sides[0] < sides[1] if decides else None
    needed = None if decides else _needed(estimate, limit, ALPHA)
    counted = limit if counted is None else counted
    wins = sum(each > counted for each in estimate.by_seed)
    said = f"{shown(estimate, digits, unit)}, {wins} seeds above {counted + 0.0:.3g}"
    return Finding(
        claim, held, said, p=p, seeds=estimate.seeds, needed=needed, estimate=estimate, limit=limit
    )


def _needed(estimate: Estimate, limit: float, alpha: float) -> int | None:
    needed = seeds_needed(estimate, limit, level=1 - alpha, least=SEEDS)
    return None if needed is None else max(needed, estimate.seeds + 1)


def _joined(claim: str, held: bool | None, findings: Sequence[Finding], p: float | None) -> Finding:
    seeds = [each.seeds for each in findings if each.seeds is not None]
    needed = [each.needed for each in findings if each.held is None and each.needed is not None]
    return Finding(
        claim,
        held,
        "; ".join(f"{each.claim} {each.word}" for each in findings),
        p=p,
        seeds=min(seeds, default=None),
        needed=max(needed, default=None) if held is None else None,
    )


def _figures(estimate: Estimate, digits: int) -> str:
    found = interval(estimate)
    if found.low is None or found.high is None:
        return f"{found.estimate:.{digits}f}"
    return f"{found.estimate:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _rests_on(estimate: Estimate) -> str:
    seeds = f"over {estimate.seeds} seed{'s' if estimate.seeds > 1 else ''}"
    return f"{seeds} × {estimate.examples:,} examples" if estimate.examples else seeds


def _least(held: bool | None, seeds: int) -> int | None:
    return max(SEEDS, seeds + 1) if held is None else None


def _not_run(claim: str) -> Finding:
    return Finding(
        claim, None, "no seed in common; run the study to its end", seeds=0, needed=SEEDS
    )
