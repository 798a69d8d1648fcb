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

import torch

from boxwood.cli.target import resolve
from boxwood.report.study import Measurement
from boxwood.runs.provenance import provenance
from boxwood.runs.runner import Job, jobs_of, run_all
from boxwood.runs.store import Store

HERE = Path(__file__).parent
STUDIES = (
    ("teachers", "fashion-mnist", ()),
    ("few_labels", "fashion-mnist", ()),
    ("missing_class", "fashion-mnist", ()),
    ("two_classes", "fashion-mnist", ()),
    ("ensemble", "digits", ()),
    ("ensemble", "fashion-mnist", ("count=10000",)),
    ("specialists", "fashion-mnist", ()),
    ("pruned", "fashion-mnist", ()),
)


def study(function: str, data: str, settings: Sequence[str], seeds: int, store: Path) -> None:
    """Run one study to its end and leave its figures beside this file."""
    torch.set_num_threads(1)
    experiment = resolve(f"{HERE / 'distillation.py'}:{function}", data, settings)
    jobs, opened = jobs_of(experiment, range(seeds)), Store(store)
    run_all(jobs, opened)
    measured = tuple(each for job in jobs for each in measurements(job, opened))
    findings = experiment.judge(measured) if experiment.judge is not None else ()
    report = {
        "study": function,
        "data": data,
        "settings": list(settings),
        "seeds": list(range(seeds)),
        "findings": [asdict(each) for each in findings],
        "summary": summary(measured),
        "machine": provenance(),
        "runs": [
            {
                "name": each.name,
                "seed": each.seed,
                "key": each.key,
                "test": each.test,
                "validation": each.validation,
                "seconds": round(each.seconds, 1),
                **{name: each.facts[name] for name in EXTRA if name in each.facts},
            }
            for each in measured
        ],
    }
    path = HERE / "results" / f"distillation_{function}_{data}.json".replace("-", "_")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    for finding in findings:
        print(finding)


EXTRA = ("test_by_class", "shift", "generalist", "covered", "groups")


def measurements(job: Job, store: Store) -> list[Measurement]:
    """Read every phase that measured test accuracy, a teacher's too."""
    found, seconds, kept = [], 0.0, {}
    history: tuple[dict[str, float], ...] = ()
    for phase, key in zip(job.recipe, job.chain[1:], strict=True):
        record = store.record(key)
        facts = record["facts"]
        seconds += record["provenance"]["seconds"]
        history = tuple(facts.get("history", history))
        kept |= {name: facts[name] for name in ("shift", "groups") if name in facts}
        if "test" in facts:
            branch = job.name.rpartition(" / seed ")[0]
            found.append(
                Measurement(
                    branch=branch,
                    label=phase.label,
                    seed=job.genesis.seed,
                    key=key,
                    facts={**facts, **kept},
                    epochs=0,
                    seconds=seconds,
                    history=history,
                )
            )
    return found


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


def main() -> None:
    """Run one study, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?", help="a function of distillation.py; all by default")
    parser.add_argument("data", nargs="?", default="fashion-mnist")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--store", type=Path, default=Path("runs/distillation"))
    given = parser.parse_args()
    chosen = ((given.study, given.data, tuple(given.settings)),) if given.study else STUDIES
    for function, data, settings in chosen:
        study(function, data, settings, given.seeds, given.store)


if __name__ == "__main__":
    main()
