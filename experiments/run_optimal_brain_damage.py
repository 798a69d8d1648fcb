"""Run the study of Optimal Brain Damage, hold it to its pass rule, and draw its picture.

Run this twice at once to use two cores: both share the store, and both write the same results.

    python experiments/run_optimal_brain_damage.py
"""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from boxwood import BoxwoodError, Experiment
from boxwood._internal.core import spec
from boxwood._internal.core.examples import InBatches
from boxwood._internal.core.surgeon import remove_weights
from boxwood._internal.model.evidence.backpropagation import second_derivative
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.recipes.phase import load_weights_
from boxwood._internal.report.charts.curves import curve_rows
from boxwood._internal.report.charts.export import grid, still, write_chart
from boxwood._internal.report.charts.looks import numbered
from boxwood._internal.report.charts.marks import channel, lines
from boxwood._internal.report.estimates import over_seeds
from boxwood._internal.report.verdicts import exceeds, in_every_seed
from boxwood._internal.runs.provenance import provenance
from boxwood.layers import linear_and_conv
from boxwood.phases import Descend, Measure, Predict
from boxwood.runs import Finding, Job, Store, jobs_of, run_all
from boxwood.training import squared_error

HERE = Path(__file__).parent
STUDY = HERE / "optimal_brain_damage.py"
INPUTS = ("standardised", "one_mean", "shifted")
DRAWS = ("random", "random 1", "random 2")
GRADIENT = 1e-6  # of the study, at which a network is at a minimum
SHOWN = 1e-2  # the decay of the picture
FIRST = 0.1  # fraction deleted that is drawn
PREDICTED = "OBD, predicted"
RISES = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 10)
NAME = re.compile(r"(?P<criterion>.+) (?P<how>at once|retrained), decay (?P<decay>\S+) / seed .*")


@dataclass(frozen=True)
class Row:
    """One criterion on one network: without retraining a curve, with it a measurement per level.

    Args:
        curve: (sparsity, deleted weights, predicted rise, training loss) each, or with retraining
            (sparsity, training loss, test errors, test examples).
        loss: training loss before; with the penalty, where nothing is retrained.
        gradient: norm of the gradient of the loss with its penalty, before.
    """

    inputs: str
    decay: float
    criterion: str
    how: str
    seed: int
    loss: float
    gradient: float
    curve: list[list[float]]


def collect(experiment: Experiment, inputs: str, seeds: range, store: Store) -> list[Row]:
    """Read the finished runs of one experiment."""
    return [_row(job, inputs, store) for job in jobs_of(experiment, seeds)]


def _row(job: Job, inputs: str, store: Store) -> Row:
    name = NAME.fullmatch(job.name)
    if name is None:
        raise BoxwoodError(f"Expected a name such as 'OBD at once, decay 0', got {job.name!r}.")
    curve: list[list[float]] = []
    losses: list[float] = []
    gradients: list[float] = []
    for phase, key in zip(job.recipe, job.chain[1:], strict=True):
        facts = store.record(key)["facts"]
        if isinstance(phase, Descend):
            losses.append(facts["loss"])
            gradients.append(facts["gradient"])
        elif isinstance(phase, Predict):
            losses, curve = [facts["loss"]], facts["deletions"]
        elif isinstance(phase, Measure):
            total, correct = facts["test"]["total"], facts["test"]["correct"]
            curve.append([1 - facts["kept"] / facts["weights"], losses[-1], total - correct, total])
    return Row(inputs, float(name["decay"]), name["criterion"], name["how"], job.genesis.seed, losses[0], gradients[0], curve)  # fmt: skip


def findings(rows: list[Row], exact: list[float], quadratic: float) -> list[Finding]:
    """The pass rule of the study, for each strength of decay, and what an offset does to it."""
    found = [
        Finding(
            "(i) back-propagated second derivatives are the explicit ones",
            max(exact) < 1e-6,
            f"largest difference relative to the largest entry, over seeds: {max(exact):.1e}",
        ),
        Finding("(v) OBS is exact on a quadratic", quadratic < 1e-9, f"error {quadratic:.1e}"),
    ]
    for decay in sorted({row.decay for row in rows}):

        def rises(criterion: str, at: float, inputs: str = "standardised") -> list[float]:
            return [_at(r, at)[3] - r.loss for r in _pick(rows, inputs, decay, criterion)]  # noqa: B023

        def ratios(at: float, inputs: str = "standardised") -> list[float]:
            picked = _pick(rows, inputs, decay, "OBD")  # noqa: B023
            return [_at(r, at)[2] / (_at(r, at)[3] - r.loss) for r in picked]

        with_decay = f"decay {decay:g}"
        for at in (0.4, 0.5, 0.6):
            obd, size = rises("OBD", at), rises("magnitude", at)
            # The least of each seed's draws.
            chance = [min(draws) for draws in zip(*(rises(c, at) for c in DRAWS), strict=True)]
            triples = list(zip(obd, size, chance, strict=True))
            medians = ", ".join(f"{median(each):.3f}" for each in (obd, size, chance))
            found += [
                in_every_seed(
                    f"(ii) OBD < magnitude at {at:.0%} deleted, {with_decay}",
                    [b - a for a, b, _ in triples],
                    f"rise of the loss, median, OBD, magnitude, best of {len(DRAWS)} random: "
                    f"{medians}",
                ),
                in_every_seed(
                    f"(ii) OBD below a third of random at {at:.0%} deleted, {with_decay}",
                    [c - 3 * a for a, _, c in triples],
                ),
                in_every_seed(
                    f"(ii) magnitude below a third of random at {at:.0%} deleted, {with_decay}",
                    [c - 3 * b for _, b, c in triples],
                ),
            ]
        low, high = ratios(0.1), ratios(0.6)
        slopes = [r.gradient for r in _pick(rows, "standardised", decay, "OBD")]
        arrived = max(slopes) <= GRADIENT
        place = "at a minimum" if arrived else "not at a minimum"
        parts = [
            rise / r.loss
            for rise, r in zip(rises("OBD", 0.1), _pick(rows, "standardised", decay, "OBD"), strict=True)
        ]  # fmt: skip
        found.append(
            in_every_seed(
                f"(iii) the prediction tracks to 10%, {with_decay}, {place}",
                [min(1.5 - each, each - 0.67) for each in low],
                f"predicted / actual at 10%: {_range(low)}; 20%: {_range(ratios(0.2))}; "
                f"30%: {_range(ratios(0.3))}; 60%: {_range(high)}; the rise at 10% is "
                f"{_range(parts)} of the loss; gradient {min(slopes):.0e} to {max(slopes):.0e}",
            )
        )
        for inputs in INPUTS[1:] if _pick(rows, INPUTS[1], decay, "OBD") else ():
            offset, centred = rises("OBD", 0.5, inputs), rises("OBD", 0.5)
            size = rises("magnitude", 0.5, inputs)
            wins = sum(a < b for a, b in zip(offset, size, strict=True))
            found.append(
                in_every_seed(
                    f"an offset of the inputs makes OBD's prediction fail, {inputs}, {with_decay}",
                    [min(ratios(0.5)) - each for each in ratios(0.5, inputs)],
                    f"predicted / actual at 50%: {_range(ratios(0.5, inputs))} with it, "
                    f"{_range(ratios(0.5))} without; rise, median: {median(offset):.3f} and "
                    f"{median(centred):.3f}; with it OBD is below magnitude ({median(size):.3f}) "
                    f"in {wins} of {len(offset)} seeds",
                )
            )
        retrained = _pick(rows, "standardised", decay, "OBD", "retrained")
        if retrained:
            changes = [100 * (_at(r, 0.6)[2] - r.curve[0][2]) / r.curve[0][3] for r in retrained]
            found.append(
                exceeds(
                    f"(iv) deleted and retrained to 60%, test error within 0.5 points, {with_decay}",
                    over_seeds([-each for each in changes]),
                    -0.5,
                )
            )
    return found


def _pick(
    rows: list[Row], inputs: str, decay: float, criterion: str, how: str = "at once"
) -> list[Row]:
    wanted = (inputs, decay, criterion, how)
    return [r for r in rows if (r.inputs, r.decay, r.criterion, r.how) == wanted]


def _at(row: Row, sparsity: float) -> list[float]:
    return min(row.curve, key=lambda point: abs(point[0] - sparsity))


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def against_explicit_hessian(experiment: Experiment, seed: int, store: Store) -> float:
    """Compare the diagonals on the trained network, relative to the largest entry."""
    job = jobs_of(experiment, range(seed, seed + 1))[0]
    model = experiment.model()
    load_weights_(model, store.load(job.chain[1]).weights)
    inputs, targets = next(iter(InBatches(experiment.data().train, 2048)))
    weights = linear_and_conv(model)
    seen = Calibration(model, weights, [(inputs, targets)], squared_error)
    claimed = torch.cat([each.flatten() for each in second_derivative(seen).values()])
    loss = squared_error(model(inputs), targets)
    slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    explicit = []
    for slope, weight in zip(slopes, weights.values(), strict=True):
        for k, each in enumerate(slope.flatten()):
            (row,) = torch.autograd.grad(each, weight, retain_graph=True)
            explicit.append(row.flatten()[k])
    difference = (torch.stack(explicit) - claimed).abs().max()
    return float(difference / torch.stack(explicit).abs().max())


def surgery_on_a_quadratic() -> float:
    """Delete half of 20 weights; compare rise and weights with the constrained minimum."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(20, 40, dtype=torch.float64, generator=generator)
    hessian = root @ root.T / 40
    minimum = torch.randn(20, dtype=torch.float64, generator=generator)
    done = remove_weights(minimum, torch.linalg.inv(hessian), 10)
    kept = done.mask
    best = torch.zeros_like(minimum)
    best[kept] = torch.linalg.solve(hessian[kept][:, kept], (hessian @ minimum)[kept])
    step = done.weight - minimum
    rise = 0.5 * step @ hessian @ step
    return float(max((done.weight - best).abs().max(), (rise - done.rise.sum()).abs()))


def draw(path: Path) -> None:
    """Rise of the loss for each kind of inputs, and the test error with retraining."""
    rows = [Row(**run) for run in json.loads(path.read_text())["runs"]]
    criteria = ("OBD", "magnitude", DRAWS[0])
    deleted = channel("at", "deleted", "~%", ticks=(0.2, 0.4, 0.6, 0.8))
    rise = channel("value", "rise of the penalised loss", "~r", ticks=RISES, type="log", domain=[1e-5, 30])  # fmt: skip
    looks = numbered([*criteria, PREDICTED])
    panels = []
    for inputs in INPUTS:
        curves = {
            each: _curve(_pick(rows, inputs, SHOWN, each), lambda p, r: p[3] - r.loss)
            for each in criteria
        } | {PREDICTED: _curve(_pick(rows, inputs, SHOWN, "OBD"), lambda p, _: p[2])}
        chart = lines(curve_rows(curves, median), x=deleted, y=rise, looks=looks)
        panels.append(still(chart, f"Inputs: {inputs.replace('_', ' ')}", width=280, height=220))
    curves = {
        each: _curve(
            _pick(rows, "standardised", SHOWN, each, "retrained"), lambda p, _: p[2] / p[3]
        )
        for each in criteria
    }
    error = channel("value", "test error", "~%")
    chart = lines(curve_rows(curves, median), x=deleted, y=error, looks=looks)
    panels.append(still(chart, "Retrained each time", width=280, height=220))
    seeds = len({row.seed for row in rows})
    text = f"Median of {seeds} seeds; bands reach from the lowest to the highest."
    chart = grid(panels, f"Optimal Brain Damage on digits, decay {SHOWN:g}", text=text)
    write_chart(chart, path.with_suffix(""))


def _curve(
    rows: list[Row], of: Callable[[list[float], Row], float]
) -> list[tuple[float, list[float]]]:
    """Gather one number of the rows at each fraction that was deleted, as a log axis has it."""
    return [
        (points[0][0], [max(RISES[0], of(p, r)) for p, r in zip(points, rows, strict=True)])
        for points in zip(*(row.curve for row in rows), strict=True)
        if points[0][0] >= FIRST or rows[0].how == "retrained"
    ]


def main() -> None:
    """Run, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--store", type=Path, default=Path("runs/optimal_brain_damage"))
    parser.add_argument("--figures-only", action="store_true", help="draw what the results hold")
    given = parser.parse_args()
    path = HERE / "results" / "optimal_brain_damage.json"
    if given.figures_only:
        draw(path)
        return
    torch.set_num_threads(1)
    store, seeds = Store(given.store), range(given.seeds)
    rows: list[Row] = []
    experiments = {inputs: spec.load(f"{STUDY}:{inputs}")() for inputs in INPUTS}
    for inputs, experiment in experiments.items():
        run_all(jobs_of(experiment, seeds), store)
        rows += collect(experiment, inputs, seeds, store)
    exact = [against_explicit_hessian(experiments["standardised"], seed, store) for seed in seeds]
    judged = findings(rows, exact, surgery_on_a_quadratic())
    for finding in judged:
        word = {True: "holds", False: "FAILS", None: "undecided"}[finding.held]
        print(f"{word}: {finding.claim} ({finding.said})")
    report = {
        "seeds": list(seeds),
        "findings": [asdict(each) for each in judged],
        "machine": provenance(),
    }
    runs = ",\n  ".join(json.dumps(asdict(row)) for row in rows)
    path.write_text(f'{json.dumps(report, indent=1)[:-2]},\n "runs": [\n  {runs}\n ]\n}}\n')
    draw(path)


if __name__ == "__main__":
    main()
