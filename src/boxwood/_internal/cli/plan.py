"""``boxwood plan``: what a run would do, before a second of compute is spent."""

import json
from pathlib import Path

import typer
from rich.table import Column, Table
from rich.text import Text

from boxwood._internal.cli.run import Code, Data, Seeds, Settings, StorePath, Target, TrustAll
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.target import resolve, trusted
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.core.spec import encode
from boxwood._internal.recipes.training_budget import unequal_training
from boxwood._internal.runs.runner import jobs_of, phase_title, with_needs
from boxwood._internal.runs.store import Store


def plan(
    target: Target,
    data: Data = None,
    seeds: Seeds = 1,
    store: StorePath = Path("runs"),
    settings: Settings = None,
    code: Code = None,
    trust: TrustAll = False,
    as_json: bool = typer.Option(False, "--json", help="Print a recipe file that `run` takes."),
) -> None:
    """List the phases of an experiment with their keys, and which of them are done.

    The code of a file.py that is named here is imported. A recipe.json may only name code of
    Boxwood and of --code, unless --trust is given.

    Example: boxwood plan experiments/han2015.py:lenet_300_100 --data digits
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
    if said := unequal_training(dict(experiment.branches)):
        Console().print(
            f"Warning: training differs between the branches. {said}. Some of what they differ by "
            f"may come from that; dense(train, as_long_as=recipe) trains as long as a recipe.",
            style="yellow",
        )
