"""Run the study of lottery tickets, write its figures and draw its curves.

python experiments/run_lottery_ticket.py lenet_300_100 --data fashion-mnist --seeds 5 --workers 2
python experiments/run_lottery_ticket.py lenet_300_100 --data mnist --set steps=12000
python experiments/run_lottery_ticket.py conv_2_scaled --seeds 5 --workers 2
python experiments/run_lottery_ticket.py conv_2_scaled --set images=15000 --first-seed 10 --name conv_2_15000
"""

import argparse
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from lottery_ticket import LARGE, LATE, stops, verdicts

from boxwood._internal.cli.execute import execute
from boxwood._internal.cli.target import resolve
from boxwood._internal.report.curves import stopping, trade_off
from boxwood._internal.report.study import Measurement

HERE = Path(__file__).parent
CURVES = tuple(
    prefix + kind for prefix in ("", LATE, LARGE) for kind in ("ticket", "reinit", "random")
)
Curves = dict[str, list[tuple[float, tuple[float, ...]]]]


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
    """Run to the end and leave NAME.json, NAME-accuracy.* and NAME-steps.* beside each other."""
    name = "_".join(["lottery", name or net, *([data] if data else [])]).replace("-", "_")
    experiment = resolve(f"{HERE / 'lottery_ticket.py'}:{net}", data, settings)
    out = HERE / "results" / f"{name}.json"
    measured = execute(
        experiment,
        store=store,
        seeds=range(first_seed, first_seed + seeds),
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
        for prefix in ("", LATE, LARGE)
        for control in ("reinit", "random")
        for level, kept, found in verdicts(measured, prefix, control)
    ]
    out.write_text(json.dumps(report, indent=1) + "\n")
    title = f"{net} on {experiment.data().name}, {seeds} seeds"
    accuracies, steps = curves(measured)
    trade_off(accuracies, title=f"{title}: at early stop", path=out.with_name(f"{name}-accuracy"))
    stopping(steps, title=title, path=out.with_name(f"{name}-steps"))


def curves(measured: tuple[Measurement, ...]) -> tuple[Curves, Curves]:
    """Gather test accuracies at early stop, and its steps, by curve and weights kept."""
    found: dict[str, dict[float, list[tuple[float, int]]]] = defaultdict(lambda: defaultdict(list))
    for name in dict.fromkeys(each.name for each in measured):
        curve = next((c for c in CURVES if name.startswith(c)), None)
        kept = next(each.kept_fraction for each in measured if each.name == name)
        if curve is not None:
            points = [
                (s.test, s.step) for s in stops(measured, name).values() if s.test is not None
            ]
            found[curve][kept] += points
    return tuple(
        {
            curve: [(kept, tuple(each[part] for each in at)) for kept, at in found[curve].items()]
            for curve in CURVES
            if curve in found
        }
        for part in (0, 1)
    )


def main() -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", help="lenet_300_100 or conv_2_scaled")
    parser.add_argument("--data", help="such as fashion-mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="those before were looked at")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", type=Path, default=Path("runs/lottery"))
    parser.add_argument("--name", help="of the result, for settings that are not the default")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    study(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
