"""One view of a figure of the page for papers, without interactive controls."""

import copy
from collections.abc import Sequence
from typing import Any

from boxwood._internal.report.charts.export import choose, still
from boxwood._internal.report.charts.looks import Spec
from boxwood._internal.report.page.document import Figure, Option


def view_of(
    figure: Figure,
    title: str,
    *,
    picked: str = "",
    options: Sequence[Option] = (),
    text: str | None = None,
    width: int = 460,
    height: int = 0,
) -> Spec:
    """Make what the page draws once its reader has chosen; `page.js` does the same.

    Args:
        figure: of the page.
        title: shown above.
        picked: choice of the pick that the figure follows.
        options: choices of its controls; each control without one has its first.
        text: how to read it; that of the figure by default.
        width: of the plot.
        height: likewise; 0 leaves that of the figure.
    """
    spec: Spec = copy.deepcopy(dict(figure.spec))
    for option in options:
        for pointer, value in option.patches.items():
            _patch(spec, pointer, value)
    if figure.picked_by:
        spec = choose(spec, {"field": figure.picked_by, "equal": picked}, figure.picked_by)
    spec["description"] = figure.alternative
    text = figure.text if text is None else text
    return still(spec, title, text=text, width=width, height=height)


def options_of(figure: Figure, control: str) -> dict[str, Option]:
    """Name the choices of a control."""
    (found,) = (each for each in figure.controls if each.label == control)
    return {option.label: option for option in found.options}


def _patch(spec: Spec, pointer: str, value: Any) -> None:
    """Put a value where a JSON pointer says."""
    *path, last = pointer.split("/")[1:]
    at: Any = spec
    for step in path:
        at = at[int(step)] if isinstance(at, list) else at.setdefault(step, {})
    at[last] = copy.deepcopy(value)
