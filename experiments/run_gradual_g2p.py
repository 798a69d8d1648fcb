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

from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.report.figures import house_style, write_figure
from boxwood._internal.report.study import Measurement, by_seed, collect, kept_answers
from boxwood._internal.runs.provenance import provenance
from boxwood._internal.runs.runner import jobs_of, run_all
from boxwood._internal.runs.store import Store
from boxwood_studies.decode import Decode

RESULTS = Path(__file__).parent / "results"
SHOWN = (("test loss", 1, "nats a phoneme"), ("phoneme error rate", 100, "%"))


def study(seeds: int, steps: int, store: Path, *, finished: bool = False) -> None:
    """Run to the end, or take what is finished, and leave gradual_g2p.json and gradual_g2p.* beside each other."""
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
    picture(table, f"CMUdict, up to {seeds} seeds, {steps} steps", path.with_suffix(""))
    for finding in findings:
        print(finding)


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


def picture(table: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Draw loss and phoneme errors against non-zeros, and against bytes: means, and a dot a seed."""
    dense = [row for row in table if row["name"] in DENSE]
    sparse = [row for row in table if row["name"] in SPARSE]
    columns = {
        "non-zeros [thousands]": (
            (50, 100, 200, 400, 800),
            ("dense", dense, "nonzero", "o-", "C0"),
            ("large, pruned", sparse, "nonzero", "s--", "C1"),
        ),
        "kilobytes": (
            (200, 400, 800, 1600, 3200),
            ("dense", dense, "bytes_bit_mask", "o-", "C0"),
            ("large, pruned: bit-mask", sparse, "bytes_bit_mask", "s--", "C1"),
            ("large, pruned: runs of zeros", sparse, "bytes_csr", "^:", "C2"),
        ),
    }
    with house_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.2, 6.4))
        panels = figure.subplots(2, 2, sharex="col", sharey="row")
        figure.suptitle(title, x=0.01, horizontalalignment="left")
        for place, (label, (ticks, *curves)) in enumerate(columns.items()):
            for line, (measure, scale, unit) in zip(panels, SHOWN, strict=True):
                for name, networks, size, look, colour in curves:
                    ordered = sorted(networks, key=lambda row: row[size])
                    sizes = [row[size] / 1000 for row in ordered]
                    means = [scale * row[f"{measure}, mean"] for row in ordered]
                    line[place].plot(sizes, means, look, color=colour, label=name)
                    for at, row in zip(sizes, ordered, strict=True):
                        seeds = [scale * each for each in row[measure].values()]
                        line[place].plot([at] * len(seeds), seeds, ".", color=colour, alpha=0.4)
                line[place].set_xscale("log", base=2)
                line[place].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                if not place:
                    line[place].set_ylabel(f"{measure} [{unit}]")
            panels[1][place].set_xlabel(label)
            panels[0][place].legend()
        write_figure(figure, path)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--finished", action="store_true", help="run nothing, take what there is")
    parser.add_argument("--store", type=Path, default=Path("runs/gradual_g2p"))
    study(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
