"""Estimates from measured networks: one network, the difference of two, or a weighted sum.

What is compared is read off facts: those of a `Measure` phase, or the rows of a results file.

    {part}: {correct, total} or a fraction     accuracy, one number for each seed
    {part}: {loss}                             mean loss, likewise
    {part}_answers                             which examples were answered correctly (`Answers.facts`)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from boxwood._internal.report.estimates import Estimate, over_seeds, over_seeds_and_examples
from boxwood._internal.train.answers import Answers
from boxwood.errors import InvalidInput

BySeed = Mapping[int, Mapping[str, Any]]
"""Facts of one network, by seed."""


def contrast(
    terms: Sequence[tuple[float, BySeed]],
    *,
    part: str = "test",
    what: str = "right",
    scale: float = 100.0,
    shift: float = 0.0,
) -> Estimate | None:
    """Estimate a weighted sum of networks over the seeds that all of them have.

    ``scale·Σ weight·network + shift``, seed by seed, and example by example where every network says
    which examples it answers correctly. Otherwise the error of the examples is left out.

    Args:
        terms: (weight, facts by seed) of each network: ``[(1, a), (-1, b)]`` is a difference.
        part: ``"test"`` or ``"validation"``.
        what: ``"right"`` for accuracy, ``"loss"`` for the mean loss.
        scale: 100 gives points of accuracy; 1 the loss.
        shift: added to the sum, in its unit.

    Returns:
        None where no seed is common to all.

    Raises:
        InvalidInput: a network was not measured so, or two on other examples.

    Example:
        >>> def facts(*right): return {s: {"test": {"correct": k, "total": 100}} for s, k in enumerate(right)}
        >>> found = contrast([(1, facts(98, 97, 99)), (-1, facts(97, 97, 97))])
        >>> round(found.value, 3), found.seeds, found.examples
        (1.0, 3, 0)
    """
    seeds = sorted(set.intersection(*(set(network) for _, network in terms)))
    if not seeds:
        return None
    answers = [[_answers(network[seed], part, what) for seed in seeds] for _, network in terms]
    weights = [weight for weight, _ in terms]
    if any(each is None for group in answers for each in group):
        values = [
            shift
            + scale * sum(weight * value_of(network[s], part, what) for weight, network in terms)
            for s in seeds
        ]
        return over_seeds(values)
    whole = [[each for each in group if each is not None] for group in answers]
    targets = whole[0][0].targets
    if any(not np.array_equal(each.targets, targets) for group in whole for each in group):
        raise InvalidInput(
            "Expected networks that were measured on the same examples, got others; compare those of "
            "one data set."
        )
    sums = np.stack([
        sum(weight * group[s].of(what) for weight, group in zip(weights, whole, strict=True))
        for s in range(len(seeds))
    ])  # fmt: skip
    weighted = None if (targets == 1).all() else targets
    return over_seeds_and_examples(scale * sums + shift * targets, weighted)


def difference(
    a: BySeed, b: BySeed, *, part: str = "test", what: str = "right", scale: float = 100.0
) -> Estimate | None:
    """Estimate ``a - b`` in points of accuracy, or with ``what="loss"`` and ``scale=1`` of the loss.

    Example:
        >>> a, b = {0: {"test": 0.98}, 1: {"test": 0.97}}, {0: {"test": 0.97}, 1: {"test": 0.96}}
        >>> round(difference(a, b).value, 3)
        1.0
    """
    return contrast([(1.0, a), (-1.0, b)], part=part, what=what, scale=scale)


def average(network: BySeed, *, part: str = "test") -> Estimate:
    """Estimate the accuracy of one network, a fraction.

    Raises:
        InvalidInput: there is no seed.

    Example:
        >>> average({0: {"test": 0.98}, 1: {"test": 0.97}}).value
        0.975
    """
    found = contrast([(1.0, network)], part=part, scale=1.0)
    if found is None:
        raise InvalidInput("Expected a network of at least one seed, got none; finish a run first.")
    return found


def value_of(facts: Mapping[str, Any], part: str, what: str) -> float:
    """Read one number of a network: its accuracy as a fraction, or its mean loss.

    Raises:
        InvalidInput: it was not measured.

    Example:
        >>> value_of({"test": {"correct": 9, "total": 10, "loss": 0.7}}, "test", "loss")
        0.7
    """
    found = facts.get(part)
    if what == "right" and isinstance(found, Mapping) and "correct" in found:
        return float(found["correct"]) / float(found["total"])
    if what == "right" and isinstance(found, int | float):
        return float(found)
    loss = found.get("loss") if isinstance(found, Mapping) else facts.get(f"{part}_loss")
    if what == "right" or loss is None:
        raise InvalidInput(
            f"Expected a network with a {'accuracy' if what == 'right' else what} on the {part} part, "
            f"got one without; measure it with Measure."
        )
    return float(loss)


def _answers(facts: Mapping[str, Any], part: str, what: str) -> Answers | None:
    found = facts.get(f"{part}_answers")
    if found is None:
        return None
    read = Answers.read(found)
    return None if what == "loss" and read.loss is None else read
