"""Run the study of Han et al. (2015), write its figures and draw its pictures.

Run this twice at once to use two cores: both share the store, and both write the same results.

    python experiments/run_han2015.py lenet_300_100 fashion-mnist
"""

import argparse
from collections import defaultdict
from pathlib import Path

from boxwood.cli.execute import execute
from boxwood.cli.target import resolve
from boxwood.recipes.phases.scan import Scan
from boxwood.report.curves import sensitivity, trade_off
from boxwood.report.study import Measurement
from boxwood.runs.runner import jobs_of
from boxwood.runs.store import Store

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
    for job in jobs_of(experiment, range(1)):
        for phase, key in zip(job.recipe, job.chain[1:], strict=True):
            if isinstance(phase, Scan):
                facts = Store(store).record(key)["facts"]
                lines = {n: [(s, a) for s, a in line] for n, line in facts["curves"].items()}
                path = HERE / "results" / f"{name}-sensitivity"
                sensitivity(lines, dense=facts["dense"], title=f"{title[:-9]}, seed 0", path=path)


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
        "L1 alone not retrained",
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
