"""What is read off a measured network, and its mean over seeds: the axes and columns of a page."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean, stdev
from typing import Any

from boxwood.model.counting import LayerCount
from boxwood.model.energy import energy
from boxwood.report import statistics
from boxwood.report.page.reading import Study, counted, number
from boxwood.report.statistics import Interval
from boxwood.report.study import Measurement
from boxwood.report.tables import human, human_bytes

Latencies = Mapping[str, Sequence[float]]
"""Key of a measured network to milliseconds per example, one for each repetition."""


@dataclass(frozen=True)
class Metric:
    """One number of a measured network.

    Args:
        name: key in tables.
        title: label of an axis, with its unit.
        of: reads it; None where a network has none.
        show: a value as text.
        log: whether its axis is logarithmic, base 2.
    """

    name: str
    title: str
    of: Callable[[Measurement], float | None]
    show: Callable[[Any], str]
    log: bool = False


def percent(value: float) -> str:
    """A fraction as percent with two decimals.

    Example:
        >>> percent(0.9732)
        '97.32 %'
    """
    return f"{100 * value:.2f} %"


def points(value: float) -> str:
    """A difference of fractions in percentage points, with its sign.

    Example:
        >>> points(-0.0012)
        '−0.12'
    """
    return f"{100 * value:+.2f}".replace("-", "−")


def times_fewer(ratio: float) -> str:
    """How many times fewer, in words that cannot be read as the fraction kept.

    Example:
        >>> times_fewer(12.51), times_fewer(1.0)
        ('12.5× fewer', 'as many')
    """
    if ratio == 1:
        return "as many"
    return f"{ratio:.{1 if ratio >= 2 else 2}f}× fewer" if ratio > 1 else f"{1 / ratio:.2f}× more"


def _share(name: str, whole: str) -> Callable[[Measurement], float | None]:
    def read(m: Measurement) -> float | None:
        part, all_ = number(m.facts.get(name)), number(m.facts.get(whole))
        return None if part is None or not all_ else part / all_

    return read


def _fact(name: str) -> Callable[[Measurement], float | None]:
    def read(m: Measurement) -> float | None:
        return number(m.facts.get(name))

    return read


def _accuracy(name: str) -> Callable[[Measurement], float | None]:
    def read(m: Measurement) -> float | None:
        found = m.facts.get(name)
        return found["correct"] / found["total"] if counted(found) else None

    return read


def estimated_energy(m: Measurement) -> float | None:
    """Microjoules per example by the 45 nm table, every weight fetched from DRAM."""
    layers = counted_layers(m)
    return energy(layers).pruned.total if layers else None


def counted_layers(m: Measurement) -> list[LayerCount]:
    """The layers of a measured network; none where its facts hold something else by that name."""
    layers, names = m.facts.get("layers"), {each.name for each in fields(LayerCount)}
    if not isinstance(layers, list) or not all(
        isinstance(layer, dict) and set(layer) == names and layer["weights"] for layer in layers
    ):
        return []
    return [LayerCount(**layer) for layer in layers]


TEST = Metric("test", "test accuracy", _accuracy("test"), percent)
VALIDATION = Metric("validation", "validation accuracy", _accuracy("validation"), percent)
KEPT = Metric("kept_fraction", "weights remaining", _share("kept", "weights"), percent, log=True)
COSTS = (
    KEPT,
    Metric("multiply_adds", "multiply-adds per example", _fact("multiply_adds"), human, log=True),
    Metric("bytes", "bytes on disk, index included", _fact("bytes"), human_bytes, log=True),
    Metric("energy", "energy per example (µJ, 45 nm estimate)", estimated_energy, "{:.3g}".format, log=True),
    Metric("epochs", "training (epochs up to this network)", lambda m: float(m.epochs), "{:.4g}".format),
)  # fmt: skip
_KNOWN = {
    "test", "validation", "parameters", "nonzero", "weights", "kept", "multiply_adds",
    "dense_multiply_adds", "bytes", "dense_bytes", "layers",
}  # fmt: skip


def further(measurements: Iterable[Measurement]) -> tuple[Metric, ...]:
    """Metrics that a page knows nothing of: other numbers, and other accuracies, among the facts.

    Example:
        >>> further([])
        ()
    """
    found: dict[str, Metric] = {}
    for each in measurements:
        for name, value in each.facts.items():
            if name in _KNOWN or name in found or isinstance(value, bool):
                continue
            title = name.replace("_", " ")
            if isinstance(value, int | float):
                fraction = name.startswith(("test_", "validation_")) and 0 <= value <= 1
                show = percent if fraction else "{:.5g}".format
                found[name] = Metric(name, title, _fact(name), show)
            elif counted(value):
                found[name] = Metric(name, title, _accuracy(name), percent)
    return tuple(found.values())


def latency(measured: Latencies) -> Metric:
    """Measured time per example, the median of the repetitions."""

    def read(m: Measurement) -> float | None:
        times = sorted(measured.get(m.key, ()))
        return times[len(times) // 2] if times else None

    return Metric("latency", "measured latency per example (ms)", read, "{:.4g}".format, log=True)


@dataclass(frozen=True)
class Network:
    """One network of a study, over its seeds.

    Args:
        name: branch and label.
        curve: name of the line that it is a point of.
        members: one measurement per seed, by seed.
    """

    name: str
    curve: str
    members: tuple[Measurement, ...] = field(repr=False)

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.members)

    @property
    def keys(self) -> str:
        """Keys of its measurements, eight digits of each."""
        return " ".join(each.key[:8] for each in self.members)

    def values(self, metric: Metric) -> list[float]:
        """The metric for each seed that has it."""
        found = (metric.of(each) for each in self.members)
        return [value for value in found if value is not None]

    def mean(self, metric: Metric) -> float | None:
        """Mean over seeds, to place a point; the interval belongs beside it."""
        values = self.values(metric)
        return fmean(values) if values else None

    def sd(self, metric: Metric) -> float | None:
        """Standard deviation over seeds; None for less than two."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None

    def interval(self, metric: Metric) -> Interval | None:
        """Student's t over seeds; for one seed of an accuracy, Wilson's over its examples."""
        values = self.values(metric)
        if not values:
            return None
        answers = self.members[0].facts.get(metric.name)
        if len(values) == 1 and counted(answers):
            return statistics.proportion(answers["correct"], answers["total"])
        return statistics.mean(values)

    @property
    def dense(self) -> bool:
        """Whether nothing is pruned."""
        return all(KEPT.of(each) == 1 for each in self.members)


def networks(study: Study) -> list[Network]:
    """Put the seeds of each measured network together, in the order of the study, each once."""
    groups: dict[str, list[Measurement]] = {}
    seen: set[str] = set()
    for each in study.measurements:
        # Recipes that begin alike share their first networks, which are shown once.
        if each.key not in seen:
            groups.setdefault(each.name, []).append(each)
        seen.add(each.key)
    curves = _curves(study)
    return [
        Network(name, curves[group[0].branch], tuple(sorted(group, key=lambda m: m.seed)))
        for name, group in groups.items()
    ]


def _curves(study: Study) -> dict[str, str]:
    """Name the line of each branch: its own, or one for branches that differ by a number alone.

    A recipe that makes one network for each sparsity is a curve of one-point branches.
    """
    names = {branch: branch for branch in study.branches}
    stems: dict[str, list[str]] = {}
    for branch, runs in study.branches.items():
        if max(len(run.measurements) for run in runs) == 1:
            words = [word for word in branch.split() if not _is_number(word)]
            stems.setdefault(" ".join(words), []).append(branch)
    for stem, branches in stems.items():
        if len(branches) > 1 and stem:
            names |= dict.fromkeys(branches, stem)
    return names


def _is_number(word: str) -> bool:
    try:
        float(word.rstrip("%x×"))
    except ValueError:
        return False
    return True


def baseline(found: Sequence[Network]) -> Network | None:
    """The network that all are compared with: the unpruned one of most seeds, best on validation.

    A study may train dense networks badly on purpose; pruned ones must not look good beside those.
    """
    dense = [network for network in found if network.dense]
    return max(dense, key=lambda each: (each.seeds, each.mean(VALIDATION) or 0.0), default=None)


def against(network: Network, other: Network, metric: Metric) -> statistics.PairedComparison | None:
    """Compare two networks on the seeds that both have; None without any."""
    mine = {m.seed: metric.of(m) for m in network.members}
    theirs = {m.seed: metric.of(m) for m in other.members}
    pairs = [(mine[s], theirs[s]) for s in mine if s in theirs]
    whole = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not whole:
        return None
    return statistics.paired_difference([a for a, _ in whole], [b for _, b in whole])
