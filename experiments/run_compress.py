"""Try `boxwood compress` on real tasks, next to one share for all layers by L1 with the same budget.

    python experiments/run_compress.py resnet8 --for latency --max-drop 0.5 --steps 6000

The control is what other tools offer: the same share of every group of units goes, by the L1 norm,
without repair and in float32; it has the same sizes to choose from, the same training and the same
rule for the decision. Both run on one core. Each result is written as it comes; run again to resume.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import compress_pretrained
import compress_tasks
import torch

from boxwood._internal.cli.terminal import say
from boxwood._internal.compress.api import Asked, compress_task, prepared
from boxwood._internal.compress.candidates import Candidate, Made, Maker
from boxwood._internal.compress.journal import Journal
from boxwood._internal.compress.knobs import kept_units_at
from boxwood._internal.compress.scores import Drop, Scorer, drop
from boxwood._internal.compress.search import Attempt
from boxwood._internal.compress.task import Task
from boxwood._internal.graph.scoring import score_units
from boxwood._internal.runs.provenance import provenance

HERE = Path(__file__).parent
TASKS = {
    make.__name__: make
    for make in (
        compress_tasks.resnet8, compress_tasks.lenet5, compress_tasks.segmentation, compress_tasks.tagger,
        compress_pretrained.encoder, compress_pretrained.recogniser,
    )
}  # fmt: skip
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1)


class Unrepaired(Maker):
    """Cuts networks without refitting what is left."""

    def cut(self, shares: Mapping[str, float]) -> Made:
        """Remove units."""
        return self.unrepaired(shares)


def control(
    task: Task, asked: Asked, folder: Path, steps: int
) -> tuple[Attempt | None, Drop | None]:
    """Search with one share for all groups, and read the test once for what was chosen."""
    ready = prepared(task, folder, asked, _say)
    search, maker = ready.search, ready.search.maker
    scores = score_units(maker.units)
    unrepaired = Unrepaired(maker.dense, maker.units, scores, maker.repair)
    found = []
    for share in SHARES:
        shares = {group.name: share for group in maker.units.groups}
        kept = kept_units_at(maker.units, scores, shares)
        found.append(
            Candidate(f"uniform {share:.0%}", shares, {}, False, search.costs.of_units(kept))
        )
    own = replace(
        search,
        maker=unrepaired,
        costs=replace(search.costs, precisions={"float32": 1.0}),
        journal=Journal(folder / "control", {"steps": steps, "max_drop": asked.max_drop}),
    )
    attempts = own.run(found, ready.dense, steps)
    best = own.wanted.best(attempts)
    if best is None or task.test is None:
        return best, None
    scorer = Scorer(task, task.test, task.model)
    return best, drop(scorer(task.model), scorer(own.network(best).network))


def _say(what: str, done: float, best: Attempt | None) -> None:
    name = "" if best is None else f"; best {best.name}, {100 * best.drop.mean:+.2f}"
    say(f"{done:4.0%} {what}{name}", error=True)


def main() -> None:
    """Run one task for one target and one floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument(
        "--for", dest="target", default="latency", choices=("latency", "size", "macs")
    )
    parser.add_argument("--max-drop", type=float, default=0.5, help="in points")
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps of each search")
    parser.add_argument("--store", type=Path, default=Path("runs/compress"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS[given.task]()
    name = f"{given.task}_{given.target}_{given.max_drop:g}"
    folder = given.store / name
    asked = Asked(given.max_drop / 100, given.target, None, None, given.steps, 0)
    found = compress_task(task, folder, asked, _say)
    uniform, tested = control(task, asked, folder, given.steps)
    row = {
        "task": given.task, "target": given.target, "max_drop": given.max_drop / 100,
        "steps": given.steps, "dense_score": found.dense_score, "unit": found.unit,
        "dense_cost": found.dense_cost, "cost": found.cost, "held": found.held,
        "chosen": found.attempt.name, "validation": asdict(found.attempt.drop),
        "test": None if found.test is None else asdict(found.test), "hours": found.hours,
        "seconds": dict(found.seconds), "advice": list(found.advice),
        "int8_alone": [
            {"cost": each.cost, **asdict(each.drop)}
            for each in found.tried if each.candidate.name == "whole network"
        ],
        "control": None if uniform is None else {
            "chosen": uniform.name, "cost": uniform.cost, "validation": asdict(uniform.drop),
            "test": None if tested is None else asdict(tested),
        },
        "machine": provenance(),
    }  # fmt: skip
    path = HERE / "results" / "compress.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    rows[name] = row
    path.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
    print(found)
    print(
        "control:",
        "nothing holds"
        if uniform is None
        else f"{uniform.name}, {found.dense_cost / uniform.cost:.2f} times",
    )


if __name__ == "__main__":
    main()
