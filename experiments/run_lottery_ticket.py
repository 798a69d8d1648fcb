"""Run the study of lottery tickets, write its figures and draw its curves.

python experiments/run_lottery_ticket.py lenet_300_100 --data fashion-mnist --seeds 6 --workers 2
python experiments/run_lottery_ticket.py lenet_300_100 --data mnist --set steps=12000 --seeds 9
python experiments/run_lottery_ticket.py ablations --data mnist
python experiments/run_lottery_ticket.py conv_2_scaled --seeds 5 --workers 2
python experiments/run_lottery_ticket.py conv_2_scaled --set images=15000 --first-seed 10 --name conv_2_15000
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lottery_ticket import PREFIXES, stops, verdicts

from boxwood import Experiment
from boxwood._internal.cli.execute import execute
from boxwood._internal.cli.target import resolve
from boxwood._internal.report.charts.curves import (
    OVER_SEEDS,
    Curves,
    against_remaining,
    numbers_against_remaining,
)
from boxwood._internal.report.charts.export import still, write_chart
from boxwood.phases import Interpolate
from boxwood.runs import Store, jobs_of

HERE = Path(__file__).parent
CURVES = tuple(prefix + kind for prefix in PREFIXES for kind in ("ticket", "reinit", "random"))


def study(
    net: str,
    data: str | None,
    seeds: int,
    first_seed: int,
    workers: int,
    store: Path,
    settings: list[str],
    name: str | None,
) -> None:
    """Run to the end and leave NAME.json, NAME-accuracy.* and NAME-steps.* in one folder."""
    name = "_".join(["lottery", name or net, *([data] if data else [])]).replace("-", "_")
    experiment = resolve(f"{HERE / 'lottery_ticket.py'}:{net}", data, settings)
    out = HERE / "results" / f"{name}.json"
    wanted = range(first_seed, first_seed + seeds)
    measured = execute(
        experiment,
        store=store,
        seeds=wanted,
        threads=1,
        workers=workers,
        out=out,
    )
    report = json.loads(out.read_text())
    report["early_stops"] = {
        each: {seed: asdict(stop) for seed, stop in stops(measured, each).items()}
        for each in dict.fromkeys(m.name for m in measured)
    }
    report["verdicts"] = [
        {"prefix": prefix, "control": control, "level": level, "kept": kept, **asdict(found)}
        for prefix in PREFIXES
        for control in ("reinit", "random")
        for level, kept, found in verdicts(measured, prefix, control)
    ]
    if found := lines(experiment, wanted, Store(store)):
        report["lines"] = found
    out.write_text(json.dumps(report, indent=1) + "\n")
    draw(out)


def lines(experiment: Experiment, seeds: range, store: Store) -> dict[int, list[dict[str, Any]]]:
    """Read what was measured on the line between two copies of the dense network, by seed."""
    return {
        job.genesis.seed: store.record(key)["facts"]["line"]
        for job in jobs_of(experiment, seeds)
        for phase, key in zip(job.recipe, job.chain[1:], strict=True)
        if isinstance(phase, Interpolate)
    }


def draw(path: Path) -> None:
    """Draw the accuracy at early stop, and the step of it, against the weights kept."""
    report = json.loads(path.read_text())
    title = f"{path.stem.replace('_', ' ')}, {len(report['seeds'])} seeds"
    accuracy = against_remaining(curves(report, "test"), "test accuracy at early stop")
    steps = numbers_against_remaining(curves(report, "step"), "step of minimum validation loss")
    for what, chart in (("accuracy", accuracy), ("steps", steps)):
        write_chart(still(chart, title, text=OVER_SEEDS), path.with_name(f"{path.stem}-{what}"))


def curves(report: Mapping[str, Any], what: str) -> Curves:
    """Gather one number of the early stops by curve and weights kept."""
    kept = {run["name"]: run["kept"] for run in report["runs"]}
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, by_seed in report["early_stops"].items():
        curve = next((c for c in CURVES if name.startswith(c)), None)
        if curve is not None:
            found[curve][kept[name]] += [stop[what] for stop in by_seed.values() if stop["test"]]
    return {curve: list(found[curve].items()) for curve in CURVES if curve in found}


def main() -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", nargs="?", help="lenet_300_100, ablations or conv_2_scaled")
    parser.add_argument("--data", help="such as fashion-mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="those before were looked at")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", type=Path, default=Path("runs/lottery"))
    parser.add_argument("--name", help="of the result, for settings that are not the default")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--figures-only", action="store_true", help="draw the results of all")
    given = vars(parser.parse_args())
    if given.pop("figures_only"):
        for path in sorted((HERE / "results").glob("lottery_*.json")):
            draw(path)
        return
    study(**given)


if __name__ == "__main__":
    main()
