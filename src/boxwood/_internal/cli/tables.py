"""Tables that fit into a terminal's width, or have one line per row in a pipe."""

from rich import box
from rich.table import Column, Table
from rich.text import Text

from boxwood._internal.cli.terminal import NO_LIMIT, Console, say
from boxwood._internal.report.tables import render

_LEAST = 6  # characters of a column that folds


def show(table: Table) -> None:
    r"""Print a table.

    At a terminal no line is longer than the terminal is wide: names fold, numbers do not. Anywhere
    else there are no rules to trip over: a row is a line, and two spaces or more part its columns,
    for ``grep`` and ``awk -F '  +'``. Where ``COLUMNS`` is set, lines are no longer than that there
    either.

    Args:
        table: of rich; line breaks in its cells are for terminals.

    Example:
        >>> table = Table("layer", "weights")
        >>> table.add_row("fc1", "30\n9x fewer")
        >>> show(table)  # doctest: +SKIP
        layer  weights
        fc1    30 9x fewer
    """
    console = Console()
    if console.width >= NO_LIMIT:
        say(render(on_lines(table), NO_LIMIT))
        return
    rule = box.SIMPLE_HEAD if console.is_terminal else None
    say(render(fitted(table, console.width, rule), console.width))


def on_lines(table: Table) -> Table:
    r"""Lay a table out with a line for each row.

    Example:
        >>> table = Table("layer", "weights")
        >>> table.add_row("fc1", "30\n9x fewer")
        >>> print(render(on_lines(table)), end="")
        layer  weights
        fc1    30 9x fewer
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in table.columns:
        made.add_column(_line(column.header), justify=column.justify, no_wrap=True)
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        made.add_row(*map(_line, cells))
    return made


def fitted(table: Table, width: int, rule: box.Box | None = None) -> Table:
    """Lay a table out within a width, so that nothing is left out.

    Args:
        table: of rich.
        width: characters of a line.
        rule: what is drawn below the headings.

    Example:
        >>> table = Table("layer", "weights")
        >>> table.add_row("a-long-name", "266,200")
        >>> print(render(fitted(table, 16), 16), end="")
        layer    weights
        a-long-n 266,200
        ame
    """
    widths = [_width(column) for column in table.columns]
    whole = [column.no_wrap or column.justify == "right" for column in table.columns]
    gaps = len(widths) - 1
    gap = 2 if sum(widths) + 2 * gaps <= width else 1
    least = sum(w if kept else min(w, _LEAST) for w, kept in zip(widths, whole, strict=True))
    if least + gap * gaps > width:  # numbers that fold are better than numbers that are cut
        whole = [False] * len(widths)
    made = Table(
        box=rule,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap - (rule is not None), 0, 0),
        leading=table.leading,
    )
    for column, kept in zip(table.columns, whole, strict=True):
        made.add_column(
            Text(_text(column.header)), justify=column.justify, no_wrap=kept, overflow="fold"
        )
    rows = zip(*(column.cells for column in table.columns), strict=True)
    for cells, row in zip(rows, table.rows, strict=True):
        made.add_row(*(Text(_text(cell)) for cell in cells), end_section=row.end_section)
    return made


def _text(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def _line(cell: object) -> Text:
    return Text(" ".join(_text(cell).replace("-\n", "-").split("\n")))


def _width(column: Column) -> int:
    cells = [_text(column.header), *map(_text, column.cells)]
    return max(len(line) for cell in cells for line in cell.split("\n"))
