"""``boxwood demo``: train, prune and retrain on the data set that comes with scikit-learn."""

from pathlib import Path
from typing import Annotated

import typer

from boxwood._internal.cli import checks
from boxwood._internal.cli.execute import execute
from boxwood._internal.cli.run import NewStore
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console
from boxwood._internal.core.call import Call
from boxwood._internal.core.criteria.weights import magnitude_over_std
from boxwood._internal.data.digits import digits
from boxwood._internal.model.counting import LayerCount
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.recipes.three_step import dense, iterative
from boxwood._internal.report.tables import layer_table
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.lenet import lenet_300_100


def experiment() -> Experiment:
    """LeNet-300-100 on digits: train, then prune and retrain in four rounds to a 14th.

    The dense network that it is compared with trains as long as that takes in all.
    """
    train = Training(epochs=40, batch=60, optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4))
    retrain = Training(epochs=20, batch=60, optimizer=SGD(lr=0.01, momentum=0.9, weight_decay=5e-4))
    rounds = (0.5, 0.75, 0.88, 0.93)
    pruned = iterative(train, retrain, rounds, criterion=magnitude_over_std)
    return Experiment(
        model=Call.of(lenet_300_100, inputs=64),
        data=digits,
        branches=(("dense", dense(train, as_long_as=pruned)), ("pruned", pruned)),
    )


def demo(
    store: NewStore = Path("runs/demo"),
    seeds: Annotated[
        int, typer.Option(help="Number of seeds.", callback=checks.whole(1, 10_000))
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Train a network on handwritten digits, prune it, retrain it, and show what it cost.

    Example: boxwood demo
    """
    found = execute(experiment(), store=store, seeds=range(seeds), threads=1, as_json=as_json)
    if as_json:
        return
    last = found[-1]
    first = next(m for m in found if m.seed == last.seed)
    console = Console()
    layers = [LayerCount(**layer) for layer in last.facts["layers"]]
    console.print(f"Layers of the last network (seed {last.seed}):")
    show(layer_table(layers))
    ends = [m for m in found if m.name == last.name]
    starts = [m for m in found if m.name == first.name]
    before, after = (100 * sum(m.test for m in g) / len(g) for g in (starts, ends))
    console.print(
        f"Dense {before:.2f} %, pruned {after:.2f} % on test: {after - before:+.2f} points with "
        f"{1 / last.kept_fraction:.1f}x fewer weights and {last.facts['dense_bytes'] / last.facts['bytes']:.1f}x "
        f"fewer bytes on disk.",
    )
