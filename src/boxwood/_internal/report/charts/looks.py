"""The style of every chart: colours, markers, dashes and the theme.

Colours are CSS variables, so that one drawing serves light, dark and print; `page.css` gives their
values. Lines differ in colour, marker and dashes at once, so that they differ in grey
and for colour-blind readers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Spec = dict[str, Any]

# Eight colours (Okabe and Ito 2008, without yellow, which is too light for lines, and with grey)
# are defined in page.css for light and for dark.
COLOURS = 8
SHAPES = (
    "circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left",
)  # fmt: skip
DASHES = ([1, 0], [7, 4], [2, 3], [8, 3, 2, 3])
THEME: Spec = {
    "background": "transparent",
    # Named, because Vega measures text with it to make room for labels.
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif",
    "view": {"stroke": None, "continuousHeight": 340},
    "title": {
        "anchor": "start",
        "color": "var(--ink)",
        "fontSize": 14,
        "fontWeight": 600,
        "subtitleColor": "var(--soft)",
        "subtitleFontSize": 11,
    },
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--ink)",
        "gridColor": "var(--grid)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": 500,
        "titlePadding": 10,
        "labelPadding": 5,
        "labelFlush": False,
        "labelOverlap": "greedy",
        "tickCount": 8,
    },
    "header": {"labelColor": "var(--ink)", "labelFontSize": 12, "title": None},
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--soft)",
        "labelFontSize": 13,
        "labelLimit": 400,
        "symbolLimit": 0,
        "symbolSize": 140,
    },
    "text": {"color": "var(--soft)", "fontSize": 12},
    "rule": {"color": "var(--soft)"},
}


def colour(look: int) -> str:
    """Colour of a line.

    Example:
        >>> colour(0), colour(9)
        ('var(--c0)', 'var(--c1)')
    """
    return f"var(--c{look % COLOURS})"


def dash(look: int) -> list[int]:
    """Dashes of a line; two lines of one colour and marker differ in them.

    Example:
        >>> dash(0), dash(1), dash(8)
        ([1, 0], [7, 4], [7, 4])
    """
    return DASHES[(look + look // COLOURS) % len(DASHES)]


def shape(look: int) -> str:
    """Marker of a line."""
    return SHAPES[look % len(SHAPES)]


def scales(looks: Mapping[str, int], field: str = "series") -> Spec:
    """Encode every series by its look, by name, whichever of them are shown.

    The page has a legend of its own, which a keyboard can reach; so these have none.
    """
    names = list(looks)

    def one(values: Sequence[Any]) -> Spec:
        return {
            "field": field,
            "type": "nominal",
            "scale": {"domain": names, "range": list(values)},
            "legend": None,
        }

    return {
        "color": one([colour(look) for look in looks.values()]),
        "strokeDash": one([dash(look) for look in looks.values()]),
        "shape": one([shape(look) for look in looks.values()]),
    }


def numbered(names: Sequence[str]) -> dict[str, int]:
    """Give every name its look: the first place at which it comes, among different ones.

    Example:
        >>> numbered(["a", "b", "a", "c"])
        {'a': 0, 'b': 1, 'c': 2}
    """
    return {name: look for look, name in enumerate(dict.fromkeys(names))}


def tooltip(*pairs: tuple[str, str]) -> list[Spec]:
    """What pointing at a mark says: (field, title) pairs of text."""
    return [{"field": field, "title": title, "type": "nominal"} for field, title in pairs]
