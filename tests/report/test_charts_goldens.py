"""Charts for papers and studies: what is drawn, that the files are right, and equal bytes for equal charts."""

import re
import struct
import sys
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from boxwood._internal.report.charts.curves import (
    against_remaining,
    bars_of_groups,
    curve_rows,
    dots,
    numbers_against_remaining,
    sensitivity_chart,
)
from boxwood._internal.report.charts.export import grid, still, svg, write_chart
from boxwood._internal.report.charts.looks import Spec, colour, dash, numbered, shape
from boxwood._internal.report.charts.marks import channel, unmarked_lines
from boxwood.errors import InvalidInput, MissingDependency

pytest.importorskip("vl_convert")

TICKETS = {
    "winning ticket": [(0.25, (0.975, 0.985)), (1.0, (0.98, 0.97)), (0.0625, (0.9, 0.94))],
    "_orig $5 <b>": [(1.0, (0.97,)), (0.5, (0.96,))],
}
SCAN = [
    {"series": layer, "sparsity": s, "accuracy": a, "low": a - 0.01, "high": a}
    for layer, s, a in (("conv1", 0.9, 0.4), ("conv1", 0.0, 0.98), ("fc1", 0.5, 0.97))
]


def ticket_chart() -> Spec:
    return still(against_remaining(TICKETS), "LeNet-300-100", text="Means over seeds.")


def sensitivity() -> Spec:
    return still(sensitivity_chart(SCAN, 0.982, "validation accuracy"), "LeNet-5")


def dotted() -> Spec:
    return still(dots({"hard": [0.1, 0.2], "soft 20": [0.05]}, "test error"), "Distillation")


def barred() -> Spec:
    bars = bars_of_groups({"wanda": {"0.5": 0.8}, "magnitude": {"0.5": 0.4}}, "top 1", 0.9)
    return still(bars, "Encoder")


def panelled() -> Spec:
    rows = [{"series": f"b = {b}", "at": i, "value": i * b} for b in (1, 2) for i in (1, 2)]
    one = unmarked_lines(
        rows,
        x=channel("at", "update"),
        y=channel("value", "reward"),
        looks=numbered(["b = 1", "b = 2"]),
    )
    return grid([still(one, name, width=150, height=120) for name in ("conv1", "fc1")], "Agent")


every_chart = pytest.mark.parametrize(
    "chart", [ticket_chart, sensitivity, dotted, barred, panelled]
)
Chart = Callable[[], Spec]


@every_chart
def test_files_are_what_their_names_say(chart: Chart, tmp_path: Path) -> None:
    """A chart is a PNG and a well-formed SVG, in a folder that is made for them, and nothing else."""
    png, vector = write_chart(chart(), tmp_path / "plots" / "lenet.v2")
    assert [file.name for file in (png, vector)] == ["lenet.v2.png", "lenet.v2.svg"]
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert ElementTree.parse(vector).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314
    assert sorted(tmp_path.rglob("*.*")) == [png, vector]


@every_chart
def test_equal_charts_are_equal_bytes(chart: Chart, tmp_path: Path) -> None:
    """A second write gives the same bytes, whatever was drawn in between."""
    first = [file.read_bytes() for file in write_chart(chart(), tmp_path / "first.svg")]
    svg(sensitivity())
    assert first == [file.read_bytes() for file in write_chart(chart(), tmp_path / "second.png")]


@every_chart
def test_charts_stand_alone(chart: Chart) -> None:
    """No variable of the page is left in them, and text is in a font that every machine has."""
    drawn = svg(chart())
    assert "var(--" not in drawn
    assert set(re.findall(r'font-family="([^"]*)"', drawn)) == {
        "Liberation Sans, Arial, Helvetica, sans-serif"
    }
    assert not re.search(r'(href|src)="http', drawn)


@every_chart
def test_a_chart_is_left_as_it_is(chart: Chart) -> None:
    """Drawing changes nothing of a specification, so that a page can use it too."""
    made = chart()
    before = repr(made)
    svg(made)
    assert repr(made) == before


def test_pixels_are_those_of_the_renderer(tmp_path: Path) -> None:
    """The PNG is compressed again, which changes no pixel."""
    import vl_convert

    png, vector = write_chart(ticket_chart(), tmp_path / "chart")
    plain = vl_convert.svg_to_png(vector.read_text(), scale=2)
    assert pixels(png.read_bytes()) == pixels(plain)
    assert len(png.read_bytes()) < 0.6 * len(plain)


def pixels(file: bytes) -> bytes:
    """The unpacked image data of a PNG, with its header."""
    at, header, packed = 8, b"", b""
    while at < len(file):
        (length,) = struct.unpack(">I", file[at : at + 4])
        name, data = file[at + 4 : at + 8], file[at + 8 : at + 8 + length]
        assert struct.unpack(">I", file[at + 8 + length : at + 12 + length]) == (
            zlib.crc32(name + data),
        )
        header += data if name == b"IHDR" else b""
        packed += data if name == b"IDAT" else b""
        at += length + 12
    return header + zlib.decompress(packed)


def test_unwritable_folders_are_refused(tmp_path: Path) -> None:
    """A folder that cannot be made is the user's to repair, and is named."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInput, match=r"can be written for .*figure\.png, got .*; choose"):
        write_chart(ticket_chart(), tmp_path / "file" / "figure")


def test_interrupted_writes_leave_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full the old figure stays, and no half of a new one."""
    png, vector = write_chart(ticket_chart(), tmp_path / "figure")
    before = png.read_bytes(), vector.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InvalidInput, match="got No space left on device"):
        write_chart(sensitivity(), tmp_path / "figure")
    assert (png.read_bytes(), vector.read_bytes()) == before
    assert sorted(tmp_path.iterdir()) == [png, vector]


def test_a_missing_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without vl-convert the message names the extra, and nothing is written."""
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingDependency, match=r"pip install 'boxwood\[report\]'"):
        write_chart(ticket_chart(), tmp_path / "figure")
    assert list(tmp_path.iterdir()) == []


def test_curves_join_means_and_span_the_seeds() -> None:
    """Rows are in the order of the axis; ends are the lowest seed and the highest."""
    rows = curve_rows(TICKETS)
    assert [(row["series"], row["at"]) for row in rows[:3]] == [
        ("winning ticket", 0.0625), ("winning ticket", 0.25), ("winning ticket", 1.0),
    ]  # fmt: skip
    assert rows[1]["value"] == pytest.approx(0.98)
    assert (rows[1]["low"], rows[1]["high"], rows[1]["seeds"]) == (0.975, 0.985, 2)
    assert curve_rows({"a": [(1, (1, 5, 6))]}, centre=sorted)[0]["value"] == [1, 5, 6]


def test_fewer_weights_are_to_the_right_with_a_tick_at_each_halving() -> None:
    """The axis ends with the last point; its title and numbers carry the unit."""
    x = against_remaining(TICKETS)["encoding"]["x"]
    assert x["axis"]["values"] == [1, 0.5, 0.25, 0.125, 0.0625]
    assert (x["scale"]["type"], x["scale"]["reverse"]) == ("log", True)
    drawn = svg(ticket_chart())
    for said in ("100%", "6.25%", "weights remaining", "test accuracy", "LeNet-300-100"):
        assert f">{said}<" in drawn


def test_names_are_text() -> None:
    """Underscores, dollars and tags in a name are shown as they are."""
    drawn = svg(ticket_chart())
    assert ">_orig $5 &lt;b&gt;<" in drawn or ">_orig $5 &lt;b><" in drawn


def test_series_can_be_told_apart_without_colour() -> None:
    """Thirty-two looks differ by marker or dashes where colours are the same; neighbours in both."""
    looks = [(shape(i), tuple(dash(i))) for i in range(32)]
    assert len(set(looks)) == 32
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(looks))
    assert len({colour(i) for i in range(32)}) == 8


def test_a_legend_names_every_series_and_a_single_one_has_none() -> None:
    """Legends are there exactly where there is something to tell apart."""
    assert svg(ticket_chart()).count(">winning ticket<") == 1
    alone = still(against_remaining({"dense": [(1.0, (0.98,)), (0.5, (0.9,))]}), "")
    assert ">dense<" not in svg(alone)
    assert svg(panelled()).count(">b = 1<") == 1


def test_sensitivity_shows_the_dense_network() -> None:
    """A dashed line is at the dense accuracy, and each layer is named."""
    made = sensitivity()
    assert made["layer"][0]["data"] == {"values": [{"accuracy": 0.982}]}
    drawn = svg(made)
    for said in ("conv1", "fc1", "sparsity of the one pruned layer", "validation accuracy"):
        assert f">{said}<" in drawn


def test_numbers_are_drawn_as_they_are() -> None:
    """Steps and perplexities are no fractions."""
    drawn = svg(still(numbers_against_remaining({"a": [(1.0, (5000,)), (0.5, (80,))]}, "step"), ""))
    assert ">5k<" in drawn
    assert ">100%<" in drawn  # of the weights that remain


def test_bars_differ_in_lightness() -> None:
    """Bars have no markers; they run from dark to light."""
    fills = re.findall(r'aria-roledescription="bar"[^>]*fill="#(\w{6})"', svg(barred()))
    light = [sum(bytes.fromhex(each)) for each in dict.fromkeys(fills)]
    assert light == sorted(light)
    assert len(light) == 2


@pytest.mark.parametrize("empty", [{}, {"dense": [(0.5, (0.5,))], "ticket": []}, {"a": [(1, ())]}])
def test_empty_curves_are_refused(empty: dict[str, Any]) -> None:
    """There is nothing to see in a chart without points."""
    with pytest.raises(InvalidInput, match=r"at least one.* leave those out"):
        numbers_against_remaining(empty, "step")


@pytest.mark.parametrize("kept", [0, -0.1, 1.1, 50])
def test_impossible_kept_fractions_are_refused(kept: float) -> None:
    """A log axis shows kept fractions in (0, 1], not zero and not percent."""
    with pytest.raises(InvalidInput, match=r"kept fractions of 'ticket' in \(0, 1\], got"):
        numbers_against_remaining({"ticket": [(kept, (0.5,))]}, "step")


@pytest.mark.parametrize("accuracy", [98.2, -0.1, float("nan")])
def test_impossible_accuracies_are_refused(accuracy: float) -> None:
    """An accuracy is a fraction in [0, 1]; percent, and runs that diverged, are refused by place."""
    with pytest.raises(
        InvalidInput, match=r"accuracies of 'ticket' at kept fraction 0.5 in \[0, 1"
    ):
        against_remaining({"ticket": [(0.5, (0.9, accuracy))]})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    """A run that diverged has no place on an axis."""
    with pytest.raises(InvalidInput, match=r"finite numbers .* on 'a'; leave out the runs"):
        curve_rows({"a": [(0.5, (value,))]})
