"""The figures of a study for papers, as PNG and SVG from matplotlib: the data of its page."""

from collections.abc import Callable, Iterator
from pathlib import Path

from boxwood._internal.report.curves import Point, sensitivity, trade_off, weight_histograms
from boxwood._internal.report.layer_bars import LayerBar, layer_bars
from boxwood._internal.report.page import layers, training_history
from boxwood._internal.report.page.metrics import KEPT
from boxwood._internal.report.page.networks import networks, yardstick
from boxwood._internal.report.page.pictures import pairs
from boxwood._internal.report.page.store_reader import Study
from boxwood._internal.report.training_curves import Place, training

Named = Callable[[str], Path]
Written = Iterator[tuple[Path, Path]]
_SHOWN = ("validation", "validation_loss", "loss")
"""Histories that are drawn, as far as they are there."""


def write_figures(study: Study, stem: Path) -> list[Path]:
    """Draw the trade-off, layers, sensitivity, weights before and after, and how training went.

    What the runs do not hold is left out; nothing is drawn of a network that lost everything.

    Args:
        study: its runs.
        stem: path of the files up to their own names, as in ``figures/study-1``.

    Returns:
        The files, two for each figure.

    Raises:
        MissingDependency: matplotlib is missing.
        InvalidInput: the folder cannot be written.
    """

    def named(name: str) -> Path:
        return stem.with_name(f"{stem.name}-{name}")

    parts = (_trade_off, _layers, _sensitivity, _weights, _training)
    return [file for part in parts for files in part(study, named) for file in files]


def _title(study: Study) -> str:
    return f"{study.model} on {study.data}"


def _trade_off(study: Study, named: Named) -> Written:
    found = networks(study)
    test = yardstick(found).test
    curves: dict[str, list[Point]] = {}
    for network in found:
        kept = network.mean(KEPT)
        if kept and network.values(test):
            curves.setdefault(network.curve, []).append((kept, tuple(network.values(test))))
    if curves:
        yield trade_off(
            curves, title=_title(study), path=named("trade-off"), measure=test.title,
            fractions=bool(test.unit),
        )  # fmt: skip


def _layers(study: Study, named: Named) -> Written:
    """The smallest network of each curve that has been pruned."""
    alone = layers.sensitivity(study)
    smallest = {}
    for network in sorted(layers.layered(networks(study)), key=lambda n: -(n.mean(KEPT) or 0.0)):
        if not network.dense:
            smallest[network.curve] = network
    for index, network in enumerate(smallest.values(), 1):
        bars = [
            LayerBar(
                name=row["layer"], kept=row["kept_fraction"], lowest=row["kept_lowest"],
                highest=row["kept_highest"], multiply_adds=row["multiply_adds"],
                left=row["effective_multiply_adds"], lost=row["lost"],
            )
            for row in layers.layer_rows(network, alone)
        ]  # fmt: skip
        yield layer_bars(
            bars, title=f"{_title(study)}, {network.name}", path=named(f"layers-{index}"),
            alone=None if alone is None else alone.sparsity,
        )  # fmt: skip


def _sensitivity(study: Study, named: Named) -> Written:
    scans = layers.scans(study)
    if scans:
        key, first = next(iter(scans.items()))
        lines = {name: [(s, a) for s, a in line] for name, line in first["curves"].items()}
        about = f"{_title(study)}, key {key[:8]}"
        yield sensitivity(lines, dense=first["dense"], title=about, path=named("sensitivity"))


def _weights(study: Study, named: Named) -> Written:
    for index, pair in enumerate(pairs(study)[0], 1):
        before = {name: pair.before[name].float().numpy() for name in pair.masks}
        after = {
            name: pair.after[name].masked_fill(~mask, 0).float().numpy()
            for name, mask in pair.masks.items()
        }
        path = named(f"weights-{index}")
        yield weight_histograms(before, after, title=pair.name, path=path)


def _training(study: Study, named: Named) -> Written:
    points, events = training_history.points(study), training_history.events(study)
    for index, branch in enumerate(dict.fromkeys(each.branch for each in points), 1):
        lines: dict[str, list[Place]] = {}
        for what in _SHOWN:
            mine = [each for each in points if (each.branch, each.what) == (branch, what)]
            if mine and not (what == "loss" and len(lines) > 1):
                percent = training_history.fractions(what, [each.value for each in mine])
                scale, unit = (100, " [%]") if percent else (1, "")
                lines[f"{training_history.title_of(what)}{unit}"] = [
                    (p.at, scale * p.value, scale * p.low, scale * p.high) for p in mine
                ]
        if lines:
            marked = [(each.at, each.short) for each in events if each.branch == branch]
            title = f"{_title(study)}, {branch}"
            yield training(lines, marked, title=title, path=named(f"training-{index}"))
