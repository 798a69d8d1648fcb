"""Run the distillation studies, and write their figures and pictures.

Run this twice at once to use two cores: both share the store, and both write the same results.

    python experiments/run_distillation.py few_labels fashion-mnist
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from distillation import WIDTHS, early_stopped

from boxwood._internal.cli.target import resolve
from boxwood._internal.report.charts.curves import dots
from boxwood._internal.report.charts.export import still, write_chart
from boxwood._internal.report.study import kept_answers
from boxwood._internal.runs.provenance import provenance
from boxwood.phases import Consult, Measure, MeasureTeacher, ShiftBias
from boxwood.runs import Job, Measurement, Store, collect, jobs_of, run_all

HERE = Path(__file__).parent
EXTRA = ("test_by_class", "generalist", "covered", "groups")
STUDIES = (
    ("teachers", "fashion-mnist", ()),
    ("few_labels", "fashion-mnist", ()),
    ("missing_class", "fashion-mnist", ()),
    ("two_classes", "fashion-mnist", ()),
    ("ensemble", "digits", ()),
    ("ensemble", "fashion-mnist", ("count=10000",)),
    ("acoustic", None, ()),
    ("speech_labels", None, ()),
    ("specialists", "fashion-mnist", ()),
    ("pruned", "fashion-mnist", ()),
    ("letters", None, ()),
    ("paper_mnist", "mnist", ()),
    ("temperature_by_width", "mnist", ()),
)
PARTS = {"temperature_by_width": [f"units={units}" for units in WIDTHS]}
"""Studies of several experiments: the setting that makes each of them."""


def study(
    function: str, data: str | None, settings: Sequence[str], seeds: int, store: Path
) -> None:
    """Run one study to its end and leave its figures next to this file."""
    torch.set_num_threads(1)
    target = f"{HERE / 'distillation.py'}:{function}"
    wanted = [[*settings, part] for part in PARTS[function]] if function in PARTS else [settings]
    experiments = [resolve(target, data, each) for each in wanted]
    # Seed by seed, so that whatever has been run when it is interrupted can be compared.
    jobs = [job for seed in range(seeds) for each in experiments for job in jobs_of(each, [seed])]
    opened = Store(store)
    run_all(jobs, opened)
    measured = collect(jobs, opened, phases=(Measure, MeasureTeacher, Consult))
    judge = experiments[0].judge
    findings = judge(measured) if judge is not None else ()
    report = {
        "study": function,
        "data": data,
        "settings": list(settings),
        "seeds": list(range(seeds)),
        "findings": [asdict(each) for each in findings],
        "summary": summary(measured),
        "shifts": shifts(jobs, opened),
        "machine": provenance(),
        "runs": [
            {
                "name": each.name,
                "seed": each.seed,
                "key": each.key,
                "test": each.test,
                "validation": each.validation,
                "seconds": round(each.seconds, 1),
                **kept_answers(each),
                **stopped(each),
                **{name: each.facts[name] for name in EXTRA if name in each.facts},
            }
            for each in measured
        ],
    }
    name = "_".join(part for part in ("distillation", function, data) if part).replace("-", "_")
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    draw(path)
    for finding in findings:
        print(f"{finding.word}: {finding.claim} ({finding.said})")


def stopped(each: Measurement) -> dict[str, Any]:
    """What the network was worth at its lowest validation loss, where validation prefers that."""
    facts = early_stopped(each)
    return {} if facts is each.facts else {"early_stop": facts}


def shifts(jobs: Sequence[Job], store: Store) -> dict[str, float]:
    """Read the shift that validation chose in each run that has one."""
    return {
        job.name: store.record(key)["facts"]["shift"]
        for job in jobs
        for phase, key in zip(job.recipe, job.chain[1:], strict=True)
        if isinstance(phase, ShiftBias)
    }


def summary(measured: Sequence[Measurement]) -> list[dict[str, object]]:
    """Mean and standard deviation over seeds of every network."""
    groups: dict[str, list[Measurement]] = defaultdict(list)
    for each in measured:
        groups[each.name].append(each)
    return [
        {
            "name": name,
            "seeds": len(group),
            "test": fmean(each.test for each in group),
            "test_sd": stdev(each.test for each in group) if len(group) > 1 else None,
            "validation": fmean(each.validation for each in group),
        }
        for name, group in groups.items()
    ]


def draw(path: Path) -> None:
    """Draw the test error of every network: a dot per seed, a stroke at the mean."""
    report = json.loads(path.read_text())
    errors: dict[str, list[float]] = defaultdict(list)
    for run in report["runs"]:
        errors[run["name"]].append(1 - run["test"])
    title = f"{path.stem.replace('_', ' ')}, {len(report['seeds'])} seeds"
    chart = still(dots(errors, "test error"), title, text="A dot for each seed; strokes: means.")
    write_chart(chart, path.with_suffix(""))


def main() -> None:
    """Run one study, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?", help="a function of distillation.py; all by default")
    parser.add_argument("data", nargs="?", help="its data set; the study's own by default")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--store", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--figures-only", action="store_true", help="draw the results of all")
    given = parser.parse_args()
    if given.figures_only:
        for path in sorted((HERE / "results").glob("distillation_*.json")):
            draw(path)
        return
    chosen = ((given.study, given.data, tuple(given.settings)),) if given.study else STUDIES
    for function, data, settings in chosen:
        study(function, data, settings, given.seeds, given.store)


if __name__ == "__main__":
    main()
