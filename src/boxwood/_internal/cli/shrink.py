"""``boxwood shrink``: remove units from a network, and check the result."""

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from boxwood._internal.cli import checks
from boxwood._internal.cli.models import Inputs, Length, Samples, Settings, Weights, read_network
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.core.spec import load
from boxwood._internal.files.writing import check_new_folder
from boxwood._internal.graph.budgets import Budget, multiply_adds, parameters
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.latency import latency, turns
from boxwood._internal.graph.ranking import best_units
from boxwood._internal.graph.record import record_of, save_shrunken
from boxwood._internal.graph.scoring import UnitScores, score_units
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink as shrink_network
from boxwood._internal.graph.units import Group, find_units
from boxwood.errors import EquivalenceError, InvalidInput

_TURNS = 21
_share = checks.fraction(of_what="what there is", one=True)


def shrink(
    target: Annotated[
        str,
        typer.Argument(
            help="module:function or file.py:function that returns a network, or a "
            "Hugging Face folder."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="File to write, ending in .safetensors. For a Hugging Face folder: a new folder.",
            callback=checks.new_place,
        ),
    ] = None,
    inputs: Inputs = None,
    settings: Settings = None,
    weights: Weights = None,
    keep: Annotated[
        float | None,
        typer.Option(help="Fraction of units to keep in each group.", callback=_share),
    ] = None,
    macs: Annotated[
        float | None,
        typer.Option(help="Keep at most this fraction of the multiply-adds.", callback=_share),
    ] = None,
    size: Annotated[
        float | None,
        typer.Option(help="Keep at most this fraction of the parameters.", callback=_share),
    ] = None,
    time: Annotated[
        float | None,
        typer.Option(
            "--latency", help="Keep at most this fraction of the measured time.", callback=_share
        ),
    ] = None,
    drop_blocks: Annotated[
        int | None,
        typer.Option(
            help="For a folder: number of whole blocks to remove.",
            callback=checks.whole(1),
        ),
    ] = None,
    drop_experts: Annotated[
        int | None,
        typer.Option(
            help="For a folder of a mixture of experts: number of experts to remove "
            "from every layer.",
            callback=checks.whole(1),
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="With --drop-experts: average each removed expert into the most similar one.",
        ),
    ] = False,
    blocks: Annotated[
        str | None,
        typer.Option(
            help="With --drop-blocks: dotted name of the list of blocks, if the model has several."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="For a folder: how to rank units: wanda (default with a text), "
            "taylor, activations or magnitude. With --drop-blocks: influence "
            "(default), perplexity or greedy."
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            help="For a folder: text used to choose what to remove and to repair the "
            "rest. The last tenth is only used to measure."
        ),
    ] = None,
    samples: Samples = None,
    length: Length = None,
    repair: Annotated[
        bool | None,
        typer.Option(
            "--repair/--no-repair",
            help="With --text: refit by least squares the layers that read removed "
            "units. Default: yes for units, no for blocks.",
        ),
    ] = None,
    protect: Annotated[
        list[str] | None,
        typer.Option(help="Name pattern of parameters whose units to keep. Repeatable."),
    ] = None,
    floor: Annotated[
        int,
        typer.Option(
            help="Least number of units to keep in every group.", callback=checks.whole(1)
        ),
    ] = 1,
    multiple: Annotated[
        int | None,
        typer.Option(
            help="Keep a multiple of this many units in each group. Default: 1. For a "
            "folder: up to 128, as far as its configuration allows.",
            callback=checks.whole(1),
        ),
    ] = None,
    freeze_unknown: Annotated[
        bool,
        typer.Option(
            "--freeze-unknown",
            help="Instead of refusing the model, keep whole what operations without a "
            "rule read, and everything from the point where control flow "
            "depends on data.",
        ),
    ] = False,
    rules: Annotated[
        str | None,
        typer.Option(
            help="module:name or file.py:name of a dict of rules for custom operators, as for find_units."
        ),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Rank the units of all groups together.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the units and the expected result. Write nothing."),
    ] = False,
    overwrite: checks.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Remove filters, channels, heads and hidden units, and check the result against the masked network.

    Example: boxwood shrink boxwood.networks:lenet_5 small.safetensors --input 1x1x28x28 --keep 0.5

    For a Hugging Face folder it writes a folder that from_pretrained loads. Its configuration has the
    new sizes; a group keeps more units if the configuration cannot express its size. The text chooses
    the units and repairs the rest, and perplexity is shown before and after.

    Example: boxwood shrink llama/ small/ --keep 0.7 --text wiki.txt

    --drop-blocks removes whole blocks: those that change the hidden states least (influence), or
    those without which perplexity is lowest (perplexity; greedy measures again after each block).

    Example: boxwood shrink llama/ small/ --drop-blocks 4 --by influence --text wiki.txt

    --drop-experts removes from every layer of a mixture the experts with the least gate value times
    output norm.

    Example: boxwood shrink olmoe/ small/ --drop-experts 16 --text wiki.txt
    """
    budgets = {"--macs": (macs, multiply_adds), "--size": (size, parameters)}
    asked = [name for name, (value, _) in budgets.items() if value is not None]
    asked += ["--latency"] * (time is not None) + ["--keep"] * (keep is not None)
    whole = {"--drop-blocks": drop_blocks, "--drop-experts": drop_experts}
    asked += [name for name, value in whole.items() if value is not None]
    if len(asked) != 1:
        raise InvalidInput(
            f"Expected one of --keep, --macs, --size, --latency, --drop-blocks and --drop-experts, got "
            f"{' and '.join(asked) or 'none'}; give one."
        )
    if out is None and not dry_run:
        raise InvalidInput("Expected a file to write, got none; name one, or give --dry-run.")
    folder = Path(target) if Path(target).is_dir() else None
    if (blocks and not drop_blocks) or (merge and not drop_experts):
        raise InvalidInput(
            "Expected --blocks with --drop-blocks and --merge with --drop-experts, got one "
            "without the other; leave it out, or give both."
        )
    if folder is None and (by or text or samples or length or drop_blocks or drop_experts):
        raise InvalidInput(
            f"Expected --by, --text, --samples, --length, --drop-blocks and --drop-experts with a "
            f"Hugging Face folder, got {target}; use boxwood.select_units and boxwood.compensate in "
            f"Python."
        )
    if out is not None and not dry_run:
        if folder is not None:
            check_new_folder(out)
        else:
            checks.free(out, overwrite=overwrite)
    if folder is not None and (drop_blocks or drop_experts):
        of_units = {
            "--input": inputs, "--set": settings, "--weights": weights, "--protect": protect,
            "--multiple": multiple, "--freeze-unknown": freeze_unknown, "--together": together, "--rules": rules,
            "--by": drop_experts and by, "--repair": drop_experts and repair,
        }  # fmt: skip
        _refuse(asked[0], [name for name, value in of_units.items() if value])
    if folder is not None and drop_blocks:
        from boxwood._internal.cli.shrink_depth import DepthOptions, shrink_depth

        depth = DepthOptions(drop_blocks, by or "influence", blocks, bool(repair), dry_run)
        shrink_depth(folder, out, depth, text=text, samples=samples, length=length, as_json=as_json)
        return
    if folder is not None and drop_experts:
        from boxwood._internal.cli.shrink_experts import shrink_experts

        shrink_experts(
            folder, None if dry_run else out, drop_experts, merge=merge, text=text,
            samples=samples, length=length, as_json=as_json,
        )  # fmt: skip
        return
    model, given = read_network(target, inputs or (), settings or (), weights)
    own = None if rules is None else load(rules)
    found = find_units(model, given, freeze_unknown=freeze_unknown, rules=own)
    budget = next((Budget(v, of) for v, of in budgets.values() if v is not None), None)
    if time is not None:
        budget = Budget(time, latency(model), steps=6)

    def select(scores: UnitScores, multiple: int | Callable[[Group], int]) -> UnitSelection:
        return best_units(
            found, scores, keep, budget=budget, ranked_together=together, floor=floor,
            multiple=multiple, protect=protect or (),
        )  # fmt: skip

    report: dict[str, Any] = {}
    if folder is None:
        selection = select(score_units(found), multiple or 1)
        small: Any = None if dry_run else shrink_network(model, selection)
    else:
        from boxwood._internal.cli.shrink_pretrained import criterion_of, reading_of, shrink_by

        criterion = criterion_of(model, by, text)
        reading = None if text is None else reading_of(folder, text, samples, length)
        done = shrink_by(
            found, criterion, select, reading, multiple=multiple,
            repair=repair is not False and not dry_run,
            quiet=as_json,
        )  # fmt: skip
        selection, small = done.shrunken.selection, done.shrunken.small
        report = {"whole": list(done.shrunken.whole), "perplexity": dict(done.perplexity)}
    report = {**_forecast(selection), **report}
    if time is not None:
        seen = turns(model, selection, _TURNS)
        report["milliseconds"] = [
            1000 * statistics.median(each) for each in zip(*seen, strict=True)
        ]
    checked = None
    if not dry_run and out is not None:
        checked = check_equivalence(model, small, selection)
        report["equivalence"] = checked.to_json()
        if not checked.equivalent:
            raise EquivalenceError(
                f"Expected the smaller network to compute what the masked one does, got\n"
                f"{checked}\nand nothing was written; protect the part that differs with --protect."
            )
        if folder is None:
            save_shrunken(small, record_of(model, selection), out)
        else:
            from boxwood._internal.adapters.loaders import loaders_of
            from boxwood._internal.adapters.shrunken import write_folder

            write_folder(done.shrunken.built, out, source=folder)
            report["loads"] = loaders_of(out)
    if as_json:
        say(json.dumps(report, indent=1))
        return
    console = Console()
    show(_table(report))
    for line in _notes(report):
        console.print(line)
    if checked is not None:
        console.print(str(checked))
        console.print(f"Written: {out}", soft_wrap=True)


def _refuse(option: str, others: list[str]) -> None:
    """Refuse options that say how units are chosen, where whole blocks or experts go."""
    if others:
        raise InvalidInput(
            f"Expected no {' and '.join(others)} with {option}, which removes whole blocks or experts, "
            f"got both; leave it out, or shrink the result again."
        )


def _notes(report: dict[str, Any]) -> Iterator[str]:
    whole, measured = report.get("whole"), report.get("perplexity")
    if "milliseconds" in report:
        before, after = report["milliseconds"]
        yield (
            f"Time on the example, median of {_TURNS} turns here: {before:.3g} ms before, "
            f"{after:.3g} ms after ({after / before:.2f} times)"
        )
    if whole:
        listed = ", ".join(whole[:4]) + (" …" if len(whole) > 4 else "")
        yield f"Whole, since the configuration cannot say less: {listed}"
    if measured:
        listed = ", ".join(f"{value:.4g} {when}" for when, value in measured.items())
        yield f"Perplexity on the last tenth of the text: {listed}"
    yield from report.get("loads", ())


def _forecast(selection: UnitSelection) -> dict[str, Any]:
    found, everything = selection.units, selection.kept | True
    return {
        "groups": [
            {
                "name": group.name,
                "units": len(group.units),
                "kept": int(selection.kept[group.units].sum()),
                "axes": len(group.axes),
            }
            for group in found.groups
        ],
        "units": [len(found), len(found) - selection.removed],
        "parameters": [found.parameters(), found.parameters(selection.kept)],
        "multiply_adds": [found.multiply_adds(everything), found.multiply_adds(selection.kept)],
    }


def _table(report: dict[str, Any]) -> Table:
    table = Table()
    table.add_column("group")
    for name in ("units", "kept", "share", "tensors"):
        table.add_column(name, justify="right")
    for group in report["groups"]:
        table.add_row(
            Text(group["name"]),
            f"{group['units']:,}",
            f"{group['kept']:,}",
            f"{group['kept'] / group['units']:.1%}",
            f"{group['axes']}",
        )
    table.add_section()
    for name in ("units", "parameters", "multiply_adds"):
        before, after = report[name]
        share = f"{after / max(before, 1):.1%}"
        table.add_row(name.replace("_", "-"), f"{before:,}", f"{after:,}", share)
    return table
