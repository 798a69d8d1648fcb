"""Where the weights of a network went, as bars for papers: one row for each layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boxwood._internal.report.figures import COLOURS, GREY, house_style, label, write_figure
from boxwood.errors import InvalidInput

_PALE = "#d0dce4"


@dataclass(frozen=True, kw_only=True)
class LayerBar:
    """One layer.

    Args:
        name: of the layer.
        kept: fraction of its weights that is left, the mean over seeds.
        lowest: the seed that kept least.
        highest: the seed that kept most.
        multiply_adds: for one example, before pruning.
        left: multiply-adds of the kept weights.
        lost: accuracy lost when this layer alone is pruned, as a fraction; None where that was
            not scanned.
    """

    name: str
    kept: float
    lowest: float
    highest: float
    multiply_adds: float
    left: float
    lost: float | None = None


def layer_bars(
    layers: Sequence[LayerBar], *, title: str, path: Path, alone: float | None = None
) -> tuple[Path, Path]:
    """Draw what each layer kept, its multiply-adds before and after, and how sensitive it is.

    Args:
        layers: in the order in which they run.
        title: shown above.
        path: of the files, without ending.
        alone: sparsity at which ``lost`` was measured, in (0, 1); without it sensitivity is left
            out.

    Returns:
        The PNG and the SVG.

    Raises:
        InvalidInput: there is no layer, a fraction is not in [0, 1], or the folder cannot be
            written.
        MissingDependency: matplotlib is missing.

    Example:
        >>> import tempfile
        >>> fc = LayerBar(name="fc", kept=0.1, lowest=0.1, highest=0.1, multiply_adds=900, left=90)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = layer_bars([fc], title="LeNet-300-100", path=Path(folder) / "layers")
        >>> [file.name for file in files]
        ['layers.png', 'layers.svg']

    Source: Han et al. (2015), tables 2 to 5 and the figure of pruning sensitivity.
    """
    wrong = [each.name for each in layers if not 0 <= each.lowest <= each.highest <= 1]
    if not layers or wrong:
        raise InvalidInput(
            f"Expected layers with kept fractions in [0, 1], at least one, got {len(layers)} of "
            f"which {wrong} are out of range; give fractions of weights that remain."
        )
    with house_style():
        from matplotlib.figure import Figure

        panels = 2 if alone is None else 3
        figure = Figure(figsize=(3.1 * panels + 0.8, 1.3 + 0.34 * len(layers)))
        axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
        figure.suptitle(title, x=0.01, horizontalalignment="left")
        places = list(range(len(layers)))
        kept = [100 * each.kept for each in layers]
        reach = [
            [100 * max(0.0, each.kept - each.lowest) for each in layers],
            [100 * max(0.0, each.highest - each.kept) for each in layers],
        ]
        axes[0].barh(places, kept, color=COLOURS[0])
        axes[0].errorbar(kept, places, xerr=reach, fmt="none", ecolor="#000000", capsize=2)
        axes[0].set_xlabel("weights kept [%]")
        axes[0].set_yticks(places, [label(each.name) for each in layers])
        axes[0].invert_yaxis()
        axes[1].barh(places, [e.multiply_adds for e in layers], color=_PALE, label="dense")
        axes[1].barh(places, [e.left for e in layers], color=COLOURS[1], label="left")
        axes[1].set_xlabel("multiply-adds per example")
        axes[1].locator_params(axis="x", nbins=4)
        axes[1].legend(loc="lower right")
        if alone is not None:
            for place, each in enumerate(layers):
                if each.lost is not None:
                    axes[2].barh(place, 100 * each.lost, color=COLOURS[2])
            axes[2].axvline(0, color=GREY, linewidth=1)
            axes[2].set_xlabel(f"points lost, alone at {100 * alone:g} % sparsity")
        for each in axes:
            each.grid(visible=False, axis="y")
        return write_figure(figure, path)
