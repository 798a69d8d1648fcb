"""``boxwood bench``: the honest verdict on what runs a network fastest on this machine."""

import copy
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import torch
import typer
from rich.table import Table

from boxwood.cli import checks
from boxwood.cli.models import (
    Inputs,
    ModelName,
    Settings,
    Sparsity,
    Threads,
    Weights,
    check_takes,
    read_network,
)
from boxwood.cli.terminal import Console, say
from boxwood.engine import compiling
from boxwood.engine.contenders import (
    Contender,
    Result,
    median_interval,
    onnx_runtime,
    openvino,
    race,
    torch_compiled,
    torch_eager,
)
from boxwood.graph.units import units
from boxwood.graph.verify import shrink
from boxwood.model.oneshot import project_, prune

OURS = "Boxwood's engine"


def bench(
    model: ModelName,
    inputs: Inputs = None,
    weights: Weights = None,
    sparsity: Sparsity = 0.0,
    keep: Annotated[
        float | None,
        typer.Option(
            help="Race the network cut down to this fraction of its units as well.",
            callback=checks.fraction(of_what="units", one=True),
        ),
    ] = None,
    settings: Settings = None,
    threads: Threads = 1,
    turns: Annotated[int, typer.Option(help="How often each runs.", callback=checks.whole(1))] = 21,
    torch_compile: Annotated[bool, typer.Option(help="Race torch.compile as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Run a network in every way that this machine has, by turns, and say which is fastest.

    Example: boxwood bench torchvision.models:resnet50 --input 1x3x224x224 --sparsity 0.9 --keep 0.5
    """
    dense, example = read_network(model, inputs or (), settings or (), weights)
    check_takes(dense, example)
    pruned = dense
    if sparsity:
        pruned = copy.deepcopy(dense)
        project_(pruned, prune(pruned, sparsity))
    torch.set_num_threads(threads)
    session = compiling.compile(pruned, example, threads=threads)
    contenders = [torch_eager("torch", dense, example, threads)]
    if sparsity:
        contenders.append(torch_eager("torch, pruned weights", pruned, example, threads))
    if keep is not None:
        small = shrink(dense, units(dense, tuple(example)).keep_best(keep))
        contenders.append(torch_eager(f"torch, {keep:.0%} of the units", small, example, threads))
    if torch_compile:
        contenders.append(torch_compiled(dense, example, threads))
    contenders += [onnx_runtime(dense, example, threads), openvino(dense, example, threads)]
    contenders.append(Contender(OURS, lambda: session(*example)))
    runs = {each.name: each.run for each in contenders if each.run is not None}
    results = race(runs, turns=turns)
    absent = {each.name: each.why_not for each in contenders if each.run is None}
    verdict = _verdict(results)
    if as_json:
        found = {
            "machine": {
                "cpu": platform.processor(),
                "threads": threads,
                "torch": torch.__version__,
            },
            "results": [asdict(result) for result in results],
            "absent": absent,
            "verdict": verdict,
        }
        say(json.dumps(found, indent=1))
        return
    console = Console(soft_wrap=True)
    console.print(_table(results))
    for name, why in absent.items():
        console.print(f"{name} did not take part: {why}.")
    console.print(verdict)


def _verdict(results: Sequence[Result]) -> str:
    """Compare turn by turn, so that what slows a whole turn drops out."""
    ours = next(result for result in results if result.name == OURS)
    best = min((r for r in results if r is not ours), key=lambda result: result.median)
    ratios = [theirs / mine for theirs, mine in zip(best.seconds, ours.seconds, strict=True)]
    median, low, high = median_interval(ratios)
    interval = f"95 % interval of the ratio {low:.2f} to {high:.2f}"
    if low > 1:
        return f"{OURS} wins: {median:.2f} times as fast as {best.name}, the best of the others ({interval})."
    if high < 1:
        return (
            f"{OURS} does not win here: {best.name} is {1 / median:.2f} times as fast ({interval})."
        )
    return f"Nothing wins: {OURS} and {best.name} are as fast as each other ({interval})."


def _table(results: Sequence[Result]) -> Table:
    table = Table("", "ms, median", "95 % interval", "least", "of torch")
    torch_median = results[0].median
    for result in sorted(results, key=lambda each: each.median):
        table.add_row(
            result.name,
            f"{1e3 * result.median:.2f}",
            f"{1e3 * result.low:.2f} – {1e3 * result.high:.2f}",
            f"{1e3 * result.best:.2f}",
            f"{result.median / torch_median:.2f}",
        )
    return table
