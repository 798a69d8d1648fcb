"""``boxwood compile``: a network into a file that runs sparsely on this kind of machine."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from rich.text import Text

from boxwood._internal.cli import checks
from boxwood._internal.cli.models import (
    Inputs,
    ModelName,
    Settings,
    Sparsity,
    Threads,
    Weights,
    check_takes,
    read_network,
)
from boxwood._internal.cli.patterns import Pattern
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.engine import compiling


def compile(  # noqa: A001
    model: ModelName,
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write, as model.bxw.",
            callback=checks.new_file(makes_folders=False, suffix=".bxw"),
        ),
    ],
    inputs: Inputs = None,
    weights: Weights = None,
    sparsity: Sparsity = 0.0,
    pattern: Pattern = None,
    settings: Settings = None,
    threads: Threads = 1,
    explain: Annotated[bool, typer.Option(help="Say what runs where, and why.")] = False,
    overwrite: checks.Overwrite = False,
) -> None:
    """Compile a network for this machine and write it to a file.

    Example: boxwood compile torchvision.models:resnet18 --input 1x3x224x224 --sparsity 0.9 --out r.bxw
    """
    checks.free(out, overwrite=overwrite)
    network, example = read_network(model, inputs or (), settings or (), weights, sparsity, pattern)
    check_takes(network, example)
    torch.set_num_threads(threads)
    session = compiling.compile(network, example, threads=threads)
    session.save(out)
    console = Console(soft_wrap=True)
    if explain:
        explained = session.explain(*example)
        head, *rows = explained.rows
        table = Table()
        for title in head:
            number = title == "KB" or title.endswith("ms")
            table.add_column(title, justify="right" if number else "left")
        for row in rows:
            table.add_row(*map(Text, row))
        show(table)
        say(explained.total)
    console.print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB; {len(session.native)} operations run in "
        f"kernels. Load it with boxwood.load({str(out)!r}).",
        highlight=False,
    )
