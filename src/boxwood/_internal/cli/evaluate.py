"""``boxwood evaluate``: compare language models on texts and tasks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import rich.table
import torch
import typer
from rich.text import Text

from boxwood._internal.cli import checks
from boxwood._internal.cli.models import Threads
from boxwood._internal.cli.progress import bar
from boxwood._internal.cli.prune_blocks import read_text
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.core.replacing import write_whole
from boxwood._internal.report.charts.export import renderer
from boxwood._internal.report.language_models import MeasuredModel, TextRow, json_rows, text_rows
from boxwood._internal.report.page.document import Table
from boxwood._internal.report.page.evaluation_page import (
    cost_table,
    evaluation_page,
    task_table,
    text_table,
)
from boxwood._internal.runs.provenance import provenance
from boxwood.errors import InvalidInput

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def evaluate(
    folders: Annotated[
        list[str],
        typer.Argument(
            help="Hugging Face folders, or NAME=FOLDER. Folders with the same name "
            "are seeds of one method."
        ),
    ],
    text: Annotated[
        list[Path] | None, typer.Option(help="UTF-8 text file to measure on. Repeatable.")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            help="Tokens in a window. Default: the most that the models take, up to 2048.",
            callback=checks.whole(1),
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens between the starts of windows, at most --length. Default: --length.",
            callback=checks.whole(1),
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Use only this many tokens from the start of each text. Default: all.",
            callback=checks.whole(2, 1_000_000_000),
        ),
    ] = None,
    begin: Annotated[
        bool | None,
        typer.Option(
            "--begin/--no-begin",
            help="Start every window with the beginning-of-text token. Default: as "
            "the tokenizer does.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Name or folder to compare with. Default: the first, if there are several."
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Zero-shot tasks of lm-eval, such as arc_easy,piqa. Repeatable."),
    ] = None,
    task_folder: Annotated[
        Path | None, typer.Option(help="Folder with YAML files of your own tasks for lm-eval.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Number of examples per task. Default: all.", callback=checks.whole(1)),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(help="Number of windows or requests in one call.", callback=checks.whole(1)),
    ] = 1,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16. Default: as the weights are stored."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute, such as cpu or cuda.")] = "cpu",
    report: Annotated[
        Path | None, typer.Option(help="HTML page to write.", callback=checks.new_file())
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Language models",
    overwrite: checks.Overwrite = False,
    threads: Threads = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure language models: perplexity, bits per byte, speed, memory, and zero-shot tasks.

    Every token of a text except the first is predicted exactly once. Intervals are 95 %, over pieces
    of --length tokens. Differences between models are computed piece by piece.

    Example: boxwood evaluate dense/ pruned/ healed/ --text wiki.txt --length 2048

    Example: boxwood evaluate dense/ wanda=a/ wanda=b/ wanda=c/ --text wiki.txt --report report.html

    Example: boxwood evaluate pruned/ --tasks arc_easy,piqa
    """
    checks.device(device)
    torch.set_num_threads(threads)
    if dtype is not None and dtype not in _DTYPES:
        raise InvalidInput(f"Expected --dtype {', '.join(_DTYPES)}, got {dtype!r}; choose one.")
    asked = [name for each in tasks or () for name in each.split(",") if name]
    if not text and not asked:
        raise InvalidInput(
            "Expected --text or --tasks to measure with, got neither; give --text FILE."
        )
    named = _named(folders, against)
    if report is not None:
        checks.free(report, overwrite=overwrite)
        renderer()
    texts = _texts(text or ())
    settings: dict[str, Any] = {
        "length": length, "stride": stride, "tokens": tokens, "begin": begin, "batch": batch,
        "dtype": dtype, "device": device, "threads": threads,
    }  # fmt: skip
    reference = _reference(named, against)
    if texts:
        settings["length"] = length = length or _longest([folder for _, folder in named])
        settings["stride"] = stride or length
    measured = [
        _measured(
            name, folder, texts, asked,
            settings={**settings, "dtype": _DTYPES[dtype] if dtype else None},
            task_folder=task_folder, limit=limit, quiet=as_json,
        )
        for name, folder in named
    ]  # fmt: skip
    rows = text_rows(measured, reference)
    if report is not None:
        page = evaluation_page(measured, rows, against=reference, settings=settings, title=title)
        write_whole(report, page.encode())
    if as_json:
        found = {"settings": settings, "against": reference, **json_rows(measured, rows)}
        say(json.dumps({**found, "machine": provenance()}, indent=1, default=str))
        return
    _say(measured, rows, reference, report)


def _measured(
    name: str,
    folder: Path,
    texts: dict[str, str],
    tasks: list[str],
    *,
    settings: dict[str, Any],
    task_folder: Path | None,
    limit: int | None,
    quiet: bool,
) -> MeasuredModel:
    # Only here: transformers takes seconds to import.
    from boxwood._internal.adapters.evaluating import evaluate_pretrained
    from boxwood._internal.adapters.folders import quiet_loading
    from boxwood._internal.adapters.zero_shot import zero_shot

    quiet_loading()
    of_texts = {n: s for n, s in settings.items() if n != "threads"}
    with bar(name, quiet=quiet) as watch:
        options = of_texts if watch is None else {**of_texts, "watch": watch}
        found = evaluate_pretrained(folder, texts, **options)
    of_tasks = {n: settings[n] for n in ("batch", "dtype", "device")}
    answered = (
        zero_shot(folder, tasks, task_folder=task_folder, limit=limit, **of_tasks) if tasks else ()
    )
    return MeasuredModel(
        name=name,
        folder=str(folder),
        parameters=found.parameters,
        nonzero=found.nonzero,
        bytes=found.bytes,
        tokens_per_second=found.tokens_per_second if texts else None,
        peak_memory_bytes=found.peak_memory_bytes,
        texts=found.texts,
        tasks=answered,
    )


def _named(folders: Sequence[str], against: str | None) -> list[tuple[str, Path]]:
    """Names and folders, that to compare with among them; a folder that is there is no NAME=FOLDER."""
    found = [_split(each) for each in folders]
    if against is not None and not any(against == n or Path(against) == f for n, f in found):
        found.insert(0, _split(against))
    for name, folder in found:
        if not (folder / "config.json").is_file():
            raise InvalidInput(
                f"Expected a folder with config.json at {folder}, got none; give a folder as "
                f"save_pretrained writes it."
            )
        if sum(other == folder for _, other in found) > 1:
            raise InvalidInput(
                f"Expected each folder once, got {folder} twice as {name}; leave one out."
            )
    return found


def _split(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if equals and not Path(text).is_dir():
        return name, Path(folder)
    return Path(text).resolve().name, Path(text)


def _reference(named: Sequence[tuple[str, Path]], against: str | None) -> str | None:
    if against is not None:
        return next(name for name, folder in named if against == name or Path(against) == folder)
    names = [name for name, _ in named]
    several = len(set(names)) > 1 and names.count(names[0]) == 1
    return names[0] if several else None


def _texts(files: Sequence[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files:
        if file.stem in found:
            raise InvalidInput(
                f"Expected texts of different names, got {file.stem} twice; rename one."
            )
        found[file.stem] = read_text(file)
    return found


def _longest(folders: Sequence[Path]) -> int:
    from boxwood._internal.adapters.evaluating import longest_of

    return min(longest_of(folder) for folder in folders)


def _say(
    measured: Sequence[MeasuredModel],
    rows: Sequence[TextRow],
    against: str | None,
    report: Path | None,
) -> None:
    if rows:
        show(_for_terminal(text_table(rows, against)))
    if any(each.tasks for each in measured):
        show(_for_terminal(task_table(measured)))
    show(_for_terminal(cost_table(measured)))
    if report is not None:
        Console().print(f"Page: {report}")


def _for_terminal(table: Table) -> rich.table.Table:
    shown = rich.table.Table(box=None, pad_edge=False)
    for column in table.columns:
        shown.add_column(column.title, justify="right" if column.number else "left")
    for row in table.rows:
        shown.add_row(*(Text(table.text(column, row)) for column in table.columns))
    return shown
