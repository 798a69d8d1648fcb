"""The figures of a study for papers: views of the page's charts, as PNG and SVG."""

from collections.abc import Iterator
from pathlib import Path

from boxwood._internal.report.charts.export import grid, write_chart
from boxwood._internal.report.charts.looks import Spec
from boxwood._internal.report.page import layers
from boxwood._internal.report.page.metrics import COSTS, KEPT, qualities
from boxwood._internal.report.page.networks import baseline, networks
from boxwood._internal.report.page.pictures import histogram_figure, pairs
from boxwood._internal.report.page.stills import options_of, view_of
from boxwood._internal.report.page.store_reader import Study
from boxwood._internal.report.page.trade_off import trade_off
from boxwood._internal.report.page.training import training_figure
from boxwood._internal.report.page.training_history import title_of

_SHOWN = ("validation", "validation_loss", "loss")
"""Histories that are drawn, as far as they are there; the last only where one of the others is not."""

Drawn = Iterator[tuple[str, Spec]]


def write_figures(study: Study, stem: Path) -> list[Path]:
    """Draw the trade-off, layers, sensitivity, weights before and after, and how training went.

    What the runs do not hold is left out; nothing is drawn of a network that lost everything.

    Args:
        study: its runs.
        stem: path of the files up to their own names, as in ``figures/study-1``.

    Returns:
        The files, two for each figure.

    Raises:
        InvalidInput: the folder cannot be written.
        MissingDependency: vl-convert is missing.
    """
    title = f"{study.model} on {study.data}"
    parts = (_trade_off, _layers, _sensitivity, _weights, _training)
    return [
        file
        for part in parts
        for name, spec in part(study, title)
        for file in write_chart(spec, stem.with_name(f"{stem.name}-{name}"))
    ]


def _trade_off(study: Study, title: str) -> Drawn:
    """Everything, not only what is near the dense network: paper cannot be asked for more."""
    found = networks(study)
    costs = [metric for metric in COSTS if any(each.values(metric) for each in found)]
    said = qualities(study.measurements)
    if costs and said:
        figure = trade_off(found, baseline(found), costs, said)
        everything = options_of(figure, "Range")["everything"]
        text = "Means over seeds with 95 % intervals; grey: the Pareto front by validation."
        yield "trade-off", view_of(figure, title, options=[everything], text=text)


def _layers(study: Study, title: str) -> Drawn:
    """The smallest network of each curve that has been pruned."""
    found = layers.layered(networks(study))
    figure = layers.layer_figure(found)
    if figure is None:
        return
    smallest = {}
    for network in sorted(found, key=lambda each: -(each.mean(KEPT) or 0.0)):
        if not network.dense:
            smallest[network.curve] = network
    for index, network in enumerate(smallest.values(), 1):
        yield f"layers-{index}", view_of(figure, f"{title}, {network.name}", picked=network.name)


def _sensitivity(study: Study, title: str) -> Drawn:
    figure = layers.sensitivity_figure(study)
    if figure is not None:
        yield "sensitivity", view_of(figure, title)


def _weights(study: Study, title: str) -> Drawn:  # noqa: ARG001
    """A panel for each layer of the last network of each recipe that prunes."""
    found = pairs(study)[0]
    figure = histogram_figure(found)
    if figure is None:
        return
    for index, pair in enumerate(found, 1):
        panels = [
            view_of(figure, layer, picked=pair.name, options=[option], text="", width=260, height=180)
            for layer, option in options_of(figure, "Layer").items()
            if layer in pair.masks
        ]  # fmt: skip
        yield f"weights-{index}", grid(panels, pair.name, text=figure.text)


def _training(study: Study, title: str) -> Drawn:
    """A panel for each history of each recipe."""
    figure = training_figure(study)
    if figure is None:
        return
    held = {(row["branch"], row["what"]) for row in figure.table.rows}
    for index, branch in enumerate(dict.fromkeys(row["branch"] for row in figure.table.rows), 1):
        kinds = [what for what in _SHOWN if (branch, what) in held][:2]
        panels = [
            view_of(
                figure, "", picked=branch, options=[options_of(figure, "Shown")[title_of(what)]],
                text="", width=520, height=180,
            )
            for what in kinds
        ]  # fmt: skip
        if panels:
            yield (
                f"training-{index}",
                grid(panels, f"{title}, {branch}", text=figure.text, columns=1),
            )
