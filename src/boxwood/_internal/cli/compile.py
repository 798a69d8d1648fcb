"""``boxwood compile``: compile a network to a file with sparse kernels for this kind of machine."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from rich.text import Text

from boxwood._internal.cli import checks
from boxwood._internal.cli.agreement import read_bench_data
from boxwood._internal.cli.models import (
    Inputs,
    ModelName,
    Settings,
    Sparsity,
    Threads,
    Weights,
    check_takes,
    example_of,
    read_network,
)
from boxwood._internal.cli.patterns import Pattern
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.engine import compiling
from boxwood.errors import InvalidInput


def compile(  # noqa: A001
    model: ModelName,
    out: Annotated[
        Path,
        typer.Option(
            help="File to write, such as model.bxw.",
            callback=checks.new_file(makes_folders=False, suffix=".bxw"),
        ),
    ],
    inputs: Inputs = None,
    weights: Weights = None,
    sparsity: Sparsity = 0.0,
    pattern: Pattern = None,
    settings: Settings = None,
    threads: Threads = 1,
    int8: Annotated[
        bool, typer.Option(help="Compile layers in int8 where that is faster. Needs --data.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set, or file.py:function that returns one or a list of "
            "batches. It calibrates int8."
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(help="Show which layers run in compiled kernels and which in torch, and why."),
    ] = False,
    overwrite: checks.Overwrite = False,
) -> None:
    """Compile a network for this machine and write it to a file.

    Example: boxwood compile torchvision.models:resnet18 --input 1x3x224x224 --sparsity 0.9 --out r.bxw

    Example: boxwood compile nets.py:lenet --weights pruned.safetensors --int8 --data fashion-mnist --out l.bxw
    """
    checks.free(out, overwrite=overwrite)
    batch = example_of(inputs)[0].shape[0] if inputs else None
    if int8 is (data is None):
        raise InvalidInput(
            "Expected --int8 and --data together, because data calibrate int8 and nothing else, "
            "got one of them; give both or neither."
        )
    shown = None if data is None else read_bench_data(data, batch, examples=1)
    shapes = inputs or (shown.shapes() if shown is not None else ())
    network, example = read_network(model, shapes, settings or (), weights, sparsity, pattern)
    check_takes(network, example)
    torch.set_num_threads(threads)
    if shown is None:
        session = compiling.compile(network, example, threads=threads)
    else:
        session = compiling.compile(
            network, shown.like(example), threads=threads, precision="int8",
            calibration=shown.calibration,
        )  # fmt: skip
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
