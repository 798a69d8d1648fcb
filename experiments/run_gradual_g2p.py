"""Run the study of gradual pruning where letters become phonemes, and write its figures and curves.

python experiments/run_gradual_g2p.py --seeds 5

Run it again to resume or extend; run it twice at once on one store to use two cores.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from gradual_g2p import (
    AT_80,
    DENSE,
    IN_BYTES,
    MEASURES,
    SIZE,
    SPARSE,
    STEPS,
    judge,
    large,
    medium,
    small,
)

from boxwood._internal.report.charts.curves import curve_rows
from boxwood._internal.report.charts.export import grid, still, write_chart
from boxwood._internal.report.charts.looks import numbered
from boxwood._internal.report.charts.marks import bars, channel, lines
from boxwood._internal.report.study import by_seed, kept_answers
from boxwood._internal.runs.provenance import provenance
from boxwood.phases import Measure
from boxwood.runs import Measurement, Store, collect, jobs_of, run_all
from boxwood_studies.decode import Decode

RESULTS = Path(__file__).parent / "results"
SHOWN = (("test loss", "nats a phoneme", "~r"), ("phoneme error rate", "", "~%"))
COLUMNS = (
    ("non-zeros", (50_000, 100_000, 200_000, 400_000, 800_000), (("dense", DENSE, "nonzero"), ("large, pruned", SPARSE, "nonzero"))),
    ("bytes", (200_000, 400_000, 800_000, 1_600_000, 3_200_000), (
        ("dense", DENSE, "bytes_bit_mask"),
        ("large, pruned: bit mask", SPARSE, "bytes_bit_mask"),
        ("large, pruned: runs of zeros", SPARSE, "bytes_csr"),
    )),
)  # fmt: skip


def study(seeds: int, steps: int, store: Path, *, finished: bool = False) -> None:
    """Run to the end, or take what is finished, and leave gradual_g2p.json and gradual_g2p.* in one folder."""
    torch.set_num_threads(1)
    opened = Store(store)
    experiments = [of(steps=steps) for of in (medium, small, large)]
    jobs = [job for seed in range(seeds) for each in experiments for job in jobs_of(each, [seed])]
    # Equal non-zeros first and seed by seed: what there is when one stops early is comparable.
    jobs.sort(key=lambda job: job.name.startswith((AT_80, IN_BYTES)))
    if not finished:
        run_all(jobs, opened)
    jobs = [job for job in jobs if opened.has(job.chain[-1])]
    measured = collect(jobs, opened, phases=(Measure, Decode))
    findings = judge(measured)
    table = rows(measured)
    report = {
        "steps": steps,
        "seeds": sorted({each.seed for each in measured}),
        "findings": [asdict(each) for each in findings],
        "networks": table,
        "machine": provenance(),
        "runs": [
            {
                "name": each.name,
                "seed": each.seed,
                "key": each.key,
                "seconds": round(each.seconds),
                **{part: each.facts[part] for part in ("test", "validation") if part in each.facts},
                **kept_answers(each),
            }
            for each in measured
        ],
    }
    path = RESULTS / "gradual_g2p.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    draw(path)
    for finding in findings:
        print(f"{finding.word}: {finding.claim} ({finding.said})")


def rows(measured: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Sizes of every network, and each measure by seed with its mean and standard deviation."""
    table = []
    for name in (*DENSE, *SPARSE):
        group = by_seed(tuple(measured), name)
        if not group:
            continue
        facts = next(iter(group.values())).facts
        dense = facts["nonzero"] == facts["parameters"]
        places = 0 if dense else SIZE.prunable // 8
        row: dict[str, Any] = {
            "name": name,
            "nonzero": facts["nonzero"],
            "sparsity": 1 - (facts["nonzero"] - SIZE.rest) / SIZE.prunable if not dense else 0.0,
            # Values of 4 bytes, and a bit for every place that may be pruned.
            "bytes_bit_mask": 4 * facts["nonzero"] + places,
            # Values and runs of zeros in 5 bits, with the fillers that longer runs take.
            "bytes_csr": facts["dense_bytes"] if dense else facts["bytes"],
            "accuracy": {seed: each.test for seed, each in group.items()},
        }
        for measure, of in MEASURES.items():
            found = of(measured, name)
            values = list(found.values())
            row[measure] = found
            row[f"{measure}, mean"] = fmean(values)
            row[f"{measure}, sd"] = stdev(values) if len(values) > 1 else None
        table.append(row)
    return table


def draw(path: Path) -> None:
    """Draw loss and phoneme errors against non-zeros, and against bytes."""
    report = json.loads(path.read_text())
    table = {row["name"]: row for row in report["networks"]}
    looks = numbered([curve for _, _, curves in COLUMNS for curve, _, _ in curves])
    panels = []
    for measure, unit, style in SHOWN:
        for size, ticks, curves in COLUMNS:
            points = {
                curve: [(table[n][of], list(table[n][measure].values())) for n in names if n in table]
                for curve, names, of in curves
            }  # fmt: skip
            chart = lines(
                curve_rows(points),
                x=channel("at", size, "~s", ticks=ticks, type="log", base=2),
                y=channel("value", f"{measure} [{unit}]" if unit else measure, style),
                looks=looks,
                ends=bars,
            )
            panels.append(still(chart, "", width=300, height=200))
    title = f"CMUdict, up to {len(report['seeds'])} seeds, {report['steps']} steps"
    text = "Means over seeds; bars reach from the lowest seed to the highest."
    write_chart(grid(panels, title, text=text), path.with_suffix(""))


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--finished", action="store_true", help="run nothing, take what there is")
    parser.add_argument("--store", type=Path, default=Path("runs/gradual_g2p"))
    parser.add_argument("--figures-only", action="store_true", help="draw what the results hold")
    given = vars(parser.parse_args())
    if given.pop("figures_only"):
        draw(RESULTS / "gradual_g2p.json")
        return
    study(**given)


if __name__ == "__main__":
    main()
