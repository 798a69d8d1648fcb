"""Verdicts on tickets, by hand."""

from dataclasses import replace

import pytest

from boxwood._internal.report.tickets import EarlyStop, early_stop, stability, verdict
from boxwood.errors import BoxwoodError

DENSE = (87.8, 87.9, 87.7, 87.8, 88.0)
BETTER = (88.6, 88.8, 88.7, 88.9, 88.7)
SAME = (87.7, 88.0, 87.8, 87.7, 87.9)


def stops(step: int, points: tuple[float, ...], censored: bool = False) -> list[EarlyStop]:
    return [
        EarlyStop(step=step + 10 * i, censored=censored, validation=0.9, test=each / 100)
        for i, each in enumerate(points)
    ]


def each(found: list[EarlyStop]) -> list[list[EarlyStop]]:
    return [[one] for one in found]


def row(step: int, loss: float, accuracy: float = 0.9) -> dict[str, float]:
    return {"step": step, "validation_loss": loss, "validation": accuracy, "test": accuracy - 0.01}


def test_early_stop_is_the_first_minimum_of_the_validation_loss():
    """The lowest loss counts, not the best accuracy; of equal ones the first."""
    rows = [row(100, 0.5), row(200, 0.3, 0.8), row(300, 0.3, 0.95), row(400, 0.4, 0.99)]
    assert early_stop(rows) == EarlyStop(step=200, censored=False, validation=0.8, test=0.8 - 0.01)


@pytest.mark.parametrize(("step", "censored"), [(1900, False), (1910, True), (2000, True)])
def test_a_minimum_in_the_last_twentieth_is_censored(step, censored):
    """The true minimum may come after the end."""
    rows = [row(10 * i, 0.1 if 10 * i == step else 0.5) for i in range(1, 201)]
    assert early_stop(rows).censored is censored


def test_five_of_five_faster_and_better_is_a_ticket():
    """All three of the rule's parts hold."""
    found = verdict(stops(4600, DENSE), stops(2200, BETTER), each(stops(4900, SAME)))
    assert (found.word, found.more_seeds) == ("ticket", 0)
    assert found.against_reinit.wins == 5
    assert found.against_dense.difference.estimate == pytest.approx(0.9)
    assert found.speed.estimate == pytest.approx(2.21, abs=0.01)
    assert "5 of 5 seeds better (sign test p = 0.031)" in str(found)


def test_clearly_worse_than_dense_is_no_ticket():
    """The whole interval lies below minus 0.3 points."""
    worse = tuple(value - 1 for value in DENSE)
    assert (
        verdict(stops(4600, DENSE), stops(2200, worse), each(stops(4900, SAME))).word == "no ticket"
    )


def test_clearly_slower_than_reinit_is_no_ticket():
    """The whole interval of the ratio lies below one."""
    found = verdict(stops(4600, DENSE), stops(5200, BETTER), each(stops(2600, SAME)))
    assert found.word == "no ticket"


def test_equal_steps_refute_nothing():
    """Where every training stops at the same step, speed says nothing, whatever the last bits."""
    for step in (200, 300, 700):
        equal = [stops(step, points) for points in (DENSE, BETTER, SAME)]
        for group in equal:
            group[:] = [replace(one, step=step) for one in group]
        dense, ticket, reinit = equal
        found = verdict(dense, ticket, [[one] * 3 for one in reinit])
        assert (found.word, found.speed.estimate) == ("undecided", pytest.approx(1.0))


def test_no_difference_is_undecided_and_says_how_many_seeds():
    """Intervals around zero decide nothing; more seeds at the same spread might."""
    found = verdict(
        stops(4600, DENSE), stops(2200, BETTER), each(stops(4900, (88.5, 88.9, 88.6, 88.8, 88.6)))
    )
    assert found.word == "undecided"
    assert found.more_seeds is not None
    assert found.more_seeds >= 1
    assert f"{found.more_seeds} more seeds would likely decide" in str(found)
    level = verdict(stops(4600, DENSE), stops(2200, BETTER), each(stops(4900, BETTER)))
    assert (level.word, level.more_seeds) == ("undecided", None)
    assert "over 1000 more seeds" in str(level)


def test_few_seeds_decide_nothing():
    """However clear, four seeds are undecided and ask for at least one more."""
    found = verdict(stops(4600, DENSE[:4]), stops(2200, BETTER[:4]), each(stops(4900, SAME[:4])))
    assert (found.word, found.more_seeds) == ("undecided", 1)
    one = verdict(stops(4600, DENSE[:1]), stops(2200, BETTER[:1]), each(stops(4900, SAME[:1])))
    assert (one.word, one.more_seeds) == ("undecided", 4)


def test_a_censored_ticket_is_not_declared():
    """Its speed is an upper bound; a censored control only makes the claim safer."""
    slow = stops(2200, BETTER, censored=True)
    found = verdict(stops(4600, DENSE), slow, each(stops(4900, SAME)))
    assert (found.word, found.censored) == ("undecided", (5, 0))
    late = verdict(stops(4600, DENSE), stops(2200, BETTER), each(stops(4900, SAME, censored=True)))
    assert (late.word, late.censored) == ("ticket", (0, 5))
    assert "0 + 5 minima of ticket + reinit censored" in str(late)


def test_several_reinits_of_a_seed_count_once():
    """Their mean accuracy and geometric mean of steps stand for the seed."""
    twice = [[a, replace(a, step=4 * a.step, test=a.test + 0.002)] for a in stops(4900, SAME)]
    found = verdict(stops(4600, DENSE), stops(2200, BETTER), twice)
    single = verdict(stops(4600, DENSE), stops(2200, BETTER), each(stops(4900, SAME)))
    difference = found.against_reinit.difference.estimate
    assert difference == pytest.approx(single.against_reinit.difference.estimate - 0.1)
    assert found.speed.estimate == pytest.approx(2 * single.speed.estimate)


def test_instability_is_the_error_barrier():
    """The highest error on the line, less the mean of those at its ends."""
    rights = (95, 90, 70, 92)
    line = [{"alpha": i / 3, "test": {"correct": r, "total": 100}} for i, r in enumerate(rights)]
    found = stability(line, dense=0.936)
    assert found.instability == pytest.approx(0.30 - (0.05 + 0.08) / 2)
    assert (found.stable, found.matching) == (False, True)
    assert not stability(line, dense=0.938).matching  # 0.3 points above the mean of the copies
    assert stability([line[0], line[0]], dense=0.99).stable


def test_what_verdicts_refuse(tmp_path):
    """Each message says what is wrong and what to do."""
    with pytest.raises(BoxwoodError, match=r"a history with validation losses, got none"):
        early_stop([])
    with pytest.raises(BoxwoodError, match=r"of the same seeds, got 5, 5 and 4 seeds; finish the"):
        verdict(stops(1, DENSE), stops(1, BETTER), each(stops(1, SAME[:4])))
    blind = [replace(each, test=None) for each in stops(1, BETTER)]
    with pytest.raises(BoxwoodError, match=r"test accuracy at early stop \(step 1\), got none"):
        verdict(stops(1, DENSE), blind, each(stops(1, SAME)))
