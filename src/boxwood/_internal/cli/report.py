"""``boxwood report``: one page about everything in a store."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import rich.table
import typer
from rich.text import Text

from boxwood._internal.cli import checks
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.core.replacing import write_whole
from boxwood._internal.core.spec import load
from boxwood._internal.report.charts.export import renderer
from boxwood._internal.report.page.build import (
    Report,
    articles,
    json_text,
    page,
    to_json,
    write_csv,
)
from boxwood._internal.report.page.comparison import compare, comparison_table
from boxwood._internal.report.page.document import Table
from boxwood._internal.report.paper_figures import write_figures
from boxwood.errors import InvalidInput

Stores = Annotated[list[Path], typer.Argument(help="Folders of finished phases.")]
Only = Annotated[
    list[str] | None,
    typer.Option(help="Show only these runs or studies, such as 'L2*' or '* on mnist'."),
]
Without = Annotated[list[str] | None, typer.Option(help="Leave these runs or studies out.")]
Judge = Annotated[
    str | None, typer.Option(help="file.py:function that turns measurements into verdicts.")
]
LatencyFile = Annotated[
    Path | None,
    typer.Option(help="JSON file with more measured times, as `boxwood runs latency` writes them."),
]
Title = Annotated[str, typer.Option(help="Title of the page.")]


def report(
    stores: Stores,
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write.", callback=checks.new_file())
    ] = None,
    title: Title = "",
    only: Only = None,
    without: Without = None,
    judge: Judge = None,
    latency_file: LatencyFile = None,
    compare_: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", help="Two recipes to compare seed by seed."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="Folder to write every table to as CSV.", callback=checks.new_folder),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write figures to as PNG and SVG, for papers.",
            callback=checks.new_folder,
        ),
    ] = None,
    overwrite: checks.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every table as JSON.")] = False,
) -> None:
    """Write one self-contained HTML page: what was gained, what it cost, and how certain that is.

    Example: boxwood report runs --out report.html
    """
    paged = out is not None or not (csv or as_json or compare_ or figures)
    path = out or Path("report.html")
    if paged:
        checks.free(path, overwrite=overwrite)
    if paged or figures is not None:
        renderer()  # what charts need, before anything is read
    for folder in filter(None, (csv, figures)):
        checks.empty(folder, overwrite=overwrite)
    about = replace(asked(stores, title, only, without, judge, latency_file), compare=compare_)
    if compare_ is not None and not as_json:
        found = compare(about.studies(), *compare_)
        Console().print(found.summary)
        show(_for_terminal(comparison_table(found)))
    if csv is not None or as_json:
        made = articles(about)
        if csv is not None:
            write_csv(made, csv)
        if as_json:
            say(json_text(to_json(made)))
    for index, study in enumerate(about.studies() if figures else (), 1):
        write_figures(study, (figures or Path()) / f"study-{index}")
    if paged:
        text = page(about)
        write_whole(path, text.encode())
        if not as_json:
            Console(soft_wrap=True).print(f"{path}: {len(text.encode()) / 1e6:.1f} MB")


def _for_terminal(table: Table) -> rich.table.Table:
    """The columns that fit on a line: keys and the second p-value are in the page and the JSON."""
    columns = [column for column in table.columns if column.name not in ("keys", "p_sign")]
    shown = rich.table.Table(box=None, pad_edge=False)
    for column in columns:
        shown.add_column(column.title, justify="right" if column.number else "left")
    for row in table.rows:
        shown.add_row(*(Text(table.text(column, row)) for column in columns))
    return shown


def asked(
    stores: list[Path],
    title: str = "",
    only: list[str] | None = None,
    without: list[str] | None = None,
    judge: str | None = None,
    latency_file: Path | None = None,
) -> Report:
    """Turn what was typed into a report."""
    found: Any = None if judge is None else load(judge)
    if found is not None and not callable(found):
        raise InvalidInput(
            f"Expected {judge} to name a function, got {type(found).__name__}; name one that takes "
            f"measurements and returns findings."
        )
    return Report(
        stores=tuple(stores),
        title=title,
        only=tuple(only or ()),
        without=tuple(without or ()),
        judge=found,
        latencies=() if latency_file is None else (latency_file,),
    )
