"""Figures of the papers: accuracy against weights left, sensitivity by layer, weights before and after.

Each function draws one figure and writes it as PNG and SVG. Curves differ in colour, marker and
line style at once, so they can be told apart in grey and by colour-blind readers.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from boxwood._internal.report.figures import COLOURS, GREY, house_style, label, look, write_figure
from boxwood.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The fraction of weights kept, and the accuracy of each seed there.
Point = tuple[float, tuple[float, ...]]


def trade_off(
    curves: Mapping[str, Sequence[Point]],
    *,
    title: str,
    path: Path,
    measure: str = "test accuracy",
    fractions: bool = True,
) -> tuple[Path, Path]:
    """Draw accuracy against the weights that remain, fewer to the right, halving at each tick.

    A line joins the means over seeds; its band reaches from the worst seed to the best.

    Args:
        curves: Points of each method, in any order: a kept fraction in (0, 1], and the accuracy
            of each seed there, as fractions.
        title: Shown above.
        measure: What the numbers are, where they are no test accuracies.
        fractions: Whether they are fractions, which are drawn in percent; other numbers, such as
            perplexities, are drawn as they are.
        path: Of the files, without ending.

    Returns:
        The PNG and the SVG.

    Raises:
        InvalidInput: If there is nothing to draw, a number is out of range, or the folder cannot
            be written.
        MissingDependency: matplotlib is missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = trade_off({"ticket": [(1.0, (0.98, 0.97)), (0.5, (0.98, 0.99))]},
        ...         title="LeNet-300-100", path=Path(folder) / "ticket")
        >>> [file.name for file in files]
        ['ticket.png', 'ticket.svg']

    Source: Frankle and Carbin (2019), the figures of accuracy against P_m.
    """
    _check_curves(curves)
    _check_kept(curves)
    for name, points in curves.items():
        for kept, accuracies in points:
            if fractions:
                _check_accuracies(accuracies, f"{name!r} at kept fraction {kept}")
    if not fractions:
        return _against_remaining(curves, measure, title, path)
    percent = {
        name: [(kept, tuple(100 * each for each in accuracies)) for kept, accuracies in points]
        for name, points in curves.items()
    }
    return _against_remaining(percent, f"{measure} [%]", title, path)


def stopping(curves: Mapping[str, Sequence[Point]], *, title: str, path: Path) -> tuple[Path, Path]:
    """Draw the step of minimum validation loss against the weights that remain.

    Args:
        curves: Points of each network, in any order: a kept fraction in (0, 1], and the step at
            which each seed would have stopped.
        title: Shown above.
        path: Of the files, without ending.

    Returns:
        The PNG and the SVG.

    Raises:
        InvalidInput: If there is nothing to draw, a number is out of range, or the folder cannot
            be written.
        MissingDependency: matplotlib is missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = stopping({"ticket": [(1.0, (5000, 5300)), (0.5, (3000, 3100))]},
        ...         title="LeNet-300-100", path=Path(folder) / "steps")
        >>> [file.name for file in files]
        ['steps.png', 'steps.svg']

    Source: Frankle and Carbin (2019), the figures of the early-stopping iteration against P_m.
    """
    _check_curves(curves)
    _check_kept(curves)
    for name, points in curves.items():
        for _, steps in points:
            if not steps or min(steps) <= 0:
                raise InvalidInput(
                    f"Expected steps of {name!r} above 0, at least one, got {list(steps)}; leave "
                    f"out networks that were not trained."
                )
    return _against_remaining(curves, "step of minimum validation loss", title, path)


def sensitivity(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    dense: float,
    title: str,
    path: Path,
) -> tuple[Path, Path]:
    """Draw accuracy against the sparsity of one layer at a time, the others being dense.

    Colours run from dark at the first layer to light at the last, so that depth can be read off.

    Args:
        curves: Points of each layer, in the order in which the layers run: a sparsity in [0, 1]
            and an accuracy, as fractions.
        dense: Accuracy of the network before pruning, as a fraction.
        title: Shown above.
        path: Of the files, without ending.

    Returns:
        The PNG and the SVG.

    Raises:
        InvalidInput: If there is nothing to draw, a number is out of range, or the folder cannot
            be written.
        MissingDependency: matplotlib is missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = sensitivity({"fc1": [(0.5, 0.97), (0.9, 0.8)]}, dense=0.98,
        ...         title="LeNet-300-100", path=Path(folder) / "scan")
        >>> [file.name for file in files]
        ['scan.png', 'scan.svg']

    Source: Han et al. (2015), the figure of pruning sensitivity.
    """
    _check_curves(curves)
    for name, points in curves.items():
        for sparsity, accuracy in points:
            if not 0 <= sparsity <= 1:
                raise InvalidInput(
                    f"Expected sparsities of layer {name!r} in [0, 1], got {sparsity}; give the "
                    f"fraction of its weights that are zero."
                )
            _check_accuracies([accuracy], f"layer {name!r} at sparsity {sparsity}")
    _check_accuracies([dense], "the dense network")
    with house_style():
        from matplotlib import colormaps
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.2, 4.2))
        axes = figure.subplots()
        axes.axhline(100 * dense, color=GREY, linewidth=1, linestyle=(0, (6, 3)), label="dense")
        shades = colormaps["viridis"](np.linspace(0, 0.85, len(curves)))
        for position, ((name, points), shade) in enumerate(
            zip(curves.items(), shades, strict=True)
        ):
            sparsities, accuracies = 100 * np.array(sorted(points)).T
            axes.plot(sparsities, accuracies, label=label(name), **look(position, shade))
        axes.set_xlabel("sparsity of the one pruned layer [%]")
        axes.set_ylabel("accuracy [%]")
        axes.set_title(title)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=3)
        return write_figure(figure, path)


def weight_histograms(
    before: Mapping[str, ArrayLike], after: Mapping[str, ArrayLike], *, title: str, path: Path
) -> tuple[Path, Path]:
    """Draw the weights of each layer before pruning, and those that are left afterwards.

    One row for each layer, on one horizontal axis, which ends at the 99.9th percentile of
    magnitudes so that a few large weights do not squeeze the rest. Zeros are not drawn on the
    right, where they would hide what is left. The vertical axes differ, because that is far less.

    Args:
        before: Weights by layer, of any shape, in memory that numpy can read.
        after: The same names, with zeros for pruned weights.
        title: Shown above.
        path: Of the files, without ending.

    Returns:
        The PNG and the SVG.

    Raises:
        InvalidInput: If there is nothing to draw, the names differ, a weight is not finite, or
            the folder cannot be written.
        MissingDependency: matplotlib is missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = weight_histograms({"fc": [0.1, -0.3, 0.4]}, {"fc": [0, -0.5, 0.5]},
        ...         title="LeNet-300-100", path=Path(folder) / "weights")
        >>> [file.name for file in files]
        ['weights.png', 'weights.svg']

    Source: Han et al. (2015), the figure of weight distributions before and after pruning.
    """
    if not before or before.keys() != after.keys():
        raise InvalidInput(
            f"Expected the same layers before and after, at least one, got {sorted(before)} and "
            f"{sorted(after)}; give the weights of one network twice."
        )
    layers = {name: (_flat(before[name], name), _flat(after[name], name)) for name in before}
    with house_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.2, 0.9 + 1.7 * len(layers)))
        rows = figure.subplots(len(layers), 2, squeeze=False, sharex="row")
        figure.suptitle(title, x=0.01, horizontalalignment="left")
        for (left, right), (name, (old, new)) in zip(rows, layers.items(), strict=True):
            left_over = new[new != 0]
            reach = max(_bulk(old), _bulk(left_over)) or 1.0
            edges = np.linspace(-reach, reach, 82)
            _histogram(left, old, edges, COLOURS[0], f"{name}: {old.size:,} weights")
            share = 100 * left_over.size / new.size
            _histogram(right, left_over, edges, COLOURS[1], f"{share:.1f} % of them left")
            left.set_ylabel("weights per bin")
        rows[-1][0].set_xlabel("weight before pruning")
        rows[-1][1].set_xlabel("weight afterwards")
        figure.align_ylabels(rows[:, 0])
        figure.supxlabel(
            "The axes leave out at most the largest 0.1 % of magnitudes, and zeros on the right.",
            fontsize="small",
            color=GREY,
        )
        return write_figure(figure, path)


def _against_remaining(
    curves: Mapping[str, Sequence[Point]], measure: str, title: str, path: Path
) -> tuple[Path, Path]:
    with house_style():
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullLocator

        figure = Figure(figsize=(6.4 if len(curves) <= 3 else 8.4, 4.2))
        axes = figure.subplots()
        several = False
        for position, (name, points) in enumerate(curves.items()):
            falling = sorted(points, reverse=True)
            remaining = [100 * kept for kept, _ in falling]
            seeds = [np.array(values) for _, values in falling]
            means = [values.mean() for values in seeds]
            style = look(position)
            axes.plot(remaining, means, label=label(name), zorder=3, **style)
            if any(len(values) > 1 for values in seeds):
                several = True
                lowest, highest = ([f(v) for v in seeds] for f in (np.min, np.max))
                axes.fill_between(
                    remaining, lowest, highest, color=style["color"], alpha=0.15, lw=0
                )
        fewest = min(kept for points in curves.values() for kept, _ in points)
        # The last tick is at or before the last point; two at least make the scale readable.
        halvings = max(1, math.floor(-math.log2(fewest) + 1e-9))
        ticks = [100 / 2**k for k in range(halvings + 1)]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.invert_xaxis()
        axes.set_xlabel("weights remaining [%]")
        axes.set_ylabel(measure)
        axes.set_title(title)
        # Many curves leave no room inside.
        outside: dict[str, Any] = (
            {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)} if len(curves) > 3 else {}
        )
        axes.legend(title="mean, and range over seeds" if several else None, **outside)
        return write_figure(figure, path)


def _histogram(
    axes: "Axes", weights: np.ndarray, edges: np.ndarray, colour: str, title: str
) -> None:
    counts, _ = np.histogram(weights, edges)
    axes.stairs(counts, edges, fill=True, color=colour)
    axes.set_title(title, fontsize="medium")
    axes.locator_params(axis="y", nbins=4, integer=True)
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _bulk(weights: np.ndarray) -> float:
    return float(np.quantile(np.abs(weights), 0.999, method="higher")) if weights.size else 0.0


def _check_curves(curves: Mapping[str, Sequence[Any]]) -> None:
    empty = [name for name, points in curves.items() if not points]
    if not curves or empty:
        raise InvalidInput(
            f"Expected at least one curve, and a point on each, got {len(curves)} curves of which "
            f"{empty} are empty; leave those out."
        )


def _check_kept(curves: Mapping[str, Sequence[Point]]) -> None:
    for name, points in curves.items():
        for kept, _ in points:
            if not 0 < kept <= 1:
                raise InvalidInput(
                    f"Expected kept fractions of {name!r} in (0, 1], got {kept}; give the fraction "
                    f"of weights that remain, which a log axis cannot show at zero."
                )


def _check_accuracies(values: Sequence[float], where: str) -> None:
    if not values or not all(0 <= value <= 1 for value in values):
        raise InvalidInput(
            f"Expected accuracies of {where} in [0, 1], at least one, got {list(values)}; divide "
            f"percentages by 100 and leave out the runs that failed."
        )


def _flat(weights: ArrayLike, name: str) -> np.ndarray:
    flat = np.asarray(weights, dtype=np.float64).ravel()
    if not flat.size or not np.isfinite(flat).all():
        raise InvalidInput(
            f"Expected finite weights of {name!r}, at least one, got {flat.size} weights of which "
            f"{np.isfinite(flat).sum()} are finite; leave the layer out or repair it."
        )
    return flat
