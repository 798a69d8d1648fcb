"""Run the study of lottery tickets, write its figures and draw its curves.

python experiments/run_lottery_ticket.py --data fashion-mnist --seeds 5 --workers 2
"""

import argparse
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from lottery_ticket import LARGE, lenet_300_100, stops, verdicts

from boxwood.cli.execute import execute
from boxwood.data.catalogue import named
from boxwood.report.curves import stopping, trade_off
from boxwood.report.study import Measurement

HERE = Path(__file__).parent
CURVES = ("ticket", "reinit", "random", f"{LARGE}ticket", f"{LARGE}reinit")


def study(
    data: str, seeds: int, workers: int, store: Path, steps: int, levels: int, compared: list[int]
) -> None:
    """Run to the end and leave NAME.json, NAME-accuracy.* and NAME-steps.* beside each other."""
    name = f"lottery_lenet_300_100_{data}".replace("-", "_")
    experiment = lenet_300_100(
        named(data), steps=steps, levels=levels, compared=tuple(compared)
    )  # fmt: skip
    out = HERE / "results" / f"{name}.json"
    measured = execute(
        experiment, store=store, seeds=range(seeds), threads=1, workers=workers, out=out
    )
    report = json.loads(out.read_text())
    report["early_stops"] = {
        each: {seed: asdict(stop) for seed, stop in stops(measured, each).items()}
        for each in dict.fromkeys(m.name for m in measured)
    }
    report["verdicts"] = [
        {"prefix": prefix, "control": control, "level": level, "kept": kept, **asdict(found)}
        for prefix, control in (("", "reinit"), ("", "random"), (LARGE, "reinit"))
        for level, kept, found in verdicts(measured, prefix, control)
    ]
    out.write_text(json.dumps(report, indent=1) + "\n")
    title = f"LeNet-300-100 on {data}, {seeds} seeds, J = {steps:,}"
    accuracies, steps_to = curves(measured)
    trade_off(
        accuracies, title=f"{title}: at early stop", path=HERE / "results" / f"{name}-accuracy"
    )
    stopping(steps_to, title=title, path=HERE / "results" / f"{name}-steps")


def curves(measured: tuple[Measurement, ...]) -> tuple[dict, dict]:
    """Test accuracies at early stop, and the steps of early stop, by curve and weights kept."""
    accuracies: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    steps: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name in dict.fromkeys(each.name for each in measured):
        group = [each for each in measured if each.name == name]
        curve = next((c for c in sorted(CURVES, key=len, reverse=True) if name.startswith(c)), None)
        if curve is None:
            continue
        for stop in stops(measured, name).values():
            accuracies[curve][group[0].kept_fraction].append(stop.test)
            steps[curve][group[0].kept_fraction].append(stop.step)
    return tuple(
        {c: [(kept, tuple(v)) for kept, v in points[c].items()] for c in CURVES if c in points}
        for points in (accuracies, steps)
    )


def main() -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--levels", type=int, default=9)
    parser.add_argument("--compared", type=int, nargs="+", default=[7, 9])
    parser.add_argument("--store", type=Path, default=Path("runs/lottery"))
    study(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
