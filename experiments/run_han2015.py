"""Run the study of Han et al. (2015), write its figures and draw its pictures.

Run this twice at once to use two cores: both share the store, and both write the same results.

    python experiments/run_han2015.py lenet_300_100 fashion-mnist
"""

import argparse
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from boxwood._internal.cli.execute import execute
from boxwood._internal.cli.target import resolve
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.recipes.phases.scan import Scan
from boxwood._internal.report.curves import sensitivity, trade_off
from boxwood._internal.report.study import Finding, Measurement
from boxwood._internal.report.verdicts import in_every_seed
from boxwood._internal.runs.runner import jobs_of
from boxwood._internal.runs.store import Store

HERE = Path(__file__).parent
STUDIES = (
    ("lenet_300_100", "fashion-mnist"),
    ("lenet_300_100", "mnist"),
    ("lenet5", "fashion-mnist"),
)


def study(net: str, data: str, seeds: int, store: Path) -> None:
    """Run one study to its end and leave NAME.json and NAME-*.png beside each other."""
    name = f"han2015_{net}_{data}".replace("-", "_")
    experiment = resolve(f"{HERE / 'han2015.py'}:{net}", data)
    measured = execute(
        experiment,
        store=store,
        seeds=range(seeds),
        threads=1,
        out=HERE / "results" / f"{name}.json",
    )
    title = f"{net} on {data}, {seeds} seeds"
    trade_off(curves(measured), title=title, path=HERE / "results" / f"{name}-trade-off")
    scans = scans_of(experiment, range(seeds), Store(store))
    lines = {n: [(s, a) for s, a in line] for n, line in scans[0]["curves"].items()}
    path = HERE / "results" / f"{name}-sensitivity"
    title = f"{net} on {data}, seed 0"
    sensitivity(lines, dense=scans[0]["dense"], title=title, path=path)
    found = first_convolution_most_sensitive(scans, experiment.model())
    if found is not None:
        path = HERE / "results" / f"{name}.json"
        report = json.loads(path.read_text())
        report["findings"].append(asdict(found))
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(f"{'holds' if found.held else 'FAILS'}: {found.claim} ({found.evidence})")


def scans_of(experiment: Experiment, seeds: range, store: Store) -> list[dict[str, Any]]:
    """Read what the sensitivity scans found, one per seed."""
    return [
        store.record(key)["facts"]
        for job in jobs_of(experiment, seeds)
        for phase, key in zip(job.recipe, job.chain[1:], strict=True)
        if isinstance(phase, Scan)
    ]


def first_convolution_most_sensitive(scans: list[dict[str, Any]], net: nn.Module) -> Finding | None:
    """Compare the first convolution with the largest linear layer: mean accuracy over the grid."""
    weights = {n: p for n, p in net.named_parameters() if p.dim() > 1}
    convolutions = [n for n, p in weights.items() if p.dim() > 2]
    if not convolutions:
        return None
    largest = max((n for n, p in weights.items() if p.dim() == 2), key=lambda n: weights[n].numel())

    def mean_accuracy(scan: dict[str, Any], name: str) -> float:
        return fmean(accuracy for _, accuracy in scan["curves"][name])

    pairs = [(mean_accuracy(s, convolutions[0]), mean_accuracy(s, largest)) for s in scans]
    return in_every_seed(
        f"scan: {convolutions[0]} more sensitive than {largest}",
        [linear - convolution for convolution, linear in pairs],
        f"mean validation accuracy over the grid {100 * fmean(c for c, _ in pairs):.1f} against "
        f"{100 * fmean(f for _, f in pairs):.1f} %",
    )


def curves(measured: tuple[Measurement, ...]) -> dict[str, list[tuple[float, tuple[float, ...]]]]:
    """Gather the accuracies of all seeds by curve and by the fraction of weights kept."""
    points: dict[str, dict[str, list[Measurement]]] = defaultdict(lambda: defaultdict(list))
    for each in measured:
        words = each.branch.split()
        curve = " ".join(words[:-1]) if "one-step" in words else each.branch
        points[curve][each.name].append(each)
    wanted = (
        "L2 iterative",
        "L2 one-step",
        "L2 not retrained",
        "L1 iterative",
        "L1 alone not retrained" if "L1 alone not retrained" in points else "L1 not retrained",
    )
    return {
        curve: [
            (sum(m.kept_fraction for m in group) / len(group), tuple(m.test for m in group))
            for group in points[curve].values()
        ]
        for curve in wanted
        if curve in points
    }


def main() -> None:
    """Run one study, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", nargs="?", help="lenet_300_100 or lenet5; all studies by default")
    parser.add_argument("data", nargs="?", default="fashion-mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--store", type=Path, default=Path("runs/han2015"))
    given = parser.parse_args()
    for net, data in STUDIES if given.net is None else ((given.net, given.data),):
        study(net, data, given.seeds, given.store)


if __name__ == "__main__":
    main()
