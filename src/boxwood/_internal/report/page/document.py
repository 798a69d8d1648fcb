"""The parts of a page: sections with tables, figures and pictures, as plain data.

Every number is raw here. A column says how it reads; JSON and CSV take it as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: key in the rows, and header in CSV.
        title: header that people read.
        show: a value to its text; None always shows as a dash.
        number: whether it is aligned and sorted as a number.
    """

    name: str
    title: str
    show: Callable[[Any], str] = str
    number: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of raw values under columns.

    Args:
        name: unique within the study; names the CSV file.
        title: what the rows are.
        columns: what is shown of them.
        rows: the values by column name.
        picked_by: name of a `Pick` on the same page, whose choice hides rows with another value
            of the column of that name.
        opened: whether it is in view from the start, however long.
    """

    kind: ClassVar[str] = "table"

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    picked_by: str = ""
    opened: bool = False

    def text(self, column: Column, row: Row) -> str:
        """What a cell shows.

        Example:
            >>> table = Table("t", "", (), ())
            >>> table.text(Column("a", "A", "{:.1%}".format), {"a": 0.5})
            '50.0%'
            >>> table.text(Column("a", "A"), {})
            '–'
        """
        value = row.get(column.name)
        return "–" if value is None else column.show(value)


@dataclass(frozen=True)
class Option:
    """One choice of a control: JSON pointers into the chart's spec, and the values put there."""

    label: str
    patches: Mapping[str, Any]


@dataclass(frozen=True)
class Control:
    """A choice between views of one figure; the first option is in force at the start."""

    label: str
    options: Sequence[Option]


@dataclass(frozen=True)
class Pick:
    """A choice between rows, of every part of a section that is picked by its name."""

    kind: ClassVar[str] = "pick"

    name: str
    label: str
    values: Sequence[str]


@dataclass(frozen=True)
class Series:
    """One line of a figure, which a check box shows and hides.

    Args:
        name: value of the figure's series field.
        look: number of its colour, marker and dashes; see `boxwood._internal.report.charts.looks`.
    """

    name: str
    look: int


@dataclass(frozen=True)
class Figure:
    """A chart, the same data as a table, and the controls that change its view.

    Args:
        name: unique within the study.
        title: what it shows.
        text: how to read it.
        alternative: what a reader learns who cannot see it.
        spec: Vega-Lite, without theme; its first transform filters the series.
        table: the numbers.
        series: lines that can be hidden, by the field ``series``.
        controls: choices between views.
        picked_by: name of a `Pick` whose choice filters the field of that name.
    """

    kind: ClassVar[str] = "figure"

    name: str
    title: str
    text: str
    alternative: str
    spec: Mapping[str, Any]
    table: Table
    series: Sequence[Series] = ()
    controls: Sequence[Control] = ()
    picked_by: str = ""


@dataclass(frozen=True)
class Picture:
    """A small image, one pixel per weight or per group of weights."""

    title: str
    alternative: str
    png: str
    width: int
    height: int
    picked: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    kind: ClassVar[str] = "gallery"

    title: str
    text: str
    pictures: Sequence[Picture]
    picked_by: str = ""


@dataclass(frozen=True)
class Card:
    """One large number at the top, with its meaning below."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Note:
    """One thing to know before believing a number.

    Args:
        severity: ``serious`` changes what may be concluded, ``mild`` limits it, ``fine`` does not.
        text: what it is.
        details: the evidence, one piece after another.
    """

    severity: str
    text: str
    details: Sequence[str] = ()


@dataclass(frozen=True)
class Notes:
    """A list of notes under a title."""

    kind: ClassVar[str] = "notes"

    title: str
    notes: Sequence[Note]


@dataclass(frozen=True)
class Cards:
    """A row of cards."""

    kind: ClassVar[str] = "cards"

    cards: Sequence[Card]


@dataclass(frozen=True)
class Verbatim:
    """Text in a fixed font, such as BibTeX."""

    kind: ClassVar[str] = "verbatim"

    title: str
    text: str


Part = Table | Figure | Gallery | Notes | Cards | Verbatim | Pick


@dataclass(frozen=True)
class Section:
    """One heading of a study."""

    name: str
    title: str
    text: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Article:
    """Everything about one study."""

    name: str
    title: str
    subtitle: str
    sections: Sequence[Section] = field(default=())


def tables_of(article: Article) -> list[Table]:
    """All tables of an article in order, those of figures too."""
    found: list[Table] = []
    for section in article.sections:
        for part in section.parts:
            if isinstance(part, Table):
                found.append(part)
            elif isinstance(part, Figure):
                found.append(part.table)
    return found
