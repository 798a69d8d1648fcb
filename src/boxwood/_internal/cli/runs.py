"""``boxwood runs``: inspect, export and clean up a store."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from boxwood._internal.cli import checks, tables
from boxwood._internal.cli.progress import bar
from boxwood._internal.cli.run import Code, StorePath, TrustAll
from boxwood._internal.cli.target import trusted
from boxwood._internal.cli.terminal import Console, say, stoppable
from boxwood._internal.core.masks import apply
from boxwood._internal.files.mask_files import FOLDER as MASKS
from boxwood._internal.files.mask_files import write_with_masks
from boxwood._internal.report.exports import to_mlflow, to_tensorboard, to_wandb
from boxwood._internal.report.page.store_reader import Run, read
from boxwood._internal.runs.decoding import start_of
from boxwood._internal.runs.difference import difference
from boxwood._internal.runs.export import save_cut
from boxwood._internal.runs.garbage import collect_garbage
from boxwood._internal.runs.latency import FILE, Settings, Wanted, measure_all
from boxwood._internal.runs.store import Store
from boxwood.errors import InvalidInput

app = typer.Typer(no_args_is_help=True, help="List, show, export and clean up finished work.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Out = Annotated[Path, typer.Option(help="Folder to write into.", callback=checks.new_folder)]
Key = Annotated[str, typer.Argument(help="Key of a phase, or the first characters of it.")]


@app.command("list")
def list_(store: StorePath = Path("runs"), as_json: Json = False) -> None:
    """List the runs of a store, and how much of each is done.

    Example: boxwood runs list --store runs
    """
    opened = _open(store)
    rows = [
        {
            "name": run["name"],
            "key": run["chain"][-1],
            "done": sum(opened.has(key) for key in run["chain"]),
            "phases": len(run["chain"]),
        }
        for run in opened.runs()
    ]
    if as_json:
        say(json.dumps(rows, indent=1))
        return
    table = Table("run", Column("key", no_wrap=True), "phases done")
    for row in rows:
        table.add_row(Text(str(row["name"])), str(row["key"]), f"{row['done']} of {row['phases']}")
    tables.show(table)


@app.command()
def show(key: Key, store: StorePath = Path("runs")) -> None:
    """Print everything that the store has about one phase, as JSON.

    Example: boxwood runs show 3f2a --store runs
    """
    opened = _open(store)
    say(json.dumps(opened.record(_whole(opened, key)), indent=1))


@app.command()
def export(
    key: Key,
    out: Annotated[
        Path,
        typer.Option(
            help="safetensors file to write.",
            callback=checks.new_file(makes_folders=False, suffix=".safetensors"),
        ),
    ],
    store: StorePath = Path("runs"),
    cut: Annotated[
        bool, typer.Option("--cut", help="Remove the masked units and write the smaller network.")
    ] = False,
    overwrite: checks.Overwrite = False,
    code: Code = None,
    trust: TrustAll = False,
) -> None:
    """Write the network of a phase as a plain checkpoint, with its masks next to it.

    OUT loads with `model.load_state_dict`. The masks are in `masks/OUT` in the same folder, where
    `boxwood pack` and `boxwood.files.load_masks` find them.

    --cut works for a phase of structural pruning. OUT is then the smaller network, which loads with
    `boxwood.load`. This builds the network, so the store may only name code of Boxwood and of
    --code, unless you give --trust.

    Example: boxwood runs export 3f2a --out pruned.safetensors
    """
    opened = _open(store)
    for each in (out, *([] if cut else [out.parent / MASKS / out.name])):
        checks.free(each, overwrite=overwrite)
    if cut:
        before, after = save_cut(opened, _whole(opened, key), out, trusted(code, trust))
        Console(soft_wrap=True).print(f"{out}: {after:,} of {before:,} parameters.")
        return
    state = opened.load(_whole(opened, key))
    write_with_masks(out, apply(state.weights, state.masks), state.masks)


@app.command()
def diff(a: Key, b: Key, store: StorePath = Path("runs"), as_json: Json = False) -> None:
    """Show where two phases begin to differ, in their settings and in their results.

    Example: boxwood runs diff 3f2a 81c0
    """
    opened = _open(store)
    found = difference(opened, _whole(opened, a), _whole(opened, b))
    if as_json:
        say(json.dumps(asdict(found), indent=1))
        return
    console = Console()
    console.print(f"{len(found.shared)} phases are the same, the start among them.")
    for title, changes in (("settings", found.settings), ("facts", found.facts)):
        if not changes:
            console.print(f"No {title} differ.")
            continue
        table = Table("phase", title, a, b)
        for change in changes:
            table.add_row(*(Text(str(v)) for v in (change.where, change.what, change.a, change.b)))
        tables.show(table)


@app.command()
def tensorboard(out: Out, store: StorePath = Path("runs")) -> None:
    """Write the metrics of all runs as TensorBoard event files.

    Example: boxwood runs tensorboard --out events
    """
    to_tensorboard(_runs(store), out)


@app.command()
def mlflow(out: Out, store: StorePath = Path("runs")) -> None:
    """Write the metrics of all runs into an MLflow database.

    Example: boxwood runs mlflow --out tracked
    """
    to_mlflow(_runs(store), out)


@app.command()
def wandb(out: Out, store: StorePath = Path("runs")) -> None:
    """Write the metrics of all runs as offline runs of Weights & Biases; nothing is uploaded.

    Example: boxwood runs wandb --out tracked
    """
    to_wandb(_runs(store), out)


@app.command()
def latency(
    store: StorePath = Path("runs"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="Time only these runs or studies, such as '* / seed 0'."),
    ] = None,
    batch: Annotated[
        int, typer.Option(help="Number of examples in a batch.", callback=checks.whole(1))
    ] = 1,
    threads: Annotated[
        int, typer.Option(help="Number of threads.", callback=checks.whole(1, 1024))
    ] = 1,
    turns: Annotated[
        int, typer.Option(help="Number of timed runs of each network.", callback=checks.whole(1))
    ] = 21,
    again: Annotated[
        bool, typer.Option(help="Discard earlier measurements and start again.")
    ] = False,
    code: Code = None,
    trust: TrustAll = False,
) -> None:
    """Time every measured network of a store on this machine, in torch and compiled.

    Each network runs in turn with the dense one that it was pruned from. The times are written to
    latency.json in the store, where `boxwood report` finds them. Run the command again to resume a
    stopped measurement. It builds the networks, so the store may only name code of Boxwood and of
    --code, unless you give --trust.

    Example: boxwood runs latency --store runs --only "* / seed 0"
    """
    opened, whose = _open(store), trusted(code, trust)
    wanted = {
        each.key: Wanted(start_of(run.genesis, run.start.key, whose), run.start.key, each.key)
        for study in read([opened], only=only or ())
        for run in study.runs
        for each in run.measurements
    }
    settings = Settings(batch=batch, threads=threads, turns=turns)
    kept = "What was measured is kept; run the same command again to resume."
    with stoppable(kept), bar("measured", quiet=False) as report:
        found = measure_all(opened, list(wanted.values()), settings, again=again, progress=report)
    console = Console(soft_wrap=True)
    for key, why in found.refused.items():
        console.print(f"{key[:8]} could not be compiled: {why}")
    console.print(
        f"{store / FILE}: {len(found.networks)} networks. `boxwood report {store}` shows them.",
    )


@app.command()
def gc(store: StorePath = Path("runs")) -> None:
    """Delete files that interrupted processes left and that no listed run needs.

    Example: boxwood runs gc --store runs
    """
    freed = collect_garbage(_open(store))
    Console().print(f"Freed {freed:,} bytes.")


def _runs(store: Path) -> list[Run]:
    return [run for study in read([_open(store)]) for run in study.runs]


def _open(store: Path) -> Store:
    if not store.is_dir():
        raise InvalidInput(
            f"Expected a store at {store}, got no such folder; give --store, or run something."
        )
    return Store(store)


def _whole(store: Store, key: str) -> str:
    found = [each for each in store.phases() if each.startswith(key)]
    if len(found) != 1:
        raise InvalidInput(
            f"Expected the first characters of one key, got {key!r}, which matches {len(found)} "
            f"of the "
            f"phases in {store.root}; list them with `boxwood runs list`."
        )
    return found[0]
