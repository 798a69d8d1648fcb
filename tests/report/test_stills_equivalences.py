"""Charts without the page: what its reader may choose can be drawn, and shows what was chosen."""

import re
from collections.abc import Iterator

import pytest

from boxwood._internal.report.charts.export import svg
from boxwood._internal.report.page.build import Report, articles
from boxwood._internal.report.page.document import Figure
from boxwood._internal.report.page.stills import options_of, view_of
from boxwood._internal.runs.store import Store

pytest.importorskip("vl_convert")


def figures(store: Store) -> Iterator[Figure]:
    for article in articles(Report(stores=(store.root,))):
        for section in article.sections:
            yield from (part for part in section.parts if isinstance(part, Figure))


def picks(figure: Figure) -> list[str]:
    found = (str(row[figure.picked_by]) for row in figure.table.rows if figure.picked_by)
    return list(dict.fromkeys(found)) or [""]


def test_every_view_of_the_page_can_be_drawn(store: Store) -> None:
    """Each choice of each control and of each pick gives a chart with something in it."""
    views = 0
    for figure in figures(store):
        for picked in picks(figure):
            for control in figure.controls:
                for option in control.options:
                    drawn = svg(view_of(figure, "", picked=picked, options=[option]))
                    assert "e+" not in "".join(re.findall(r">([^<>]*)</text>", drawn))
                    views += 1
    assert views > 20


def test_a_view_shows_what_was_picked(store: Store) -> None:
    """Of the recipes only the chosen one is there, and of its histories only the chosen one."""
    (training,) = (each for each in figures(store) if each.name == "training")
    loss = options_of(training, "Shown")["loss"]
    dense, pruned = (
        svg(view_of(training, "", picked=picked, options=[loss])) for picked in ("dense", "pruned")
    )
    assert "50 % left" in pruned
    assert "50 % left" not in dense
    assert ">loss<" in dense
    assert ">validation accuracy<" in svg(view_of(training, "", picked="dense"))


def test_a_figure_is_left_as_it_is(store: Store) -> None:
    """Drawing a view changes nothing of the page."""
    for figure in figures(store):
        before = repr(figure.spec)
        view_of(
            figure, "", picked=picks(figure)[0], options=[c.options[-1] for c in figure.controls]
        )
        assert repr(figure.spec) == before
