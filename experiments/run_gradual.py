"""Run the studies of gradual pruning, judge them, and draw quality against size.

python experiments/run_gradual.py language_model --seeds 5 --no-controls
python experiments/run_gradual.py language_model --seeds 5 --steps 10000
python experiments/run_gradual.py mobilenet --seeds 5
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from gradual import (
    AS,
    BYTES,
    DENSE,
    LATE,
    LINEAR,
    ONE_SHOT,
    UNITS,
    WIDTHS,
    better,
    language_model,
    mobilenet,
)

from boxwood import Experiment
from boxwood._internal.recipes.gradual_networks import LANGUAGE_MODEL, MOBILENET
from boxwood._internal.report import statistics
from boxwood._internal.report.charts.curves import Curves, curve_rows
from boxwood._internal.report.charts.export import grid, still, write_chart
from boxwood._internal.report.charts.looks import Spec, numbered
from boxwood._internal.report.charts.marks import bars, channel, lines
from boxwood._internal.report.study import by_seed, facts_by_seed, kept_answers
from boxwood._internal.report.verdicts import compared, corrected, enough_hold
from boxwood._internal.runs.provenance import provenance
from boxwood.layers import Layers
from boxwood.recipes import Size
from boxwood.runs import Finding, Measurement, Store, collect, jobs_of, run_all

RESULTS = Path(__file__).parent / "results"
CONTROLS = (LINEAR, ONE_SHOT, LATE)
NEAR = 1.03  # times the dense perplexity, of the network at 80 %


@dataclass(frozen=True)
class Study:
    """The experiments of one study, the smallest network first, and how quality is read off.

    Args:
        experiments: one for every size of network.
        sizes: their names.
        layers: what is pruned.
        what: by which they are judged: "right" for accuracy, or "loss".
        shown: what the figure shows, read off the test facts.
        measure: its name.
    """

    experiments: tuple[Experiment, ...]
    sizes: tuple[str, ...]
    layers: Layers
    what: str
    shown: Callable[[Mapping[str, Any]], float]
    measure: str


STUDIES = {
    "language_model": lambda **steps: Study(
        tuple(language_model(units, **steps) for units in UNITS),
        tuple(map(str, UNITS)),
        LANGUAGE_MODEL,
        "loss",
        lambda test: exp(test["loss"]),
        "test perplexity",
    ),
    "mobilenet": lambda **steps: Study(
        tuple(mobilenet(width, **steps) for width in WIDTHS),
        tuple(map(str, WIDTHS)),
        MOBILENET,
        "right",
        lambda test: 100 * test["correct"] / test["total"],
        "test accuracy [%]",
    ),
}


def run(
    name: str, seeds: int, store: Path, *, steps: int | None, controls: bool, finished: bool
) -> None:
    """Run one study to its end, seed after seed, and leave its figures next to this file.

    With ``finished`` it runs nothing, and reports the networks that are in the store.
    """
    torch.set_num_threads(1)
    study = STUDIES[name](**({} if steps is None else {"steps": steps}))
    opened = Store(store)
    jobs = [
        job
        for seed in range(seeds)
        for each in study.experiments
        for job in jobs_of(each, [seed])
        if controls or not any(f" {word} /" in job.name for word in CONTROLS)
    ]
    if finished:
        jobs = [job for job in jobs if opened.has(job.chain[-1])]
    else:
        run_all(jobs, opened)
    measured = collect(jobs, opened)
    prunable = Size.of(study.experiments[-1].model, study.layers).prunable
    findings = judge(measured, study)
    report = {
        "study": name,
        "steps": steps,
        "seeds": list(range(seeds)),
        "findings": [asdict(each) for each in findings],
        "summary": summary(measured, study, prunable),
        "machine": provenance(),
        "runs": [
            {
                "name": each.name,
                "seed": each.seed,
                "key": each.key,
                "test": each.facts["test"],
                "validation": each.facts["validation"],
                **kept_answers(each),
                "nonzero": each.facts["nonzero"],
                **sizes(each, prunable),
                "epochs": each.epochs,
                "seconds": round(each.seconds, 1),
            }
            for each in measured
        ],
    }
    path = RESULTS / f"gradual_{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    draw(path, study)
    for finding in findings:
        print(f"{finding.word}: {finding.claim} ({finding.said})")


def judge(measured: Sequence[Measurement], study: Study) -> list[Finding]:
    """Hold the networks to the pass rule, and say what the controls did."""
    names = {each.name for each in measured}
    found = []
    for kind, size in ((AS, "non-zeros"), (BYTES, "bytes")):
        pairs = [(f"{kind} {small}", small) for small in study.sizes[:-1]]
        singles = [
            better(
                measured,
                sparse,
                f"{DENSE} {small}",
                study.what,
                f"large and sparse is better than dense {small} at as many {size}",
            )
            for sparse, small in pairs
            if sparse in names
        ]
        claim = f"large and sparse is better at two sizes or more, by {size}"
        found += [*singles, enough_hold(claim, singles, 2)]
    largest, least = study.sizes[-1], f"{AS} {study.sizes[0]}"
    if "80 %" in names:
        found.append(near(measured, f"{DENSE} {largest}"))
    for control in CONTROLS:
        if f"{least} {control}" in names:
            found.append(
                better(
                    measured,
                    least,
                    f"{least} {control}",
                    study.what,
                    f"the early cubic rise is better than {control}",
                )
            )
    return list(corrected(found))


def near(measured: Sequence[Measurement], dense: str) -> Finding:
    """Whether the network at 80 % is within 3 % of the dense perplexity."""
    terms = [(-1.0, facts_by_seed(measured, "80 %")), (1.0, facts_by_seed(measured, dense))]
    claim = "large at 80 % is within 3 % of the dense perplexity"
    return compared(claim, terms, -log(NEAR), what="loss", scale=1.0, unit="nats", digits=4)


def sizes(each: Measurement, prunable: int) -> dict[str, int]:
    """Bytes of a network: dense where nothing is pruned, else with a bit a place, or in CSR."""
    pruned = each.facts["parameters"] - each.facts["nonzero"]
    dense = each.facts["dense_bytes"]
    if not pruned:
        return {"bit_mask_bytes": dense, "csr_bytes": dense}
    bits = -(-prunable // 8)
    return {"bit_mask_bytes": dense - 4 * pruned + bits, "csr_bytes": each.facts["bytes"]}


def summary(
    measured: Sequence[Measurement], study: Study, prunable: int
) -> dict[str, dict[str, float | str]]:
    """Mean and interval of every network, with its sizes."""
    rows: dict[str, dict[str, float | str]] = {}
    for name in dict.fromkeys(each.name for each in measured):
        group = list(by_seed(measured, name).values())
        rows[name] = {
            study.measure: str(
                statistics.mean([study.shown(each.facts["test"]) for each in group])
            ),
            "nonzero": round(fmean(each.facts["nonzero"] for each in group)),
            "parameters": group[0].facts["parameters"],
            **{
                size: round(fmean(sizes(each, prunable)[size] for each in group))
                for size in ("bit_mask_bytes", "csr_bytes")
            },
        }
    return rows


def draw(path: Path, study: Study) -> None:
    """Draw quality against non-zeros and against bytes."""
    report = json.loads(path.read_text())
    shown = partial(curve, report["runs"], study)
    pruned = [f"{DENSE} {study.sizes[-1]}", "80 %"]
    pruned += [f"{kind} {size}" for kind in (AS, BYTES) for size in study.sizes[:-1]]
    dense = [f"{DENSE} {size}" for size in study.sizes]
    by_nonzero = {"dense": shown(dense, "nonzero"), "large, pruned": shown(pruned, "nonzero")}
    by_bytes = {
        "dense": shown(dense, "bit_mask_bytes"),
        "large, pruned: bit mask": shown(pruned, "bit_mask_bytes"),
        "large, pruned: CSR": shown(pruned, "csr_bytes"),
    }
    looks = numbered([*by_nonzero, *by_bytes])
    panels = [
        panel(curves, f"{size}, ticks at the dense networks", study.measure, looks)
        for size, curves in (("non-zeros", by_nonzero), ("bytes", by_bytes))
    ]
    title = f"{report['study'].replace('_', ' ')}, {len(report['seeds'])} seeds"
    text = "Means over seeds; bars reach from the lowest seed to the highest."
    write_chart(grid(panels, title, text=text), path.with_suffix(""))


def curve(
    runs: Sequence[Mapping[str, Any]], study: Study, names: Sequence[str], size: str
) -> list[tuple[float, list[float]]]:
    """Gather the size of some networks, the mean over seeds, and their quality by seed."""
    groups = [[run for run in runs if run["name"] == name] for name in names]
    return [
        (fmean(run[size] for run in group), [study.shown(run["test"]) for run in group])
        for group in groups
        if group
    ]


def panel(curves: Curves, size: str, measure: str, looks: Mapping[str, int]) -> Spec:
    """Draw quality against one way to count."""
    ticks = [at for at, _ in curves["dense"]]
    chart = lines(
        curve_rows(curves),
        x=channel("at", size, ",.0f", ticks=ticks, type="log", nice=False, padding=14),
        y=channel("value", measure),
        looks=looks,
        ends=bars,
    )
    return still(chart, "", width=320, height=260)


def main() -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(STUDIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", type=Path, default=Path("runs/gradual"))
    parser.add_argument("--steps", type=int, help="of every training; the study's own by default")
    parser.add_argument("--finished", action="store_true")
    parser.add_argument("--controls", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--figures-only", action="store_true", help="draw what the results hold")
    given = vars(parser.parse_args())
    if given.pop("figures_only"):
        draw(RESULTS / f"gradual_{given['name']}.json", STUDIES[given["name"]]())
        return
    run(**given)


if __name__ == "__main__":
    main()
