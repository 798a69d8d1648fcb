"""The study of the acoustic model, on data that needs no synthesiser."""

from pathlib import Path

from boxwood._internal.core import spec
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.measure_teacher import MeasureTeacher
from boxwood._internal.report.study import collect
from boxwood._internal.runs.runner import jobs_of, run_all, with_needs
from boxwood._internal.runs.store import Store


def test_the_acoustic_study_on_digits(tmp_path: Path) -> None:
    """One network is the first member, all students learn from kept answers, and one seed decides nothing."""
    acoustic = spec.load(
        f"{Path(__file__).parents[2] / 'experiments' / 'distillation.py'}:acoustic"
    )
    store = Store(tmp_path)
    study = acoustic(data=digits, members=2)
    jobs = jobs_of(study, (0,))
    assert len(with_needs(jobs)) == len(jobs) + 1
    run_all(jobs, store)
    assert len(list((store.root / "answers").iterdir())) == 1
    measured = collect(jobs, store, phases=(Measure, MeasureTeacher))
    assert [each.name for each in measured] == [
        "ensemble",
        "single",
        *(f"soft {t}" for t in (1, 2, 5, 10)),
    ]
    (finding,) = study.judge(measured)
    assert finding.held is None
    assert "of a gain of" in finding.evidence
