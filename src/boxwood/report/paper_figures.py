"""The figures of a study for papers, as PNG and SVG from matplotlib."""

from pathlib import Path

from boxwood.report.curves import Point, sensitivity, trade_off, weight_histograms
from boxwood.report.page.layers import scanned
from boxwood.report.page.metrics import KEPT, TEST, networks
from boxwood.report.page.pictures import pairs
from boxwood.report.page.reading import Study


def write_figures(study: Study, stem: Path) -> list[Path]:
    """Draw accuracy against weights, sensitivity by layer, and weights before and after.

    What the runs do not hold is left out; nothing is drawn of a network that lost everything.

    Args:
        study: its runs.
        stem: path of the files up to their own names, as in ``figures/study-1``.

    Returns:
        The files, two for each figure.

    Raises:
        BoxwoodError: the folder cannot be written, or matplotlib is missing.
    """
    title = f"{study.model} on {study.data}"
    written: list[Path] = []

    def named(name: str) -> Path:
        return stem.with_name(f"{stem.name}-{name}")

    curves: dict[str, list[Point]] = {}
    for network in networks(study):
        kept = network.mean(KEPT)
        if kept and network.values(TEST):
            curves.setdefault(network.curve, []).append((kept, tuple(network.values(TEST))))
    if curves:
        written += trade_off(curves, title=title, path=named("trade-off"))
    scans = [step for run in study.runs for step in run.steps if scanned(step.facts)]
    if scans:
        first = scans[0].facts
        lines = {name: [(s, a) for s, a in line] for name, line in first["curves"].items()}
        about = f"{title}, key {scans[0].key[:8]}"
        written += sensitivity(lines, dense=first["dense"], title=about, path=named("sensitivity"))
    for index, pair in enumerate(pairs(study)[0], 1):
        before = {name: pair.before[name].float().numpy() for name in pair.masks}
        after = {
            name: pair.after[name].masked_fill(~mask, 0).float().numpy()
            for name, mask in pair.masks.items()
        }
        path = named(f"weights-{index}")
        written += weight_histograms(before, after, title=pair.name, path=path)
    return written
