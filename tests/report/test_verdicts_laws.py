"""What turns an estimate into a verdict, and what never does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood._internal.report.contrasts import average, contrast, difference
from boxwood._internal.report.estimates import interval, over_seeds, over_seeds_and_examples
from boxwood._internal.report.study import Finding
from boxwood._internal.report.verdicts import (
    SEEDS,
    all_hold,
    by_p_value,
    compared,
    corrected,
    disagreement,
    enough_hold,
    exceeds,
    in_every_seed,
    within_margin,
)
from boxwood._internal.train.answers import Answers
from boxwood.errors import InvalidInput

VALUES = st.lists(st.integers(-50, 50).map(lambda i: i / 8), min_size=1, max_size=9)


def network(right: np.ndarray, *, bits: bool = True) -> dict[int, dict]:
    """Facts of a network that answers these examples rightly, [seeds, examples]."""
    return {
        seed: {
            "test": {"correct": int(row.sum()), "total": len(row)},
            **({"test_answers": Answers(row, np.ones_like(row)).facts()} if bits else {}),
        }
        for seed, row in enumerate(right)
    }


@settings(deadline=None)  # the first call loads scipy
@given(VALUES, st.sampled_from([-0.3, 0.0, 1.0]))
def test_the_interval_decides_and_five_seeds_are_needed(values: list[float], limit: float) -> None:
    """It holds or fails exactly where the 95 % interval of five seeds or more leaves the limit out."""
    estimate = over_seeds(values)
    found = exceeds("claim", estimate, limit)
    ends = interval(estimate)
    if len(values) < SEEDS:
        assert found.held is None
        assert found.needed is None or found.needed >= SEEDS
    elif found.p is not None and abs(found.p - 0.05) > 1e-9:
        assert found.held is (True if ends.low > limit else False if ends.high < limit else None)
    assert (found.needed is None) or found.held is None


@settings(deadline=None)
@given(VALUES, st.sampled_from([0.3, 2.0]))
def test_a_gain_that_counts_only_turns_undecided_claims_into_failed_ones(
    values: list[float], gain: float
) -> None:
    """What holds or fails without it stays; the rest fails where the interval lies below the gain."""
    estimate = over_seeds(values)
    plain, strict = (exceeds("c", estimate, smallest_gain=least) for least in (0.0, gain))
    ends = interval(estimate)
    if plain.p is not None and abs(plain.p - 0.05) < 1e-9:
        return
    if plain.held is not None or len(values) < SEEDS:
        assert strict.held is plain.held
    elif abs(ends.high - gain) > 1e-9:
        assert strict.held is (False if ends.high < gain else None)
    assert ("would count" in strict.evidence) is (strict.held is False and plain.held is None)


def test_a_gain_that_counts_needs_seeds_on_the_nearer_side() -> None:
    """Level networks need few more seeds to fail, where showing which is better would take over a thousand."""
    level = over_seeds([0.4, -0.35, 0.1, -0.2, 0.05])
    assert exceeds("c", level).needed is None
    assert 5 < exceeds("c", level, smallest_gain=0.3).needed < 30


@pytest.mark.parametrize("rule", [
    lambda v: exceeds("c", over_seeds(v)),
    lambda v: within_margin("c", over_seeds(v), 9.0),
    lambda v: in_every_seed("c", v),
    lambda v: by_p_value("c", 0.0001, len(v), "trend"),
    lambda v: compared("c", [(1.0, {s: {"test": x / 10} for s, x in enumerate(v)})]),
])  # fmt: skip
def test_four_seeds_decide_nothing_anywhere(rule) -> None:
    """Whatever the rule and however clear the figures: five seeds do, four do not."""
    assert rule([1.0, 1.1, 1.2, 1.0]).word == "undecided"
    assert rule([1.0, 1.1, 1.2, 1.0, 1.1]).word == "holds"


def test_equivalence_holds_inside_fails_outside_and_is_open_between() -> None:
    """Within 0.3 points: near zero, two points away, and too spread to say."""
    near, far, wide = ([0.01, -0.02, 0.0, 0.02, 0.01], [2.0, 2.1, 1.9, 2.0, 2.1], [-3, 2, 1, -1, 2])
    words = [within_margin("c", over_seeds(v), 0.3).word for v in (near, far, wide)]
    assert words == ["holds", "fails", "undecided"]
    assert within_margin("c", over_seeds([-v for v in far]), 0.3).word == "fails"


def test_examples_that_all_seeds_share_widen_the_interval() -> None:
    """Five seeds that gain on the same 3 and lose on the same 1 of 100 images have shown little."""
    dense = np.ones((5, 100), int)
    dense[:, :3] = 0
    pruned = np.ones((5, 100), int)
    pruned[:, 3:4] = 0
    ours, theirs = network(pruned), network(dense)
    both = difference(ours, theirs)
    alone = difference(network(pruned, bits=False), network(dense, bits=False))
    assert both is not None
    assert alone is not None
    assert both.value == pytest.approx(alone.value) == pytest.approx(2.0)
    assert (both.examples, alone.examples) == (100, 0)
    assert exceeds("c", alone).word == "holds"
    assert exceeds("c", both).word == "undecided"


def test_a_contrast_is_the_sum_of_its_terms() -> None:
    """Half of an ensemble's gain: by examples as by seeds, over the seeds that all have."""
    random = np.random.default_rng(0)
    right = [random.integers(0, 2, size=(n, 50)) for n in (6, 5, 7)]
    terms = list(zip((1.0, -0.5, -0.5), map(network, right), strict=True))
    found = contrast(terms)
    x = right[0][:5] - 0.5 * right[1][:5] - 0.5 * right[2][:5]
    assert found == over_seeds_and_examples(100 * x)
    assert average(network(right[0])).value == pytest.approx(right[0].mean())


def test_losses_are_means_over_targets() -> None:
    """Sequences of unlike length: the estimate is that of the mean loss of each seed."""
    targets = np.array([2, 3, 1])
    losses = [np.array([4.0, 3.0, 2.0], np.float32), np.array([2.0, 6.0, 1.0], np.float32)]
    facts = {
        s: {
            "test": {"correct": 0, "total": 6, "loss": float(loss.sum()) / 6},
            "test_answers": Answers(np.zeros(3, int), targets, loss).facts(),
        }
        for s, loss in enumerate(losses)
    }
    found = contrast([(1.0, facts)], what="loss", scale=1.0)
    assert found is not None
    assert found.by_seed == pytest.approx([1.5, 1.5])
    assert found.examples == 3


def test_networks_on_other_examples_are_not_compared() -> None:
    """Bits of 3 and of 4 examples do not belong to one part."""
    with pytest.raises(InvalidInput, match="the same examples"):
        difference(network(np.ones((5, 3), int)), network(np.ones((5, 4), int)))
    assert difference(network(np.ones((5, 3), int)), {}) is None
    assert exceeds("c", None).word == "undecided"


@given(st.lists(st.floats(0.0001, 0.2), min_size=1, max_size=6))
def test_correction_only_takes_back(p_values: list[float]) -> None:
    """No verdict appears or turns round; of one claim alone nothing changes."""
    before = [Finding("c", p <= 0.05 or None, "x", p=p, seeds=5) for p in p_values]
    after = corrected(before)
    for old, new in zip(before, after, strict=True):
        assert new.held in (old.held, None)
    if len(before) == 1:
        assert after == tuple(before)
    untested = Finding("c", True, "counted")
    assert corrected([untested, *before])[0] == untested


def test_joined_claims() -> None:
    """All must hold, or some; one that fails fails the first, too many the second."""
    yes, no, open_ = (Finding("c", held, "", p=0.01, seeds=5) for held in (True, False, None))
    assert [all_hold("c", each).word for each in ([yes, yes], [yes, open_], [no, open_])] == [
        "holds", "undecided", "fails",
    ]  # fmt: skip
    assert [enough_hold("c", each, 2).word for each in ([yes, yes, no], [yes, open_], [yes, no])] == [
        "holds", "undecided", "fails",
    ]  # fmt: skip


def test_validation_that_says_otherwise_is_named() -> None:
    """Opposed signs with one of them clear, or intervals apart; not mere noise."""
    up, down = over_seeds([0.5, 0.6, 0.55]), over_seeds([-0.5, -0.6, -0.55])
    noise = over_seeds([-0.1, 0.2, -0.2])
    assert "says otherwise: -0.55" in disagreement(up, down)
    assert disagreement(up, up) == disagreement(noise, over_seeds([0.1, -0.2, 0.3])) == ""
    assert disagreement(None, up) == ""
