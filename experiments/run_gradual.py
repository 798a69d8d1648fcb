"""Run the studies of gradual pruning, judge them, and draw quality against size.

python experiments/run_gradual.py language_model --seeds 3 --no-controls
python experiments/run_gradual.py language_model --seeds 3
python experiments/run_gradual.py mobilenet --seeds 3
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from pathlib import Path
from statistics import fmean

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
    loss,
    mobilenet,
)

from boxwood import Experiment
from boxwood._internal.model.prunable import Layers
from boxwood._internal.recipes.gradual import Size
from boxwood._internal.recipes.gradual_networks import LANGUAGE_MODEL, MOBILENET
from boxwood._internal.report import statistics
from boxwood._internal.report.figures import house_style, write_figure
from boxwood._internal.report.study import (
    Finding,
    Measurement,
    by_seed,
    collect,
    facts_by_seed,
    kept_answers,
)
from boxwood._internal.report.verdicts import compared, corrected, enough_hold
from boxwood._internal.runs.provenance import provenance
from boxwood._internal.runs.runner import jobs_of, run_all
from boxwood._internal.runs.store import Store

HERE = Path(__file__).parent
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
        shown: what the figure shows.
        measure: its name.
    """

    experiments: tuple[Experiment, ...]
    sizes: tuple[str, ...]
    layers: Layers
    what: str
    shown: Callable[[Measurement], float]
    measure: str


STUDIES = {
    "language_model": lambda: Study(
        tuple(language_model(units) for units in UNITS),
        tuple(map(str, UNITS)),
        LANGUAGE_MODEL,
        "loss",
        lambda each: exp(loss(each)),
        "test perplexity",
    ),
    "mobilenet": lambda: Study(
        tuple(mobilenet(width) for width in WIDTHS),
        tuple(map(str, WIDTHS)),
        MOBILENET,
        "right",
        lambda each: 100 * each.test,
        "test accuracy [%]",
    ),
}


def run(name: str, seeds: int, store: Path, *, controls: bool, finished: bool) -> None:
    """Run one study to its end, seed after seed, and leave its figures beside this file.

    With ``finished`` it runs nothing, and tells of the networks that are in the store.
    """
    torch.set_num_threads(1)
    study = STUDIES[name]()
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
    path = HERE / "results" / f"gradual_{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    picture(measured, study, prunable, f"{name.replace('_', ' ')}, {seeds} seeds", path)
    for finding in findings:
        print(f"{finding.word}: {finding.claim} ({finding.evidence})")


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
            study.measure: str(statistics.mean([study.shown(each) for each in group])),
            "nonzero": round(fmean(each.facts["nonzero"] for each in group)),
            "parameters": group[0].facts["parameters"],
            **{
                size: round(fmean(sizes(each, prunable)[size] for each in group))
                for size in ("bit_mask_bytes", "csr_bytes")
            },
        }
    return rows


def picture(
    measured: Sequence[Measurement], study: Study, prunable: int, title: str, path: Path
) -> None:
    """Draw quality against non-zeros and against bytes; a bar spans the seeds."""
    curves = {
        "dense": [f"{DENSE} {size}" for size in study.sizes],
        "large, pruned": [
            f"{DENSE} {study.sizes[-1]}",
            "80 %",
            *(f"{kind} {size}" for kind in (AS, BYTES) for size in study.sizes[:-1]),
        ],
    }
    axes_of = {
        "non-zeros": {"": lambda each: each.facts["nonzero"]},
        "bytes": {
            "bit mask": lambda each: sizes(each, prunable)["bit_mask_bytes"],
            "CSR": lambda each: sizes(each, prunable)["csr_bytes"],
        },
    }
    with house_style():
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullLocator

        figure = Figure(figsize=(9.2, 4.0))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (size, forms) in zip(panels, axes_of.items(), strict=True):
            for position, (curve, names) in enumerate(curves.items()):
                groups = [list(by_seed(measured, name).values()) for name in names]
                groups = [group for group in groups if group]
                for dash, (form, sized) in zip(("-", "--"), forms.items(), strict=False):
                    if position == 0 and dash != "-":
                        continue  # a dense network has one size
                    points = sorted(
                        (fmean(map(sized, group)), [study.shown(each) for each in group])
                        for group in groups
                    )
                    means = [fmean(values) for _, values in points]
                    reach = [
                        [fmean(values) - min(values) for _, values in points],
                        [max(values) - fmean(values) for _, values in points],
                    ]
                    axes.errorbar(
                        [at for at, _ in points],
                        means,
                        yerr=reach,
                        color=("#0072B2", "#D55E00")[position],
                        marker=("o", "s")[position],
                        linestyle=dash,
                        capsize=2,
                        label=f"{curve}, {form}" if form and position else curve,
                    )
            dense = [fmean(map(sized, by_seed(measured, n).values())) for n in curves["dense"]]
            axes.set_xscale("log")
            axes.set_xticks(dense, [f"{at:,.0f}" for at in dense])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(f"{size}, ticks at the dense networks")
            axes.legend()
        panels[0].set_ylabel(study.measure)
        figure.suptitle(f"{title}; mean, and range over seeds", x=0.01, horizontalalignment="left")
        write_figure(figure, path.with_suffix(""))


def main() -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(STUDIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", type=Path, default=Path("runs/gradual"))
    parser.add_argument("--finished", action="store_true")
    parser.add_argument("--controls", action=argparse.BooleanOptionalAction, default=True)
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
