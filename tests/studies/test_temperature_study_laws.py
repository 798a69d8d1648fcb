"""The study of temperature against width: what it plans, and how it is judged."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from boxwood._internal.core import spec
from boxwood._internal.report.study import Finding, Measurement
from boxwood._internal.runs.runner import jobs_of, with_needs

STUDY = Path(__file__).parents[2] / "experiments" / "distillation.py"
ALIKE = {1: 0.90, 2.5: 0.90, 4: 0.90, 8: 0.90, 20: 0.90}


def judged(
    narrow: Mapping[float, float], wide: Mapping[float, float], seeds: int = 5
) -> tuple[Finding, ...]:
    """Findings on networks of some test and validation accuracies, by temperature."""
    rows = [
        Measurement(f"{units} units: soft {t:g}", "", seed, "", _accuracy(at, seed), 0, 0)
        for units, found in ((30, narrow), (300, wide))
        for t, at in found.items()
        for seed in range(seeds)
    ]
    return tuple(spec.load(f"{STUDY}:judge_temperatures")(tuple(rows)))


def _accuracy(at: float, seed: int) -> dict[str, float]:
    return {"test": at + seed * at / 1000, "validation": at}


def test_both_widths_share_one_teacher_for_each_seed() -> None:
    """Two widths at five temperatures and with labels, and one teacher for all."""
    study = spec.load(f"{STUDY}:temperature_by_width")
    jobs = [job for units in (30, 300) for job in jobs_of(study(units=units), (0,))]
    assert len(jobs) == 12
    assert len({job.chain[-1] for job in jobs}) == 12
    assert len(with_needs(jobs)) == len(jobs) + 1


def test_what_the_paper_says_holds_where_it_is_so() -> None:
    narrow = {**ALIKE, 2.5: 0.91, 4: 0.92}
    assert [each.word for each in judged(narrow, ALIKE)] == ["holds", "holds"]
    assert "30 units: soft 4 against 30 units: soft" in judged(narrow, ALIKE)[0].evidence


def test_it_fails_where_it_is_not_so() -> None:
    """Any other temperature that is better refutes the first part, 1 too; a gap refutes the second."""
    for other in (1, 8, 20):
        found = judged({**ALIKE, other: 0.92}, {**ALIKE, 20: 0.92})
        assert [each.word for each in found] == ["fails", "fails"]


@pytest.mark.parametrize("seeds", [0, 1, 4])
def test_few_seeds_decide_nothing(seeds: int) -> None:
    found = judged({**ALIKE, 4: 0.92}, ALIKE, seeds)
    assert [(each.held, each.seeds) for each in found] == [(None, seeds), (None, seeds)]
