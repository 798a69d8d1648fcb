"""What 1 x 4 blocks cost against single weights, at the same sparsity and the same number of steps.

    python experiments/run_blocks.py                  # all three networks, five seeds
    python experiments/run_blocks.py --only lenet

LeNet-300-100 and ResNet-8 learn Fashion-MNIST, the latter with 14 x 14 pixels and its first 10,000
images; an LSTM of 64 units learns the Brown corpus with 1,000 words. Weights go by magnitude, every
layer to the same sparsity, while it trains: between a tenth and six tenths of the steps, along the
cubic schedule. The dense network trains for as many steps. CPU time of one core: 15 minutes in all.
Stopped, it goes on where it was.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from blocks import DENSE, SPARSITIES, STEPS, WAYS, experiment

from boxwood._internal.report.contrasts import contrast
from boxwood._internal.report.study import facts_by_seed
from boxwood._internal.report.verdicts import compared, corrected
from boxwood._internal.runs.provenance import provenance
from boxwood.runs import Finding, Measurement, Store, collect, jobs_of, run_all

OUT = Path(__file__).parent / "results" / "blocks.json"


@dataclass(frozen=True)
class Quality:
    """How a network is judged; more is better.

    Args:
        name: for people.
        what: the fact that is read.
        scale: from the fact to the unit; below zero where less is better.
        unit: of a difference.
    """

    name: str
    what: str
    scale: float
    unit: str


ACCURACY = Quality("test accuracy", "right", 100, "points")
LOSS = Quality("test loss", "loss", -1, "nats")
NETWORKS = {
    "lenet": ("LeNet-300-100, Fashion-MNIST", ACCURACY),
    "resnet": ("ResNet-8, Fashion-MNIST 14 x 14", ACCURACY),
    "lstm": ("LSTM of 64 units, Brown corpus", LOSS),
}


def rows(measured: Sequence[Measurement], quality: Quality) -> list[dict[str, Any]]:
    """Both ways at each sparsity: what they reach, and their differences, with intervals."""
    dense = facts_by_seed(measured, DENSE)
    one = partial(contrast, what=quality.what, scale=abs(quality.scale))
    found: list[dict[str, Any]] = [{"sparsity": 0.0, "dense": asdict(one([(1.0, dense)]))}]
    for sparsity in SPARSITIES:
        single, blocks = (facts_by_seed(measured, f"{way} {sparsity:.0%}") for way in WAYS)
        row: dict[str, Any] = {"sparsity": sparsity}
        both = partial(contrast, what=quality.what, scale=quality.scale)
        for name, terms in {
            "single": [(1.0, single)],
            "blocks": [(1.0, blocks)],
        }.items():
            row[name] = asdict(one(terms))
        for name, terms in {
            "single - dense": [(1.0, single), (-1.0, dense)],
            "blocks - dense": [(1.0, blocks), (-1.0, dense)],
            "blocks - single": [(1.0, blocks), (-1.0, single)],
        }.items():
            row[name] = asdict(both(terms))
        found.append(row)
    return found


def findings(name: str, measured: Sequence[Measurement]) -> list[Finding]:
    """Whether single weights are better than blocks, at each sparsity."""
    title, quality = NETWORKS[name]
    return [
        compared(
            f"{title}, {sparsity:.0%}: single weights are better than 1 x 4 blocks",
            [(1.0, facts_by_seed(measured, f"single {sparsity:.0%}")),
             (-1.0, facts_by_seed(measured, f"blocks {sparsity:.0%}"))],
            what=quality.what, scale=quality.scale, unit=quality.unit, digits=3,
        )
        for sparsity in SPARSITIES
    ]  # fmt: skip


def main() -> None:
    """Run what has not been run, then write the results of all that has."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=sorted(NETWORKS), action="append")
    parser.add_argument("--store", type=Path, default=Path("runs/blocks"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(given.store)
    networks, judged = {}, []
    for name in NETWORKS:
        jobs = jobs_of(experiment(name), range(given.seeds))
        if given.only is None or name in given.only:
            run_all(jobs, store)
        jobs = [job for job in jobs if store.has(job.chain[-1])]
        if not jobs:
            continue
        measured = collect(jobs, store)
        title, quality = NETWORKS[name]
        networks[name] = {
            "title": title,
            "measure": quality.name,
            "unit": quality.unit,
            "steps": STEPS[name],
            "rows": rows(measured, quality),
            "runs": [
                {"name": each.name, "seed": each.seed, "seconds": round(each.seconds, 1),
                 "test": each.facts["test"], "validation": each.facts["validation"],
                 "nonzero": each.facts["nonzero"],
                 "weights": each.facts["weights"]}
                for each in measured
            ],
        }  # fmt: skip
        judged += findings(name, measured)
    judged = list(corrected(judged))
    report = {
        "study": "1 x 4 blocks against single weights",
        "seeds": list(range(given.seeds)),
        "networks": networks,
        "findings": [asdict(each) for each in judged],
        "machine": provenance(),
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    for finding in judged:
        print(f"{finding.word}: {finding.claim} ({finding.said})")


if __name__ == "__main__":
    main()
