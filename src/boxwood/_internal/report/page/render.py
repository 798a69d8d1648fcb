"""Render articles as one HTML file that includes its styles, script, chart library and data."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata, resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from boxwood._internal.report.charts.export import renderer
from boxwood._internal.report.charts.looks import THEME, colour, dash, shape
from boxwood._internal.report.page.document import Article, Column, Figure, Table

_MOST_ROWS = 120
"""Tables of more rows are text in JSON until they are opened, so that the page opens at once."""
_TAGS = {"serious": "Warning", "mild": "Note", "fine": "Fine"}
_MARKERS = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "square": "M-3.6-3.6h7.2v7.2h-7.2z",
    "triangle-up": "M0-4.6L4.4 3.4H-4.4z",
    "diamond": "M0-5L4.4 0L0 5L-4.4 0z",
    "triangle-down": "M0 4.6L4.4-3.4H-4.4z",
    "cross": "M-1.6-4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z",
    "triangle-right": "M4.6 0L-3.4 4.4V-4.4z",
    "triangle-left": "M-4.6 0L3.4 4.4V-4.4z",
}


def render(
    articles: Sequence[Article], *, title: str, subtitle: str, stores: str, live: bool = False
) -> str:
    """Write the page.

    Args:
        articles: one for each study.
        title: of the page.
        subtitle: said below it.
        stores: where the runs lie, for the last line.
        live: whether a server on this machine renews the page while runs go on.

    Raises:
        MissingDependency: the charts' library is not installed.
    """
    environment = Environment(
        loader=PackageLoader("boxwood._internal.report.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _file("page.js") + (_file("live.js") if live else "")
    template = environment.get_template("page.html")
    return template.render(
        articles=articles,
        title=title,
        subtitle=subtitle,
        stores=stores,
        live=live,
        version=metadata.version("boxwood"),
        tags=_TAGS,
        most_rows=_MOST_ROWS,
        css=Markup(_file("colours.css", "charts") + _file("page.css")),  # noqa: S704 - our own files
        notice=Markup(_file("notice.txt")),  # noqa: S704 - our own file
        library=Markup(library()),  # noqa: S704 - the charts' library
        script=Markup(script),  # noqa: S704 - our own file
        theme=script_json(THEME),
        colour=colour,
        dash=dash,
        marker=lambda look: _MARKERS[shape(look)],
        raw=_raw,
        chart_json=_chart_json,
        rows_json=_rows_json,
    )


def script_json(value: Any) -> Markup:
    r"""Write JSON that is safe between script tags, whatever text is in it.

    Example:
        >>> print(script_json("</script>"))
        "\u003c/script\u003e"
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704 - what is special in HTML was just taken out


def _chart_json(figure: Figure) -> Markup:
    rows: Sequence[Mapping[str, Any]] = figure.spec["data"]["values"]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return script_json(
        {
            "spec": {name: value for name, value in figure.spec.items() if name != "data"},
            "columns": {name: _packed([row.get(name) for row in rows]) for name in names},
            "controls": [[option.patches for option in c.options] for c in figure.controls],
        }
    )


def _rows_json(table: Table) -> Markup:
    columns = [_packed([table.text(c, row) for row in table.rows]) for c in table.columns]
    group = [row.get(table.picked_by) for row in table.rows]
    return script_json({"group": _packed(group), "columns": columns})


def _packed(values: Sequence[Any]) -> Any:
    """Write a column as it is, or as its different values and the place of each among them."""
    if values and all(isinstance(value, str) for value in values):
        different = {value: place for place, value in enumerate(dict.fromkeys(values))}
        if 2 * len(different) < len(values):
            return {"of": list(different), "at": [different[value] for value in values]}
    return [_rounded(value) for value in values]


def _raw(row: Mapping[str, Any], column: Column) -> Any:
    value = row.get(column.name)
    return "" if value is None else value


def _rounded(value: Any) -> Any:
    """Seven digits are more than a chart can show, and fewer bytes."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _file(name: str, folder: str = "page") -> str:
    files = resources.files(f"boxwood._internal.report.{folder}")
    return files.joinpath(name).read_text(encoding="utf-8")


@cache
def library() -> str:
    """Return the charts' library as JavaScript.

    Raises:
        MissingDependency: it is not installed.

    Example:
        >>> "vegaEmbed" in library()  # doctest: +SKIP
        True
    """
    bundle: str = renderer().javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script")
