"""Tables against the totals that Han et al. print, and their text against itself."""

import json

import pytest

from boxwood._internal.model.counting import LayerCount
from boxwood._internal.report.statistics import mean
from boxwood._internal.report.summary_rows import SummaryRow
from boxwood._internal.report.tables import (
    human,
    human_bytes,
    human_seconds,
    layer_table,
    render,
    summary_table,
    to_json_rows,
    total,
)
from boxwood.errors import BoxwoodError

# Weights and FLOP in thousands, then activation, weights kept and FLOP kept in percent, as printed.
LENET_300_100 = {
    "fc1": (235, 470, 38, 8, 8),
    "fc2": (30, 60, 65, 9, 4),
    "fc3": (1, 2, 100, 26, 17),
}
LENET_5 = {
    "conv1": (0.5, 576, 82, 66, 66),
    "conv2": (25, 3200, 72, 12, 10),
    "fc1": (400, 800, 55, 8, 6),
    "fc2": (5, 10, 100, 19, 10),
}
ALEXNET = {
    "conv1": (35, 211_000, 88, 84, 84),
    "conv2": (307, 448_000, 52, 38, 33),
    "conv3": (885, 299_000, 37, 35, 18),
    "conv4": (663, 224_000, 40, 37, 14),
    "conv5": (442, 150_000, 34, 37, 14),
    "fc1": (38_000, 75_000, 36, 9, 3),
    "fc2": (17_000, 34_000, 40, 9, 3),
    "fc3": (4_000, 8_000, 100, 25, 10),
}


def layers(printed: dict[str, tuple[float, ...]]) -> list[LayerCount]:
    return [
        LayerCount(
            name=name,
            kind="Conv2d" if name.startswith("conv") else "Linear",
            weights=round(1000 * weights),
            kept=round(10 * weights * kept),
            multiply_adds=round(500 * flops),
            effective_multiply_adds=round(5 * flops * kept),
            input_activity=1.0,
            output_activity=activity / 100,
            han_flops_kept=flops_kept / 100,
        )
        for name, (weights, flops, activity, kept, flops_kept) in printed.items()
    ]


def summary(name: str = "ticket", **changes: object) -> SummaryRow:
    settings: dict = {
        "name": name,
        "seeds": 5,
        "accuracy": mean([0.981, 0.982, 0.980, 0.983, 0.984]),
        "sparsity": 0.917,
        "parameters": 266_610,
        "nonzero": 22_218,
        "multiply_adds": 22_000,
        "dense_multiply_adds": 266_200,
        "bytes": 122_200,
        "dense_bytes": 1_066_440,
        "epochs": 240,
        "seconds": 961.2,
    }
    return SummaryRow(**(settings | changes))


@pytest.mark.parametrize(
    ("printed", "kept", "flops_kept"),
    [(LENET_300_100, 8, 8), (LENET_5, 8, 16), (ALEXNET, 11, 30)],
)
def test_totals_are_the_papers(printed: dict, kept: int, flops_kept: int) -> None:
    """From the printed rows of Han et al. (2015), tables 2 to 4, follow the printed totals."""
    sums = total(layers(printed))
    assert round(100 * sums.kept / sums.weights) == kept
    assert round(100 * sums.han_flops_kept) == flops_kept


def test_layer_table_reads_like_the_papers() -> None:
    """A row for each layer, and below them the sums, without an activity."""
    assert render(layer_table(layers(LENET_5))).splitlines() == [
        "",
        "                         multiply-  activation  kept  multiply-adds",
        " layer  kind    weights       adds           %     %         kept %",
        " ──────────────────────────────────────────────────────────────────",
        " conv1  Conv2d      500     288.0K        82.0  66.0           66.0",
        " conv2  Conv2d    25.0K      1.60M        72.0  12.0           10.0",
        " fc1    Linear   400.0K     400.0K        55.0   8.0            6.0",
        " fc2    Linear     5.0K       5.0K       100.0  19.0           10.0",
        "",
        " total           430.5K      2.29M               8.4           16.3",
        "",
    ]


def test_summary_table_says_what_was_removed() -> None:
    """Absolute numbers first, the ratio to the dense network below, in words."""
    dense = summary(
        "dense",
        sparsity=0.0,
        nonzero=266_610,
        multiply_adds=266_200,
        bytes=1_066_440,
        epochs=1,
        seconds=4.25,
    )
    assert render(summary_table([dense, summary()])).splitlines() == [
        "",
        "                                                    multiply-",
        " network  n      accuracy  sparsity   parameters         adds     on disk     training",
        " ─────────────────────────────────────────────────────────────────────────────────────",
        " dense    5        98.2 %     0.0 %       266.6K       266.2K     1.07 MB      1 epoch",
        "             [98.0, 98.4]                                                        4.2 s",
        "",
        " ticket   5        98.2 %    91.7 %        22.2K        22.0K    122.2 kB   240 epochs",
        "             [98.0, 98.4]            12.0x fewer  12.1x fewer  8.7x fewer  16 min 01 s",
        "",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonzero": 0}, "none left"),
        ({"multiply_adds": 0}, "none left"),
        ({"nonzero": 250_000}, "1.07x fewer"),
        ({"nonzero": 133_305}, "2.0x fewer"),
        ({"bytes": 1_119_762}, "1.05x more"),
        ({"accuracy": mean([0.9])}, "interval)"),
    ],
)
def test_summary_table_in_unusual_cases(changes: dict, words: str) -> None:
    """Nothing left, little removed, and a file that grew are all said plainly."""
    assert words in render(summary_table([summary(**changes)]))


def test_json_rows_are_exact() -> None:
    """JSON has the integers that the tables round, and survives a strict encoder."""
    rows = layers(LENET_5)
    found = json.loads(json.dumps(to_json_rows([*rows, total(rows)]), allow_nan=False))
    assert [row["weights"] for row in found] == [500, 25_000, 400_000, 5_000, 430_500]
    assert found[-1]["name"] == "total"
    assert found[1]["han_flops_kept"] == 0.1
    (row,) = json.loads(json.dumps(to_json_rows([summary(accuracy=mean([0.9]))]), allow_nan=False))
    assert (row["nonzero"], row["bytes"]) == (22_218, 122_200)
    assert (row["accuracy"]["estimate"], row["accuracy"]["low"]) == (0.9, None)


def test_names_are_never_markup() -> None:
    """Brackets in a name are printed as they are."""
    (row,) = layers({"blocks[0].fc[red]": (1, 2, 3, 4, 5)})
    assert "blocks[0].fc[red]" in render(layer_table([row]))
    assert "lenet [bold]" in render(summary_table([summary("lenet [bold]")]))


def test_rendered_text_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colour codes, no line over the width, no trailing blanks, whatever the terminal is."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "33")
    for width in (80, 120):
        text = render(summary_table([summary("a long name of a network, " * 9)]), width)
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= width
        assert not any(line.endswith(" ") for line in text.splitlines())


def test_narrow_tables_lose_nothing() -> None:
    """Where the width is short, words are folded, not cut."""
    name = "αβγδεζηθικλμνξοπρστυφχψω"
    text = render(summary_table([summary(name)]), 60)
    assert set(name) < set(text)
    assert "…" not in text


def test_no_layers_are_refused() -> None:
    """There is no total of nothing."""
    with pytest.raises(BoxwoodError, match=r"Expected at least one layer .* count a network"):
        layer_table([])


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.0K"),
        (266_200, "266.2K"),
        (999_949, "999.9K"),
        (999_951, "1.00M"),
        (138_357_544, "138.36M"),
        (15_470_000_000, "15.47G"),
        (5 * 10**15, "5000.00T"),
    ],
)
def test_counts_for_people(count: int, text: str) -> None:
    """Counts keep three or four digits, and never show a thousand of a unit but the last."""
    assert human(count) == text


def test_sizes_and_times_for_people() -> None:
    """Sizes are decimal; times have their two largest units, carried over when rounded up."""
    assert [human_bytes(n) for n in (999, 122_200, 4 * 10**9)] == ["999 B", "122.2 kB", "4.00 GB"]
    assert [human_seconds(s) for s in (0, 59.94, 59.96, 961.2, 3599.4, 3599.6, 90_000)] == [
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "16 min 01 s",
        "59 min 59 s",
        "1 h 00 min",
        "25 h 00 min",
    ]
