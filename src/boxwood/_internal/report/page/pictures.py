"""Pictures of the states in a store: weights before and after, and masks as small images."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxwood._internal.report.charts.looks import tooltip
from boxwood._internal.report.charts.marks import base, channel, only
from boxwood._internal.report.page.document import (
    Column,
    Control,
    Figure,
    Gallery,
    Option,
    Picture,
    Table,
)
from boxwood._internal.report.page.metrics import percent
from boxwood._internal.report.page.store_reader import Run, Study
from boxwood._internal.report.png import grey_uri
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError

PRUNED = "pruned"
"""Name of the pick that chooses a pruned network in this section."""
_BINS = range(15, 43, 2)
"""Bars of a histogram: the most of these that keep the rows of all within `_ROWS`."""
_ROWS = 10_000
_LARGEST = 320
_COLOURS = (1, 3)
_LAYERS = 12
"""Layers of one network that are shown; the first ones."""


@dataclass(frozen=True)
class Pair:
    """The weights of one network before anything was pruned, and at its last measurement."""

    branch: str
    name: str
    before_key: str
    after_key: str
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    masks: dict[str, Tensor]


def pairs(study: Study) -> tuple[list[Pair], list[str]]:
    """Read the last network of the first seed of every branch that prunes.

    Returns:
        The pairs, and what could not be read: a report of damaged states is still a report.
    """
    found, damaged = [], []
    states = _States()
    for branch, runs in study.branches.items():
        run = runs[0]
        places = _places(run)
        if places is None:
            continue
        first, last = places
        try:
            before, _ = states.of(run.store, first)
            after, masks = states.of(run.store, last)
        except BoxwoodError as error:
            damaged.append(f"{branch}: {error}")
            continue
        if masks and all(
            name in before and before[name].shape == m.shape for name, m in masks.items()
        ):
            label = next(step.label for step in run.steps if step.key == last)
            name = f"{branch} {label}".strip() + f", seed {run.seed}"
            found.append(Pair(branch, name, first, last, before, after, masks))  # fmt: skip
    return found, damaged


def histogram_figure(found: Sequence[Pair]) -> Figure | None:
    """Draw how the weights of a layer were spread before pruning, and how what is left is."""
    drawn = [(pair, layer) for pair in found for layer in list(pair.masks)[:_LAYERS]]
    if not drawn:
        return None
    fitting = [bins for bins in _BINS if 2 * bins * len(drawn) <= _ROWS]
    bins = max(fitting, default=_BINS[0])
    rows = [row for pair, layer in drawn for row in _histogram(pair, layer, bins)]
    names = list(dict.fromkeys(layer for _, layer in drawn))
    whats = ("before pruning", "left at the end")
    step = {"interpolate": "step"}
    legend = {"orient": "top", "title": None, "symbolOpacity": 1, "symbolStrokeWidth": 0}
    by_state = {"field": "what", "type": "nominal", "legend": legend}
    shades = {**by_state, "scale": {"domain": whats, "range": ["var(--c7)", "var(--c1)"]}}
    dashes = {**by_state, "scale": {"domain": whats, "range": [[1, 0], [4, 2]]}}
    spec = {
        **base(rows, [only("layer", names[0])], field=PRUNED),
        "height": 280,
        "encoding": {
            "x": channel("weight", "weight", nice=False),
            "y": {"field": "share", "type": "quantitative", "stack": None,
                  "axis": {"title": "share of its non-zero weights", "format": "~%"}},
            "color": shades,
        },
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.35, **step},
                "encoding": {"tooltip": tooltip(("what", "of"), ("count", "weights here"), ("key", "key"))},
            },
            {"mark": {"type": "line", "strokeWidth": 1.8, **step}, "encoding": {"strokeDash": dashes}},
        ],
    }  # fmt: skip
    return Figure(
        name="weights",
        title="Weights before and after",
        text=(
            "Each spread is a share of its own non-zero weights, because far fewer are left "
            "afterwards. The axis ends at the 99.9th percentile of magnitudes."
        ),
        alternative=(
            f"Two histograms for the chosen layer of the chosen network, of {len(names)} layers: "
            f"its weights before pruning, and those that are left."
        ),
        spec=spec,
        table=Table(
            "weights",
            "Histograms of the chosen network",
            (
                Column("pruned", "network"),
                Column("layer", "layer"),
                Column("what", "of"),
                Column("weight", "weight", "{:.4f}".format, number=True),
                Column("count", "weights", "{:,}".format, number=True),
                Column("key", "key"),
            ),
            rows,
            picked_by=PRUNED,
        ),
        controls=[
            Control("Layer", [Option(layer, {"/transform/1/filter/equal": layer}) for layer in names]),
        ],
        picked_by=PRUNED,
    )  # fmt: skip


def mask_gallery(found: Sequence[Pair]) -> Gallery | None:
    """Show the masks of each network: dark is kept."""
    shown = [picture for pair in found for picture in _pictures(pair)]
    if not shown:
        return None
    return Gallery(
        "Masks",
        "Each mark is a weight that is kept; large masks are averaged over neighbours, so that a shade is a share.",
        shown,
        picked_by=PRUNED,
    )


class _States:
    """Weights by key, each read once: all recipes of a seed share their dense network."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}

    def of(self, store: Store, key: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if key not in self._read:
            state = store.load(key)
            self._read[key] = dict(state.weights), dict(state.masks)
        return self._read[key]


def _places(run: Run) -> tuple[str, str] | None:
    """Keys of the last state without masks and of the last measured state with masks."""
    before = run.start.key
    for step in run.steps:
        if step.record is None or "sparsity" in step.facts:
            break
        before = step.key
    else:
        return None
    measured = [step for step in run.steps if step.measures]
    if not measured or measured[-1].facts.get("kept") == measured[-1].facts.get("weights"):
        return None
    return before, measured[-1].key


def _histogram(pair: Pair, layer: str, bins: int) -> Iterator[dict[str, Any]]:
    before = pair.before[layer].float().flatten().numpy()
    after = pair.after[layer][pair.masks[layer]].float().flatten().numpy()
    reach = max(
        (float(np.quantile(np.abs(w), 0.999)) for w in (before, after) if w.size), default=0
    )
    edges = np.linspace(-(reach or 1.0), reach or 1.0, bins + 1)
    for what, weights, key in (
        ("before pruning", before, pair.before_key),
        ("left at the end", after, pair.after_key),
    ):
        counts, _ = np.histogram(weights, edges)
        for count, left, right in zip(counts, edges, edges[1:], strict=False):
            yield {
                PRUNED: pair.name, "layer": layer, "what": what, "key": key[:8],
                "weight": float(f"{(left + right) / 2:.4g}"), "count": int(count),
                "share": float(f"{count / max(1, weights.size):.4g}"),
            }  # fmt: skip


def _pictures(pair: Pair) -> Iterator[Picture]:
    for position, (name, mask) in enumerate(list(pair.masks.items())[:_LAYERS]):
        if mask.dim() < 2:
            continue
        kept = mask.float()
        share = f"{percent(float(kept.mean()))} of {mask.numel():,} kept"
        about = f"{share}, key {pair.after_key[:8]}"
        if position == 0 and mask.dim() == 2 and (side := _image_side(mask.shape[1])):
            picture = kept.mean(0).reshape(-1, side, side).mean(0)
            yield _picture(
                pair, picture / max(float(picture.max()), 1e-9), f"{name}: share kept per input pixel", about
            )  # fmt: skip
        if mask.dim() == 4:
            if position == 0:
                yield _picture(pair, _tiles(kept), f"{name}: filters", about)
            else:
                kernels = f"{name}: share kept per kernel (filters down, channels across)"
                yield _picture(pair, kept.mean((2, 3)), kernels, about)
        elif mask.dim() == 2:
            yield _picture(pair, kept, f"{name}: outputs down, inputs across", about)


def _picture(pair: Pair, kept: Tensor, title: str, about: str) -> Picture:
    # Sixteen shades are as many as an eye distinguishes here, and half the bytes of 256.
    grey = (17 * (15 - 15 * _pooled(kept).clamp(0, 1)).round()).to(torch.uint8).numpy()
    height, width = grey.shape
    scale = max(1, min(8, 160 // max(height, 1)))
    return Picture(
        title=title,
        alternative=f"Mask of {title}; {about}.",
        png=grey_uri(grey),
        width=width * scale,
        height=height * scale,
        picked=pair.name,
    )


def _pooled(kept: Tensor) -> Tensor:
    """Average neighbours until neither side is longer than a picture may be."""
    factor = -(-max(kept.shape) // _LARGEST)
    height, width = (max(1, side // factor) for side in kept.shape)
    return torch.nn.functional.adaptive_avg_pool2d(kept[None], (height, width))[0]


def _tiles(kept: Tensor) -> Tensor:
    """Lay the filters of a first convolution side by side, a pale line between them."""
    filters = kept.mean(1)
    count, height, width = filters.shape
    across = math.ceil(math.sqrt(count * 2))
    down = -(-count // across)
    sheet = torch.full((down * (height + 1) - 1, across * (width + 1) - 1), 0.25)
    for index in range(count):
        row, column = divmod(index, across)
        top, left = row * (height + 1), column * (width + 1)
        sheet[top : top + height, left : left + width] = filters[index]
    return sheet


def _image_side(inputs: int) -> int | None:
    """Side of the square image that a first linear layer reads, if its width is one's."""
    for colours in _COLOURS:
        side = math.isqrt(inputs // colours)
        if side > 3 and colours * side * side == inputs:
            return side
    return None
