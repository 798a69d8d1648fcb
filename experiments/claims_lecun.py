"""The claims of LeCun, Denker and Solla (1990), and of Hassibi and Stork (1993): second derivatives.

The only figures written here are the papers' own.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from result_files import network, rows_of

from boxwood._internal.report.claims import Claim, Fault, NotRun, Report
from boxwood._internal.report.estimates import over_seeds
from boxwood._internal.report.verdicts import all_hold, exceeds, in_every_seed
from boxwood.runs import Finding

Judge = Callable[[Report], Finding]

OTHER_OBJECTIVE = Fault(
    reason="the loss was predicted without the decay that was minimised with it, at a loose minimum",
    commits=("78d5f70",),
)
ONE_DRAW = Fault(reason="one random order for all seeds", commits=("78d5f70",))


def claims() -> list[Claim]:
    """All of them, in the order of the table."""
    return [
        _obd("back-propagated second derivatives equal the explicit ones, to 1e-6", "a formula", partial(_said, start="(i)"), None),
        _obd("OBD raises the loss less than magnitude, at 40 and 50 % deleted", "far less", partial(_below, other="magnitude", times=1, at=(0.4, 0.5)), None),
        _obd("OBD stays below a third of random deletion, at 40 to 60 %", "random off the chart", partial(_below, other="random", times=3, at=(0.4, 0.5, 0.6)), ONE_DRAW),
        _obd("magnitude stays below a third of random deletion, at 40 to 60 %", "random off the chart", partial(_below, ours="magnitude", other="random", times=3, at=(0.4, 0.5, 0.6)), ONE_DRAW),
        _obd("without decay, magnitude stays below a third of random deletion, at 40 to 60 %", "random off the chart", partial(_below, ours="magnitude", other="random", times=3, at=(0.4, 0.5, 0.6), decay=0.0), None),
        _obd("the prediction is good to 10 % deleted, within a factor of 1.5", "good to 30 %", partial(_tracks, at=0.1), OTHER_OBJECTIVE),
        _obd("the prediction is good to 30 % deleted, within a factor of 1.5", "good to 30 %", partial(_tracks, at=0.3), OTHER_OBJECTIVE),
        _obd("deleted and retrained to 60 %, the test error stays within 0.5 points", "holds to 60 % with retraining", _retrained, None),
        _obd("inputs with a common offset make the prediction fail", "our finding: standardise inputs", _offset, OTHER_OBJECTIVE),
        Claim(
            paper="Hassibi and Stork 1993",
            statement="OBS is exact on a quadratic",
            figure="a formula",
            scaled="20 weights",
            file="optimal_brain_damage",
            command="python experiments/run_optimal_brain_damage.py --seeds 8",
            judge=partial(_said, start="(v)"),
        ),
        _obs("OBS always deletes a weight first that XOR does not need", "always right", _right_on_xor, "2-2-1, weight decay"),
        _obs("Optimal Brain Damage sometimes deletes a weight first that XOR needs", "not always right", partial(_wrong_on_xor, method="OBD retrained"), "2-2-1, weight decay"),
        _obs("magnitude sometimes deletes a weight first that XOR needs", "not always right", partial(_wrong_on_xor, method="magnitude retrained"), "2-2-1, weight decay"),
        *(
            _obs(
                f"OBS leaves {words} of the weights or less, within 5 points, MONK's {problem}",
                f"{left} of {weights}, {1 - left / weights:.0%} fewer",
                partial(_left, problem=problem, published=left),
                "training sets drawn by us, retrained after each deletion",
            )
            for problem, words, left, weights in ((1, "a quarter", 14, 58), (2, "38 %", 15, 39), (3, "a tenth", 4, 39))
        ),
        *(
            _obs(
                f"OBS leaves fewer weights than {words}, all three MONK's problems together",
                "more weights than other methods",
                partial(_fewer, method=method),
                "training sets drawn by us, retrained after each deletion",
            )
            for words, method in (("Optimal Brain Damage", "OBD retrained"), ("magnitude", "magnitude retrained"))
        ),
        _obs("the smallest networks of OBS are as good on all robots as the dense ones, within 0.5 points, MONK's problems", "the same or better", _as_good, "training sets drawn by us, retrained after each deletion"),
    ]  # fmt: skip


def _obs(statement: str, figure: str, judge: Judge, scaled: str) -> Claim:
    return Claim(
        paper="Hassibi and Stork 1993",
        statement=statement,
        figure=figure,
        scaled=scaled,
        file="optimal_brain_surgeon",
        command="python experiments/run_optimal_brain_surgeon.py",
        judge=judge,
    )


def _obd(statement: str, figure: str, judge: Judge, fault: Fault | None) -> Claim:
    return Claim(
        paper="LeCun et al. 1990",
        statement=statement,
        figure=figure,
        scaled="digits of 8 × 8, 64-40-10 with tanh units",
        file="optimal_brain_damage",
        command="python experiments/run_optimal_brain_damage.py --seeds 8",
        judge=judge,
        fault=fault,
    )


MONKS = (1, 2, 3)
OBS = "OBS retrained"
TOLERANCE = (
    5.0  # percent of the weights: training sets and initial values are not the published ones
)


def _first_deletion(report: Report, method: str) -> list[float]:
    """Of each seed, one if XOR is answered rightly after one deletion and retraining, else minus one."""
    rows = network(report, f"xor: {method}").values()
    return [1.0 if row["curve"][1][3] == 1.0 else -1.0 for row in rows]


def _right_on_xor(report: Report) -> Finding:
    some = network(report, f"xor: {OBS}").values()
    each = [row["deletable"] for row in some]
    text = f"{min(each)} to {max(each)} of 9 weights can go"
    return in_every_seed("", _first_deletion(report, OBS), text)


def _wrong_on_xor(report: Report, *, method: str) -> Finding:
    found = _first_deletion(report, method)
    right = in_every_seed("", found)
    held = None if right.held is None else not right.held
    return replace(right, held=held, evidence=f"right {right.evidence}")


def _left(report: Report, *, problem: int, published: int) -> Finding:
    rows = network(report, f"monk {problem}: {OBS}").values()
    counts = [row["left"] for row in rows]
    spare = [100 * (published - row["left"]) / row["weights"] + TOLERANCE for row in rows]
    found = exceeds("", over_seeds(spare), unit="points to spare", digits=1)
    mean = sum(counts) / len(counts)
    text = f"{mean:.1f} weights left, {min(counts)} to {max(counts)}"
    return replace(found, evidence=f"{text}; {found.evidence}")


def _fewer(report: Report, *, method: str) -> Finding:
    """Weights that both leave, of all three problems, seed by seed."""
    ours, theirs = (
        [network(report, f"monk {problem}: {name}") for problem in MONKS] for name in (OBS, method)
    )
    seeds = sorted(set.intersection(*map(set, [*ours, *theirs])))
    sums = [
        [sum(rows[seed]["left"] for rows in group) for seed in seeds] for group in (ours, theirs)
    ]
    more = [b - a for a, b in zip(*sums, strict=True)]
    return exceeds("", over_seeds(more), unit="weights fewer", digits=1)


def _as_good(report: Report) -> Finding:
    rows = [network(report, f"monk {problem}: {OBS}") for problem in MONKS]
    seeds = sorted(set.intersection(*map(set, rows)))
    changes = [
        100 * sum(each[seed]["test"] - each[seed]["test_dense"] for each in rows) / len(rows)
        for seed in seeds
    ]
    return exceeds("", over_seeds(changes), -0.5)


def _said(report: Report, *, start: str) -> Finding:
    """Checks of formulas, in which chance plays no part."""
    found = [each for each in report["findings"] if each["claim"].startswith(start)]
    if not found:
        raise NotRun(f"no check {start} yet")
    return Finding("", found[0]["held"], found[0]["evidence"])


def _rises(
    report: Report,
    criterion: str,
    at: float,
    inputs: str = "standardised",
    decay: float | None = None,
) -> dict[int, tuple[float, float]]:
    """Predicted and actual rise of the loss by seed; of several draws of chance the smallest."""
    rows = [
        row
        for row in rows_of(report, inputs=inputs, how="at once")
        if re.fullmatch(rf"{criterion}( \d+)?", row["criterion"])
        if row["decay"] == (_decay(report) if decay is None else decay)
    ]
    if not rows:
        raise NotRun(f"nothing deleted by {criterion} yet")
    found: dict[int, tuple[float, float]] = {}
    for row in rows:
        _, _, predicted, loss = min(row["curve"], key=lambda point: abs(point[0] - at))
        rise = (predicted, loss - row["loss"])
        found[row["seed"]] = min(rise, found.get(row["seed"], rise), key=lambda each: each[1])
    return found


def _decay(report: Report) -> float:
    """The largest decay: with it there is a minimum to arrive at."""
    return max(row["decay"] for row in rows_of(report, inputs="standardised", how="at once"))


def _below(
    report: Report,
    *,
    other: str,
    times: float,
    at: tuple[float, ...],
    ours: str = "OBD",
    decay: float | None = None,
) -> Finding:
    parts = []
    for sparsity in at:
        a, b = (_rises(report, name, sparsity, decay=decay) for name in (ours, other))
        margins = [b[seed][1] - times * a[seed][1] for seed in sorted(a.keys() & b.keys())]
        parts.append(in_every_seed(f"at {sparsity:.0%}", margins))
    counts = "; ".join(f"{part.claim} {part.evidence}" for part in parts)
    with_decay = f"decay {_decay(report) if decay is None else decay:g}"
    return replace(all_hold("", parts), evidence=f"{with_decay}: {counts}")


def _tracks(report: Report, *, at: float) -> Finding:
    ratios = [predicted / actual for predicted, actual in _rises(report, "OBD", at).values()]
    return in_every_seed(
        "",
        [min(1.5 - each, each - 1 / 1.5) for each in ratios],
        f"decay {_decay(report):g}: predicted / actual {min(ratios):.2f} to {max(ratios):.2f}",
    )


def _offset(report: Report) -> Finding:
    centred, offset = (
        [predicted / actual for predicted, actual in _rises(report, "OBD", 0.5, inputs).values()]
        for inputs in ("standardised", "shifted")
    )
    return in_every_seed(
        "",
        [min(centred) - each for each in offset],
        f"decay {_decay(report):g}: predicted / actual at 50 % at most {max(offset):.2f} with an "
        f"offset, at least {min(centred):.2f} without",
    )


def _retrained(report: Report) -> Finding:
    rows = rows_of(report, inputs="standardised", criterion="OBD", how="retrained")
    decay = max(row["decay"] for row in rows)
    gains = []
    for row in sorted(rows, key=lambda row: row["seed"]):
        if row["decay"] == decay:
            _, _, errors, total = min(row["curve"], key=lambda point: abs(point[0] - 0.6))
            gains.append(100 * (row["curve"][0][2] - errors) / total)
    return exceeds("", over_seeds(gains), -0.5)
