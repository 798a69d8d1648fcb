"""Figures: what is drawn, that the files are right, and that equal figures are equal bytes."""

import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from boxwood._internal.report import curves
from boxwood.errors import BoxwoodError, MissingDependency

pytest.importorskip("matplotlib")

TICKETS = {
    "winning ticket": [(0.25, (0.975, 0.985)), (1.0, (0.98, 0.97)), (0.0625, (0.9, 0.94))],
    "_orig $5": [(1.0, (0.97,)), (0.5, (0.96,))],
}
SCAN = {"_orig_mod.conv1": [(0.9, 0.4), (0.0, 0.98), (0.5, 0.9)], "fc1": [(0.5, 0.97)]}
BEFORE = {"fc1": np.linspace(-1, 1, 30).reshape(5, 6), "fc2": [0.5, -0.25, 0.75]}
AFTER = {"fc1": np.where(np.abs(BEFORE["fc1"]) > 0.7, BEFORE["fc1"], 0.0), "fc2": [0, 0, 0]}

Draw = Callable[[Path], tuple[Path, Path]]


def trade_off(path: Path) -> tuple[Path, Path]:
    return curves.trade_off(TICKETS, title="LeNet-300-100", path=path)


def sensitivity(path: Path) -> tuple[Path, Path]:
    return curves.sensitivity(SCAN, dense=0.982, title="LeNet-5", path=path)


def weight_histograms(path: Path) -> tuple[Path, Path]:
    return curves.weight_histograms(BEFORE, AFTER, title="LeNet-5 weights", path=path)


every_figure = pytest.mark.parametrize("draw", [trade_off, sensitivity, weight_histograms])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The figures that would have been written."""
    figures: list[Any] = []

    def keep(figure: Any, path: Path) -> tuple[Path, Path]:
        figures.append(figure)
        return path, path

    monkeypatch.setattr(curves, "write_figure", keep)
    return figures


@every_figure
def test_files_are_what_their_names_say(draw: Draw, tmp_path: Path) -> None:
    """A figure is a PNG and a well-formed SVG, in a folder that is made for them, and nothing else."""
    png, svg = draw(tmp_path / "plots" / "lenet.v2")
    assert [file.name for file in (png, svg)] == ["lenet.v2.png", "lenet.v2.svg"]
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert ElementTree.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314
    assert sorted(tmp_path.rglob("*.*")) == [png, svg]


@every_figure
def test_equal_figures_are_equal_bytes(draw: Draw, tmp_path: Path) -> None:
    """A second write gives the same bytes, whatever the user's own settings are."""
    import matplotlib

    first = [file.read_bytes() for file in draw(tmp_path / "first.svg")]
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.grid": False, "font.size": 30}):
        second = [file.read_bytes() for file in draw(tmp_path / "second.png")]
        assert matplotlib.rcParams["lines.linewidth"] == 9
    assert first == second


@every_figure
def test_figures_never_touch_pyplot(
    draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No figure needs pyplot, hence none needs a display or stays in a global list."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    draw(tmp_path / "figure")


@every_figure
def test_writing_again_replaces_the_files(draw: Draw, tmp_path: Path) -> None:
    """Files of the same name are replaced whole."""
    (tmp_path / "figure.svg").write_text("old")
    _, svg = draw(tmp_path / "figure")
    assert svg.read_text().startswith("<?xml")


@every_figure
def test_unwritable_folders_are_refused(draw: Draw, tmp_path: Path) -> None:
    """A folder that cannot be made is the user's to repair, and is named."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BoxwoodError, match=r"can be written for .*figure\.png, got .*; choose"):
        draw(tmp_path / "file" / "figure")


def test_interrupted_writes_leave_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full the old figure stays, and no half of a new one."""
    png, svg = trade_off(tmp_path / "figure")
    before = png.read_bytes(), svg.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BoxwoodError, match="got No space left on device"):
        sensitivity(tmp_path / "figure")
    assert (png.read_bytes(), svg.read_bytes()) == before
    assert sorted(tmp_path.iterdir()) == [png, svg]


@every_figure
def test_missing_matplotlib_says_what_to_install(
    draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without matplotlib the message names the extra."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=r"pip install 'boxwood\[plots\]'"):
        draw(tmp_path / "figure")


def test_trade_off_draws_means_and_ranges(drawn: list[Any], tmp_path: Path) -> None:
    """Lines join means in percent, bands span the seeds, and fewer weights are further right."""
    trade_off(tmp_path)
    (axes,) = drawn[0].axes
    ticket, single = axes.lines
    assert list(ticket.get_xdata()) == [100, 25, 6.25]
    assert list(ticket.get_ydata()) == pytest.approx([97.5, 98, 92])
    assert list(single.get_ydata()) == pytest.approx([97, 96])
    (band,) = axes.collections
    assert {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices} == {
        *((100, 97), (100, 98), (25, 97.5), (25, 98.5), (6.25, 90), (6.25, 94))
    }
    assert axes.xaxis_inverted()
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert ticks == ["100", "50", "25", "12.5", "6.25"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("weights remaining [%]", "test accuracy [%]")
    assert axes.get_title(loc="left") == "LeNet-300-100"
    assert axes.get_legend().get_title().get_text() == "mean, and range over seeds"


def test_single_seeds_claim_no_range(drawn: list[Any], tmp_path: Path) -> None:
    """With one seed there is neither a band nor a word about one, and two ticks at least."""
    curves.trade_off({"dense": [(1.0, (0.98,))]}, title="", path=tmp_path)
    (axes,) = drawn[0].axes
    assert not axes.collections
    assert axes.get_legend().get_title().get_text() == ""
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["100", "50"]


def test_curves_can_be_told_apart_without_colour(drawn: list[Any], tmp_path: Path) -> None:
    """Sixteen curves have sixteen looks, in colour, marker and dashes, and all are in the legend."""
    layers = {f"layer{i}": [(0.5, i / 16)] for i in range(16)}
    curves.sensitivity(layers, dense=0.9, title="", path=tmp_path)
    curves.trade_off(
        {name: [(kept, (y,))] for name, [(kept, y)] in layers.items()}, title="", path=tmp_path
    )
    for figure in drawn:
        (axes,) = figure.axes
        drawn_curves = [line for line in axes.lines if line.get_marker() != "None"]
        looks = {(str(line.get_color()), line.get_marker()) for line in drawn_curves}
        assert len(looks) == 16
        neighbours = pairwise(drawn_curves)
        assert all(a.get_linestyle() != b.get_linestyle() for a, b in neighbours)
        shown = [text.get_text().strip("\u200b") for text in axes.get_legend().get_texts()]
        assert shown[-16:] == list(layers)


def test_sensitivity_draws_one_line_per_layer(drawn: list[Any], tmp_path: Path) -> None:
    """Layers are sorted by sparsity, in percent, below a line at the dense accuracy."""
    sensitivity(tmp_path)
    (axes,) = drawn[0].axes
    dense, conv1, fc1 = axes.lines
    assert list(dense.get_ydata()) == pytest.approx([98.2, 98.2])
    assert list(conv1.get_xdata()) == pytest.approx([0, 50, 90])
    assert list(conv1.get_ydata()) == pytest.approx([98, 90, 40])
    assert list(fc1.get_ydata()) == pytest.approx([97])
    shown = [text.get_text().strip("\u200b") for text in axes.get_legend().get_texts()]
    assert shown == ["dense", "_orig_mod.conv1", "fc1"]
    assert axes.get_xlabel() == "sparsity of the one pruned layer [%]"


def test_histograms_count_what_is_left(drawn: list[Any], tmp_path: Path) -> None:
    """Every weight is in a bin before, every nonzero one after, on the same horizontal axis."""
    weight_histograms(tmp_path)
    counts = [axes.patches[0].get_data().values.sum() for axes in drawn[0].axes]
    assert counts == [30, np.count_nonzero(AFTER["fc1"]), 3, 0]
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert titles == [
        "fc1: 30 weights",
        "33.3 % of them left",
        "fc2: 3 weights",
        "0.0 % of them left",
    ]
    for left, right in np.reshape(drawn[0].axes, (2, 2)):
        assert left.get_xlim() == right.get_xlim()


def test_histograms_of_large_layers_leave_out_one_in_a_thousand(
    drawn: list[Any], tmp_path: Path
) -> None:
    """A few huge weights do not squeeze the rest: at most 0.1 % lie beyond the axis."""
    weights = np.concatenate([np.linspace(-1, 1, 9991), np.full(9, 50.0)])
    curves.weight_histograms({"fc": weights}, {"fc": weights}, title="", path=tmp_path)
    for axes in drawn[0].axes:
        stairs = axes.patches[0].get_data()
        assert 9990 <= stairs.values.sum() <= 9991
        assert stairs.edges[-1] <= 1


@pytest.mark.parametrize("empty", [{}, {"dense": [(0.5, 0.5)], "ticket": []}])
def test_empty_curves_are_refused(empty: dict, tmp_path: Path) -> None:
    """There is nothing to see in a figure without points."""
    for make in (
        lambda: curves.trade_off(empty, title="", path=tmp_path),
        lambda: curves.sensitivity(empty, dense=1, title="", path=tmp_path),
    ):
        with pytest.raises(BoxwoodError, match=r"Expected at least one curve, .* leave those out"):
            make()


@pytest.mark.parametrize("kept", [0, -0.1, 1.1, 50])
def test_impossible_kept_fractions_are_refused(kept: float, tmp_path: Path) -> None:
    """A log axis shows kept fractions in (0, 1], not zero and not percent."""
    with pytest.raises(BoxwoodError, match=r"kept fractions of 'ticket' in \(0, 1\], got"):
        curves.trade_off({"ticket": [(kept, (0.5,))]}, title="", path=tmp_path)


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, 90])
def test_impossible_sparsities_are_refused(sparsity: float, tmp_path: Path) -> None:
    """A sparsity is a fraction in [0, 1], not percent."""
    with pytest.raises(BoxwoodError, match=r"sparsities of layer 'fc1' in \[0, 1\], got"):
        curves.sensitivity({"fc1": [(sparsity, 0.5)]}, dense=0.9, title="", path=tmp_path)


@pytest.mark.parametrize("accuracy", [98.2, -0.1, float("nan")])
def test_impossible_accuracies_are_refused(accuracy: float, tmp_path: Path) -> None:
    """An accuracy is a fraction in [0, 1]; percent, and runs that diverged, are refused by place."""
    with pytest.raises(
        BoxwoodError, match=r"accuracies of 'ticket' at kept fraction 0.5 in \[0, 1"
    ):
        curves.trade_off({"ticket": [(0.5, (0.9, accuracy))]}, title="", path=tmp_path)
    with pytest.raises(BoxwoodError, match=r"layer 'fc1' at sparsity 0.5 .* divide percentages"):
        curves.sensitivity({"fc1": [(0.5, accuracy)]}, dense=0.9, title="", path=tmp_path)
    with pytest.raises(BoxwoodError, match=r"accuracies of the dense network in \[0, 1\]"):
        curves.sensitivity({"fc1": [(0.5, 0.9)]}, dense=accuracy, title="", path=tmp_path)


def test_points_without_seeds_are_refused(tmp_path: Path) -> None:
    """A point needs the accuracy of one seed at least."""
    with pytest.raises(BoxwoodError, match=r"at least one, got \[\]"):
        curves.trade_off({"ticket": [(0.5, ())]}, title="", path=tmp_path)


@pytest.mark.parametrize(("before", "after"), [({}, {}), ({"fc1": [1.0]}, {"fc2": [1.0]})])
def test_unlike_networks_are_refused(before: dict, after: dict, tmp_path: Path) -> None:
    """Before and after are one network."""
    with pytest.raises(BoxwoodError, match=r"Expected the same layers before and after"):
        curves.weight_histograms(before, after, title="", path=tmp_path)


@pytest.mark.parametrize("weights", [[], [1.0, float("inf")]])
def test_broken_weights_are_refused(weights: list[float], tmp_path: Path) -> None:
    """A layer without weights, or with one that is not finite, is named."""
    with pytest.raises(BoxwoodError, match=r"Expected finite weights of 'fc', .* leave the layer"):
        curves.weight_histograms({"fc": [1.0]}, {"fc": weights}, title="", path=tmp_path)
