"""Charts as SVG and PNG files: the same specifications that the page draws, by vl-convert.

Nothing is fetched, and equal charts are equal bytes on one machine. Text is in Liberation Sans,
which vl-convert brings; an SVG names Arial and Helvetica too, whose letters are as wide.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from textwrap import wrap
from types import ModuleType
from typing import Any

from boxwood._internal.core.extras import extra
from boxwood._internal.core.replacing import write_whole
from boxwood._internal.report.charts.looks import THEME, Spec
from boxwood._internal.report.png import recompressed

_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
_SCALE = 2
"""Pixels of a PNG for each unit of the chart."""


def renderer() -> ModuleType:
    """Return the package that holds the charts' library.

    Raises:
        MissingDependency: it is not installed; the extra that has it is named.
    """
    with extra("report", "vl-convert-python, which holds the charts' library"):
        import vl_convert
    found: ModuleType = vl_convert
    return found


def still(spec: Spec, title: str, *, text: str = "", width: int = 460, height: int = 0) -> Spec:
    """Make a chart that needs no page: with a title, a width and legends.

    Args:
        spec: of a chart, as the page takes it.
        title: shown above.
        text: how to read it, below the title; empty for nothing.
        width: of the plot, in units of which an inch has 96.
        height: likewise; 0 leaves that of the chart.
    """
    made: Spec = choose(copy.deepcopy(spec), "true")
    made |= {"width": width, "title": _title(title, text, width)}
    if height:
        made["height"] = height
    marked = any("shape" in encoding for encoding in _encodings(made))
    for encoding in _encodings(made):
        _show_legends(encoding, marked=marked)
        for axis, length in (("x", width), ("y", made["height"])):
            _thin_ticks(encoding.get(axis), length)
    return made


def choose(node: Any, chosen: Any, field: str | None = None) -> Any:
    """Put a choice in place of every filter that waits for one; `page.js` does the same.

    Args:
        node: a chart, or a part of one.
        chosen: the filter.
        field: that the filters are about; None takes all.
    """
    if isinstance(node, dict):
        found = node.get("filter")
        if isinstance(found, dict) and "valid" in found and field in (None, found["field"]):
            return {**node, "filter": chosen}
        return {k: v if k == "values" else choose(v, chosen, field) for k, v in node.items()}
    return [choose(each, chosen, field) for each in node] if isinstance(node, list) else node


def grid(panels: Sequence[Spec], title: str, *, text: str = "", columns: int = 2) -> Spec:
    """Set charts in rows that share their legends.

    Args:
        panels: made by `still`, of equal looks.
        title: shown above all.
        text: how to read them.
        columns: in each row.
    """
    wide = sum(int(panel["width"]) for panel in panels[:columns])
    smaller = {"fontSize": 12, "fontWeight": 500}
    return {
        "title": _title(title, text, wide),
        "columns": columns,
        "spacing": 26,
        "concat": [{**panel, "title": {**panel["title"], **smaller}} for panel in panels],
        "resolve": {"scale": dict.fromkeys(("color", "strokeDash", "shape"), "shared")},
    }


def svg(spec: Spec) -> str:
    """Draw a chart.

    Raises:
        MissingDependency: vl-convert is not installed.
    """
    theme = {**copy.deepcopy(THEME), "background": "#ffffff", "font": _FONT}
    whole = _coloured({**spec, "config": {**theme, **spec.get("config", {})}})
    drawn: str = renderer().vegalite_to_svg(whole, allowed_base_urls=[])
    return _renumbered(drawn)


def write_chart(spec: Spec, path: Path) -> tuple[Path, Path]:
    """Write a chart as PNG and SVG; the same chart gives the same bytes.

    Both are drawn before either is written, and each appears whole under its name or not at all.

    Args:
        spec: made by `still` or `grid`.
        path: of the files, without ending; one of ``.png`` or ``.svg`` is taken off. Missing
            folders are made.

    Raises:
        InvalidInput: the folder cannot be written.
        MissingDependency: vl-convert is not installed.
    """
    stem = path.with_suffix("") if path.suffix in {".png", ".svg"} else path
    drawn = svg(spec)
    image = recompressed(renderer().svg_to_png(drawn, scale=_SCALE))
    png, vector = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg"))
    write_whole(png, image)
    write_whole(vector, drawn.encode())
    return png, vector


@cache
def _colours() -> dict[str, str]:
    """Values of the CSS variables in light, which paper is."""
    files = resources.files("boxwood._internal.report.charts")
    light, _, _ = files.joinpath("colours.css").read_text(encoding="utf-8").partition("@media")
    return dict(re.findall(r"(--[\w-]+): (#\w+);", light))


def _coloured(node: Any) -> Any:
    """Put colours in place of CSS variables everywhere but in the data."""
    if isinstance(node, dict):
        return {k: v if k == "values" else _coloured(v) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [_coloured(each) for each in node]
    if isinstance(node, str) and (found := re.fullmatch(r"var\((--[\w-]+)\)", node)):
        return _colours()[found[1]]
    return node


def _show_legends(encoding: Spec, *, marked: bool) -> None:
    """Give series a legend, in place of the page's check boxes; a single one needs none."""
    # A legend takes the opacity of bands otherwise, and the dashes of lines around markers.
    shown = {"title": None, "symbolOpacity": 1, "symbolFillOpacity": 1}
    shown |= {"symbolStrokeWidth": 0} if marked else {}
    for name in ("color", "strokeDash", "shape"):
        found = encoding.get(name, {})
        if "legend" in found and found["legend"] is None and len(found["scale"]["domain"]) > 1:
            found["legend"] = shown


def _thin_ticks(channel: Any, length: int) -> None:
    """Leave room between the ticks of a small plot."""
    if isinstance(channel, dict) and isinstance(channel.get("axis"), dict):
        channel["axis"].setdefault("tickCount", max(3, length // 55))


def _encodings(node: Any) -> Iterator[Spec]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "encoding":
                yield value
            if name != "values":
                yield from _encodings(value)
    elif isinstance(node, list):
        for each in node:
            yield from _encodings(each)


def _title(title: str, text: str, width: int) -> Spec:
    """Break a title into lines of the chart's width: seven units a letter, five in small."""
    small = {"subtitle": wrap(text, width // 5)} if text else {}
    return {"text": wrap(title, width // 7) or "", **small}


def _renumbered(drawn: str) -> str:
    """Number clip paths from 0; Vega goes on counting from one drawing to the next."""
    places: dict[str, str] = {}
    for name in re.findall(r'<clipPath id="(clip\d+)"', drawn):
        places.setdefault(name, f"clip{len(places)}")
    return re.sub(r'(?<=[#"])clip\d+(?=[")])', lambda found: places.get(found[0], found[0]), drawn)
