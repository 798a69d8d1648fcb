"""The study of the acoustic model, on data that needs no synthesiser."""

from pathlib import Path

import pytest
import torch

from boxwood._internal.core import spec
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.measure_teacher import MeasureTeacher
from boxwood._internal.report.study import collect
from boxwood._internal.runs.runner import jobs_of, run_all, with_needs
from boxwood._internal.runs.store import Store
from boxwood.errors import InvalidInput
from boxwood_studies.drawn_examples import drawn_examples

STUDIES = Path(__file__).parents[2] / "experiments" / "distillation.py"


def test_three_percent_of_digits(tmp_path: Path) -> None:
    """One network that learnt all teaches three that see a part, drawn at random; the control may stop early."""
    study = spec.load(f"{STUDIES}:speech_labels")(data=digits, part=0.1, epochs=1)
    store = Store(tmp_path)
    jobs = jobs_of(study, (0,))
    assert len(with_needs(jobs)) == len(jobs) + 1
    run_all(jobs, store)
    measured = collect(jobs, store, phases=(Measure, MeasureTeacher))
    assert [each.name for each in measured] == ["all", "hard", "soft 1", "soft 2", "soft 4"]
    hard = measured[1]
    assert len(hard.history) == 15
    assert any("test" in row for row in hard.history)
    assert all(each.held is None for each in study.judge(measured))


def test_drawn_examples_are_drawn_once() -> None:
    """They are training examples, not the first ones, and the same in every process."""
    whole, part = digits(), drawn_examples(digits, 100)
    inputs, _ = whole.train.take(torch.arange(len(whole.train)))
    drawn, _ = part.train.take(torch.arange(100))
    assert len(drawn.flatten(1).unique(dim=0)) > 95  # some digits are alike
    assert all((inputs == each).flatten(1).all(1).any() for each in drawn)
    assert not torch.equal(drawn, inputs[:100])
    assert part.identity == drawn_examples(digits, 100).identity
    with pytest.raises(InvalidInput, match="Expected between 1 and"):
        drawn_examples(digits, 10**6)


def test_the_acoustic_study_on_digits(tmp_path: Path) -> None:
    """One network is the first member, all students learn from kept answers, and one seed decides nothing."""
    acoustic = spec.load(
        f"{Path(__file__).parents[2] / 'experiments' / 'distillation.py'}:acoustic"
    )
    store = Store(tmp_path)
    study = acoustic(data=digits, members=2, epochs=2)
    jobs = jobs_of(study, (0,))
    assert len(with_needs(jobs)) == len(jobs) + 1
    run_all(jobs, store)
    assert len(list((store.root / "answers").iterdir())) == 1
    measured = collect(jobs, store, phases=(Measure, MeasureTeacher))
    assert [each.name for each in measured] == [
        "ensemble",
        "single",
        *(f"soft {t}" for t in (1, 2, 5)),
    ]
    (finding,) = study.judge(measured)
    assert finding.held is None
    assert "of a gain of" in finding.evidence
