"""How training went along one recipe, for papers: pruning is marked where it happened."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from boxwood._internal.report.figures import COLOURS, GREY, house_style, write_figure
from boxwood.errors import InvalidInput

# Epochs since the start, then the mean over seeds, the lowest and the highest.
Place = tuple[float, float, float, float]


def training(
    lines: Mapping[str, Sequence[Place]],
    events: Sequence[tuple[float, str]],
    *,
    title: str,
    path: Path,
) -> tuple[Path, Path]:
    """Draw quantities against epochs, one above the other, with pruning marked.

    Args:
        lines: a title with its unit, to the places of the quantity along the recipe.
        events: epochs at which the network was changed between trainings, and what was left.
        title: shown above.
        path: of the files, without ending.

    Returns:
        The PNG and the SVG.

    Raises:
        InvalidInput: there is nothing to draw, the folder cannot be written, or matplotlib is
            missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = training({"loss": [(1, 0.5, 0.4, 0.6), (2, 0.3, 0.2, 0.4)]},
        ...         [(1, "10 % left")], title="LeNet-300-100", path=Path(folder) / "training")
        >>> [file.name for file in files]
        ['training.png', 'training.svg']
    """
    empty = [name for name, places in lines.items() if not places]
    if not lines or empty:
        raise InvalidInput(
            f"Expected at least one history, and a row in each, got {len(lines)} of which {empty} "
            f"are empty; leave those out."
        )
    with house_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.2, 0.9 + 2.4 * len(lines)))
        panels = figure.subplots(len(lines), 1, sharex=True, squeeze=False)[:, 0]
        figure.suptitle(title, x=0.01, horizontalalignment="left")
        for number, (axes, (name, places)) in enumerate(zip(panels, lines.items(), strict=True)):
            at, mean, low, high = zip(*sorted(places), strict=True)
            colour = COLOURS[number % len(COLOURS)]
            axes.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
            axes.plot(at, mean, color=colour, marker="o", markersize=2.5, linewidth=1.2)
            axes.set_ylabel(name)
            for epoch, _ in events:
                axes.axvline(epoch, color=GREY, linewidth=0.8, linestyle=":")
        for epoch, left in events:
            panels[0].annotate(
                left, (epoch, 1), xycoords=("data", "axes fraction"), xytext=(2, 1),
                textcoords="offset points", fontsize="x-small", color=GREY, rotation=35,
            )  # fmt: skip
        panels[-1].set_xlabel("epochs since the start")
        return write_figure(figure, path)
