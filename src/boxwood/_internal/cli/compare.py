"""``boxwood compare``: compare methods under one budget, in a league table."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Column, Table
from rich.text import Text

from boxwood._internal.cli import checks
from boxwood._internal.cli.narration import narrated
from boxwood._internal.cli.progress import bars, seen
from boxwood._internal.cli.run import NewStore
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console, say, stoppable
from boxwood._internal.core.replacing import write_whole
from boxwood._internal.core.spec import load
from boxwood._internal.recipes.comparison import Comparison
from boxwood._internal.report.charts.export import renderer
from boxwood._internal.report.experiments import run_jobs
from boxwood._internal.report.league import League
from boxwood._internal.report.league import compare as compare_
from boxwood._internal.report.page.league_page import league_page, shown
from boxwood._internal.runs.provenance import provenance
from boxwood._internal.runs.ray_cluster import run_on_ray
from boxwood._internal.runs.runner import Job, RunSettings
from boxwood._internal.runs.store import Store
from boxwood.errors import InvalidInput


def compare(
    target: Annotated[str, typer.Argument(help="file.py:function that returns a Comparison.")],
    seeds: Annotated[
        int, typer.Option(help="Number of seeds: 0, 1, …", callback=checks.whole(1, 10_000))
    ] = 3,
    store: NewStore = Path("runs"),
    threads: Annotated[
        int, typer.Option(help="Number of torch threads.", callback=checks.whole(1, 1024))
    ] = 1,
    workers: Annotated[
        int,
        typer.Option(
            help="Number of processes, each with --threads threads.", callback=checks.whole(1, 1024)
        ),
    ] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster, or local.")] = None,
    device: Annotated[str, typer.Option(help="Where to train, such as cpu or cuda.")] = "cpu",
    snapshot_every: Annotated[
        float,
        typer.Option(help="Seconds between snapshots within a phase.", callback=checks.seconds),
    ] = 30,
    out: Annotated[
        Path | None, typer.Option(help="HTML page to write.", callback=checks.new_file())
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "A comparison of methods",
    overwrite: checks.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare methods under one budget: the same networks, data, steps, seeds and grid of rates.

    First every method runs at every learning rate on the first seed, and validation chooses the
    best rate. Then every method runs at its rate on all seeds. Run the command again to resume it or
    to add seeds. Several processes may run it on one store and share the work.

    Example: boxwood compare examples/own_method.py:comparison --seeds 3 --out league.html
    """
    # Machines of a cluster may have devices that this one has not.
    checks.device(device, here=ray in (None, "local"))
    if out is not None:
        checks.free(out, overwrite=overwrite)
        renderer()
    found = load(target)
    comparison = found() if callable(found) else found
    if not isinstance(comparison, Comparison):
        raise InvalidInput(
            f"Expected {target} to return a Comparison, got {type(comparison).__name__}; return "
            f"boxwood.comparison.Comparison(tasks=…, methods=…, sparsities=…)."
        )
    torch.set_num_threads(threads)
    opened = Store(store)
    settings = RunSettings(snapshot_every=snapshot_every, device=torch.device(device))
    again = f"Nothing is lost: finished phases are in {store}. Run the same command again to go on."

    def doing(jobs: Sequence[Job]) -> None:
        alone = workers == 1 and ray is None
        watching = bars() if alone and seen() else narrated(jobs, opened, workers=workers)
        with stoppable(again), nullcontext() if as_json else watching as watcher:
            if ray is not None:
                address = None if ray == "local" else ray
                run_on_ray(
                    jobs, opened, settings, workers=workers, threads=threads, address=address
                )
            else:
                run_jobs(jobs, opened, replace(settings, watcher=watcher), workers=workers)

    league = compare_(comparison, store=opened, seeds=seeds, run=doing)
    if out is not None:
        write_whole(out, league_page(league, title=title, store=store.resolve().name).encode())
    if as_json:
        say(json.dumps(_as_json(league), indent=1, default=str))
        return
    for task in league.tasks:
        show(_table(league, task))
    _say_ranks(league)
    Console().print(f"Store: {store} (run the same command again to resume or extend)")


def _table(league: League, task: str) -> Table:
    by_loss = task in league.by_loss
    table = Table(
        task, Column("sparsity", justify="right"), "loss" if by_loss else "accuracy",
        Column("multiply-adds", justify="right"), Column("training", justify="right"),
        Column("hours", justify="right"), Column("rate", justify="right"), "front",
    )  # fmt: skip
    for each in league.of(task):
        sparsity = each.place.sparsity
        table.add_row(
            Text(each.place.method + " (control)" * each.place.control),
            "" if sparsity is None else f"{100 * sparsity:.4g} %",
            shown(each, by_loss=by_loss),
            f"{each.multiply_adds:.3g}",
            f"{each.training_multiply_adds:.3g}",
            f"{each.hours:.2g}",
            f"{each.rate:g}" + f" ({each.edge}est)" * bool(each.edge),
            "front" if each.front else "",
        )
    return table


def _say_ranks(league: League) -> None:
    ranking = league.ranking()
    if ranking is None:
        return
    table = Table("method", Column("average rank", justify="right"))
    for name, rank in zip(ranking.names, ranking.ranks, strict=True):
        table.add_row(Text(name), f"{rank:.2f}")
    show(table)
    say(
        f"Over {ranking.tasks} tasks and sparsities: Friedman p = {ranking.p:.2g}; methods differ where "
        f"ranks are more than {ranking.critical_difference:.2f} apart (Nemenyi, 5 %)."
    )


def _as_json(league: League) -> dict[str, object]:
    ranking = league.ranking()
    return {
        "seeds": list(league.seeds),
        "rows": league.rows(),
        "ranking": None if ranking is None else vars(ranking),
        "machine": provenance(),
    }
