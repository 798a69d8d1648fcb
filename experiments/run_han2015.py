"""Run the study of Han et al. (2015), write its figures and draw its pictures.

Run this twice at once to use two cores: both share the store, and both write the same results.

    python experiments/run_han2015.py lenet_300_100 fashion-mnist
    python experiments/run_han2015.py lenet5 mnist --set l1=true
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from boxwood import Experiment
from boxwood._internal.cli.execute import execute
from boxwood._internal.cli.target import resolve
from boxwood._internal.report.charts.curves import (
    OVER_SEEDS,
    Curves,
    against_remaining,
    sensitivity_chart,
)
from boxwood._internal.report.charts.export import still, write_chart
from boxwood._internal.report.verdicts import in_every_seed
from boxwood.phases import Scan
from boxwood.runs import Finding, Store, jobs_of

HERE = Path(__file__).parent
WANTED = (
    "L2 iterative", "L2 one-step", "L2 not retrained", "L1 iterative", "L1 not retrained", "L1 alone not retrained",
)  # fmt: skip
STUDIES = (
    ("lenet_300_100", "fashion-mnist"),
    ("lenet_300_100", "mnist"),
    ("lenet5", "mnist"),
    ("lenet5", "fashion-mnist"),
)


def study(net: str, data: str, seeds: int, store: Path, settings: Sequence[str]) -> None:
    """Run one study to its end and leave NAME.json and NAME-*.png in one folder."""
    name = f"han2015_{net}_{data}".replace("-", "_")
    experiment = resolve(f"{HERE / 'han2015.py'}:{net}", data, settings)
    execute(
        experiment,
        store=store,
        seeds=range(seeds),
        threads=1,
        out=HERE / "results" / f"{name}.json",
    )
    path = HERE / "results" / f"{name}.json"
    report = json.loads(path.read_text())
    scans = scans_of(experiment, range(seeds), Store(store))
    report["scans"] = [{key: scan[key] for key in ("dense", "curves")} for scan in scans]
    found = first_convolution_most_sensitive(scans, experiment.model())
    if found is not None:
        report["findings"].append(asdict(found))
        print(f"{'holds' if found.held else 'FAILS'}: {found.claim} ({found.evidence})")
    path.write_text(json.dumps(report, indent=1) + "\n")
    draw(net, data)


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


def draw(net: str, data: str) -> None:
    """Draw the trade-off, and the sensitivity of seed 0 where the results hold scans."""
    path = HERE / "results" / f"han2015_{net}_{data}.json".replace("-", "_")
    if not path.exists():
        print(f"{path.name} is not there; run its study first")
        return
    report = json.loads(path.read_text())
    title = f"{net} on {data}"
    chart = still(against_remaining(curves(report["runs"])), f"{title}, {len(report['seeds'])} seeds", text=OVER_SEEDS)  # fmt: skip
    write_chart(chart, path.with_name(f"{path.stem}-trade-off"))
    for scan in report.get("scans", [])[:1]:
        rows = [
            {"series": layer, "sparsity": s, "accuracy": a, "low": a, "high": a}
            for layer, line in scan["curves"].items() for s, a in line
        ]  # fmt: skip
        chart = sensitivity_chart(rows, scan["dense"], "validation accuracy")
        chart = still(chart, f"{title}, seed 0", text="Dashed: the dense network.")
        write_chart(chart, path.with_name(f"{path.stem}-sensitivity"))


def curves(runs: Sequence[Mapping[str, Any]]) -> Curves:
    """Gather the accuracies of all seeds by curve and by the fraction of weights kept."""
    points: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        points[run["name"].rpartition(" ")[0]][run["name"]].append(run)
    return {
        curve: [
            (fmean(run["kept"] for run in group), [run["test"] for run in group])
            for group in points[curve].values()
        ]
        for curve in WANTED
        if curve in points
    }


def main() -> None:
    """Run one study, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", nargs="?", help="lenet_300_100 or lenet5; all studies by default")
    parser.add_argument("data", nargs="?", default="fashion-mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--store", type=Path, default=Path("runs/han2015"))
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--figures-only", action="store_true", help="draw what the results hold")
    given = parser.parse_args()
    for net, data in STUDIES if given.net is None else ((given.net, given.data),):
        if given.figures_only:
            draw(net, data)
        else:
            study(net, data, given.seeds, given.store, given.settings)


if __name__ == "__main__":
    main()
