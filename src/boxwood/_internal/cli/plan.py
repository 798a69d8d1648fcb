"""``boxwood plan``: what a run would do, before a second of compute is spent."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from boxwood._internal.cli import checks
from boxwood._internal.cli.run import Code, Data, Seeds, Settings, StorePath, Target, TrustAll
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.target import resolve, trusted
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.core.spec import encode
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.recipes.training_budget import unequal_training
from boxwood._internal.recipes.training_cost import CARDS, Card, forward_cost, hours, training_costs
from boxwood._internal.runs.runner import jobs_of, phase_title, with_needs
from boxwood._internal.runs.store import Store
from boxwood.errors import InvalidInput


def _known_card(value: str | None) -> str | None:
    if value is not None and value not in CARDS:
        raise InvalidInput(
            f"Expected --card to be one of {', '.join(CARDS)}, got {value!r}; choose the one "
            f"nearest to yours."
        )
    return value


def plan(
    target: Target,
    data: Data = None,
    seeds: Seeds = 1,
    store: StorePath = Path("runs"),
    settings: Settings = None,
    code: Code = None,
    trust: TrustAll = False,
    card: Annotated[
        str | None,
        typer.Option(
            help=f"Also print multiply-adds and hours on a graphics card: {', '.join(CARDS)}.",
            callback=_known_card,
        ),
    ] = None,
    utilisation: Annotated[
        float,
        typer.Option(
            help="Fraction of the card's peak speed to assume.",
            callback=checks.fraction(of_what="the card's speed", one=True),
        ),
    ] = 0.15,
    as_json: bool = typer.Option(False, "--json", help="Print a recipe file that `run` takes."),
) -> None:
    """List the phases of an experiment with their keys, and which of them are done.

    With --card it also shows what the trainings cost: dense multiply-adds, and hours at 15 % of the
    peak speed that the card's maker states. The papers' networks reach about 10 to 25 % in PyTorch,
    if reading images is fast enough. Measure yours and pass --utilisation.

    The code of a file.py that you name is imported. A recipe.json may only run code of Boxwood and
    of --code, unless you give --trust.

    Example: boxwood plan experiments/han2015.py:lenet_300_100 --data digits

    Example: boxwood plan boxwood.published:imagenet_resnet_50_gmp --card a100
    """
    experiment = resolve(target, data, settings or (), trusted(code, trust))
    if as_json:
        say(json.dumps(encode(experiment), indent=1))
        return
    opened = Store(store)
    table = Table("branch", "#", "phase", "label", Column("key", no_wrap=True), "done")
    missing = set()
    for job in with_needs(jobs_of(experiment, range(seeds))):
        for index, (phase, key) in enumerate(zip(job.recipe, job.chain[1:], strict=True), 1):
            done = opened.has(key)
            if not done:
                missing.add(key)
            branch = job.name if index == 1 else ""
            table.add_row(
                Text(branch),
                str(index),
                Text(phase_title(phase)),
                Text(phase.label),
                key,
                "yes" if done else "",
            )
    show(table)
    say(f"{len(missing)} phases to run; phases with the same key run once.")
    if card is not None:
        show(_costs(experiment, CARDS[card], utilisation, seeds))
    elif experiment.published:
        show(_published(experiment))
    if said := unequal_training(dict(experiment.branches)):
        Console().print(
            f"Warning: training differs between the branches. {said}. Some of what they differ by "
            f"may come from that; dense(train, as_long_as=recipe) trains as long as a recipe.",
            style="yellow",
        )


def _costs(experiment: Experiment, card: Card, utilisation: float, seeds: int) -> Table:
    """What each branch costs by itself; phases that branches share count in each."""
    shape, examples = experiment.shape, None
    if shape is None:
        data = experiment.data()
        shape, examples = data.shape, len(data.train)
    forward = forward_cost(experiment.model, shape)
    right = ("multiply-adds", f"hours on an {card.name} at {100 * utilisation:.3g} %")
    table = Table("branch", *(Column(name, justify="right") for name in right), "published")
    figures = _figures(experiment)
    for name, recipe in experiment.branches:
        costs = training_costs(recipe, forward, examples)
        time = seeds * hours(recipe, costs, card, utilisation)
        said = f"{time:,.1f}" if time >= 0.1 else f"{time:.2g}"
        table.add_row(Text(name), f"{seeds * sum(costs):.3g}", said, Text(figures.get(name, "")))
    return table


def _published(experiment: Experiment) -> Table:
    table = Table("branch", "published")
    for name, figure in _figures(experiment).items():
        table.add_row(Text(name), Text(figure))
    return table


def _figures(experiment: Experiment) -> dict[str, str]:
    return {
        each.branch: f"{100 * each.accuracy:.4g} %, {each.source}" for each in experiment.published
    }
