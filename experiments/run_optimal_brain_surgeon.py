"""Run the study of Optimal Brain Surgeon, and draw how far each method prunes.

    python experiments/run_optimal_brain_surgeon.py

It needs neither data nor a store. Twelve seeds of MONK's problems and thirty of XOR take some 5 CPU minutes.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from optimal_brain_surgeon import METHODS, PROBLEMS, deletable, path, smallest, trained

from boxwood._internal.report.charts.curves import curve_rows
from boxwood._internal.report.charts.export import grid, still, write_chart
from boxwood._internal.report.charts.looks import numbered
from boxwood._internal.report.charts.marks import bars, channel, lines
from boxwood._internal.runs.provenance import provenance

OUT = Path(__file__).parent / "results" / "optimal_brain_surgeon.json"
SHOWN = tuple(name for name in METHODS if name.endswith("retrained"))


def study(seeds: int, xor_seeds: int) -> None:
    """Run all of it and leave optimal_brain_surgeon.json and its picture in one folder.

    The file is written again after each seed, so that a study that was stopped leaves what it has.
    """
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for seed in range(max(seeds, xor_seeds)):
        for problem in PROBLEMS:
            if seed < (xor_seeds if problem == "xor" else seeds):
                rows += measured(problem, seed)
        print(f"seed {seed}", flush=True)
        write(rows)
    draw()


def measured(problem: str, seed: int) -> Iterator[dict[str, Any]]:
    """Prune one network by every method; a row for each."""
    what = PROBLEMS[problem](seed)
    dense = trained(what, seed)
    alive = sum(deletable(what, dense)) if problem == "xor" else None
    for method, (_, again) in METHODS.items():
        points = path(what, dense, method)
        least = smallest(points)
        yield {
            "name": f"{problem}: {method}",
            "seed": seed,
            "weights": what.weights,
            # Of the smallest network that is as good on the training examples as the dense one.
            "left": least.left,
            "test": least.test,
            "test_dense": points[0].test,
            "gradient": max(point.gradient for point in (points if again else points[:1])),
            # How many of the dense network's weights can go, each by itself, with retraining.
            **({} if alive is None else {"deletable": alive}),
            # Weights left, loss, predicted rise, training and test examples answered rightly.
            "curve": [
                [
                    each.left,
                    *(_short(v) for v in (each.loss, each.predicted, each.right, each.test)),
                ]
                for each in points
            ],
        }


def _short(value: float | None) -> float | None:
    """Six digits: a results file is read by people too."""
    return None if value is None else float(f"{value:.6g}")


def write(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the results, a line for each run."""
    report = {"seeds": sorted({row["seed"] for row in rows}), "machine": provenance()}
    runs = ",\n  ".join(json.dumps(row) for row in rows)
    OUT.write_text(f'{json.dumps(report, indent=1)[:-2]},\n "runs": [\n  {runs}\n ]\n}}\n')


def draw() -> None:
    """Draw the test accuracy against the weights that are left."""
    report = json.loads(OUT.read_text())
    panels = []
    for problem in PROBLEMS:
        curves: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in report["runs"]:
            of, _, method = row["name"].partition(": ")
            if of == problem and method in SHOWN:
                for left, *_, test in row["curve"]:
                    curves[method][left].append(test)
        rows = curve_rows({name: sorted(points.items()) for name, points in curves.items()})
        chart = lines(
            rows,
            x=channel("at", "weights left", "~s"),
            y=channel("value", "test accuracy", "~%"),
            looks=numbered(SHOWN),
            ends=bars,
        )
        panels.append(still(chart, problem.replace("monk", "MONK's").replace("xor", "XOR"), width=280, height=200))  # fmt: skip
    text = "Means over seeds; bars reach from the lowest seed to the highest."
    write_chart(grid(panels, "Optimal Brain Surgeon", text=text), OUT.with_suffix(""))


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--xor-seeds", type=int, default=30)
    parser.add_argument("--figures-only", action="store_true", help="draw what the results hold")
    given = vars(parser.parse_args())
    if given.pop("figures_only"):
        draw()
        return
    study(**given)


if __name__ == "__main__":
    main()
