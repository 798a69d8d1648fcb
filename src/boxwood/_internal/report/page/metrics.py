"""The measures of a network: names, directions, and how each is printed. All of them are defined here."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from boxwood._internal.model.energy import energy
from boxwood._internal.report.page.facts import (
    Facts,
    accuracy_of,
    counted,
    layers_of,
    loss_of,
    lowest_loss,
    number,
    overlap_of,
    perplexity_of,
)
from boxwood._internal.report.study import Measurement
from boxwood._internal.report.tables import human, human_bytes
from boxwood._internal.runs.latency import DENSE, ENGINE, Timings


@dataclass(frozen=True)
class Metric:
    """One number of a measured network.

    Args:
        name: key in tables.
        title: label of an axis, with its unit.
        of: reads it; None where a network has none.
        show: a value as text.
        log: whether its axis is logarithmic, base 2.
        lower: whether less is better; it is not asked of costs, of which less always is.
        digits: after the point, of differences.
    """

    name: str
    title: str
    of: Callable[[Measurement], float | None]
    show: Callable[[Any], str]
    log: bool = False
    lower: bool = False
    digits: int = 2

    @property
    def unit(self) -> str:
        """Unit of a difference: points where the number is a fraction."""
        return "points" if self.show is percent else ""

    def change(self, difference: float) -> str:
        """Write a difference with its sign."""
        return f"{self._scaled(difference):+.{self.digits}f}".replace("-", "−")

    def spread(self, deviation: float) -> str:
        """Write a standard deviation."""
        return f"{self._scaled(deviation):.{self.digits}f}"

    def _scaled(self, value: float) -> float:
        return 100 * value if self.show is percent else value


def percent(value: float) -> str:
    """A fraction as percent with two decimals.

    Example:
        >>> percent(0.9732)
        '97.32 %'
    """
    return f"{100 * value:.2f} %"


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
    return lambda m: number(m.facts.get(name))


def _of(
    read: Callable[[Facts, str], float | None], name: str
) -> Callable[[Measurement], float | None]:
    return lambda m: read(m.facts, name)


def estimated_energy(m: Measurement) -> float | None:
    """Microjoules per example by the 45 nm table, every weight fetched from DRAM."""
    layers = layers_of(m.facts)
    return energy(layers).pruned.total if layers else None


TEST = Metric("test", "test accuracy", _of(accuracy_of, "test"), percent)
VALIDATION = Metric("validation", "validation accuracy", _of(accuracy_of, "validation"), percent)
TOP5 = Metric("test_top5", "test top-5 accuracy", _of(accuracy_of, "test_top5"), percent)
VALIDATION_TOP5 = Metric(
    "validation_top5", "validation top-5 accuracy", _of(accuracy_of, "validation_top5"), percent
)
KEPT = Metric("kept_fraction", "weights remaining", _share("kept", "weights"), percent, log=True)
_WORK = Metric(
    "multiply_adds", "multiply-adds per example", _fact("multiply_adds"), human, log=True
)
_BYTES = Metric("bytes", "bytes on disk, index included", _fact("bytes"), human_bytes, log=True)
SIZES = (
    KEPT,
    Metric("nonzero", "parameters that are not zero", _fact("nonzero"), human),
    _WORK,
    _BYTES,
)
COSTS = (
    KEPT,
    _WORK,
    _BYTES,
    Metric("energy", "energy per example (µJ, 45 nm estimate)", estimated_energy, "{:.3g}".format, log=True),
    Metric("epochs", "training (epochs up to this network)", lambda m: float(m.epochs), "{:.4g}".format),
)  # fmt: skip


@dataclass(frozen=True)
class Yardstick:
    """By what the networks of a study are judged: chosen on validation, reported on test.

    Args:
        name: of the quantity.
        test: on test examples.
        validation: on validation examples.
        margin: how much worse than the dense network one may be on validation and still be near
            it: points of a fraction, or a part of any other number.
    """

    name: str
    test: Metric
    validation: Metric
    margin: float

    def near(self, value: float, dense: float) -> bool:
        """Say whether a network is as good as the dense one on validation, except for the margin.

        Example:
            >>> ACCURACY.near(0.976, 0.98), PERPLEXITY.near(101.0, 100.0), PERPLEXITY.near(103.0, 100.0)
            (True, True, False)
        """
        allowed = self.margin * (1.0 if self.test.unit else abs(dense))
        loss = value - dense if self.validation.lower else dense - value
        return loss <= allowed

    @property
    def within(self) -> str:
        """The margin in words.

        Example:
            >>> ACCURACY.within, PERPLEXITY.within
            ('0.5 points', '2 %')
        """
        return f"{100 * self.margin:g} {self.test.unit or '%'}"


def _yardstick(
    name: str,
    read: Callable[[Facts, str], float | None],
    margin: float,
    show: Callable[[Any], str],
    *,
    lower: bool = False,
    digits: int = 2,
) -> Yardstick:
    test, validation = (
        Metric(
            f"{part}_{name.replace(' ', '_').lower()}", f"{part} {name}", _of(read, part), show,
            lower=lower, digits=digits,
        )
        for part in ("test", "validation")
    )  # fmt: skip
    return Yardstick(name, test, validation, margin)


ACCURACY = Yardstick("accuracy", TEST, VALIDATION, 0.005)
OVERLAP = _yardstick("mean IoU", overlap_of, 0.005, percent)
PERPLEXITY = _yardstick("perplexity", perplexity_of, 0.02, "{:.2f}".format, lower=True)
LOSS = _yardstick("loss", loss_of, 0.02, "{:.4f}".format, lower=True, digits=4)
YARDSTICKS = (OVERLAP, PERPLEXITY, ACCURACY, LOSS)
"""The first that most networks of a study have decides; the others can be looked at."""


def judged_by(measurements: Iterable[Measurement]) -> Yardstick:
    """Find by what measured networks are judged; accuracy where there is none.

    Example:
        >>> judged_by([]).name
        'accuracy'
    """
    all_ = list(measurements)
    counts = [sum(each.test.of(m) is not None for m in all_) for each in YARDSTICKS]
    return YARDSTICKS[counts.index(max(counts))] if any(counts) else ACCURACY


_KNOWN = {
    "test", "validation", "test_top5", "validation_top5", "test_loss", "validation_loss",
    "test_perplexity", "validation_perplexity", "mean_iou", "mean_iou_validation", "parameters",
    "nonzero", "weights", "kept", "multiply_adds", "dense_multiply_adds", "bytes", "dense_bytes",
    "layers",
}  # fmt: skip


def qualities(measurements: Iterable[Measurement]) -> tuple[Metric, ...]:
    """List what can be said of how good the networks are, that by which they are judged first."""
    all_ = list(measurements)
    first = judged_by(all_)
    rest = [each for each in YARDSTICKS if each is not first]
    known = [metric for each in (first, *rest) for metric in (each.test, each.validation)]
    known[2:2] = [TOP5, VALIDATION_TOP5]
    found = [metric for metric in known if any(metric.of(m) is not None for m in all_)]
    return (*found, *other_metrics(all_))


def _lowest(name: str) -> Callable[[Measurement], float | None]:
    """Read a number where the validation loss of the last training was lowest."""

    def read(m: Measurement) -> float | None:
        row = lowest_loss(m.history) or {}
        found = accuracy_of(row, name)
        return number(row.get(name)) if found is None else found

    return read


STOPS = (
    Metric("step_of_lowest_validation_loss", "step of lowest validation loss", _lowest("step"), "{:.5g}".format),
    Metric("test_at_lowest_validation_loss", "test accuracy at lowest validation loss", _lowest("test"), percent),
)  # fmt: skip
"""Where a training would have stopped, for networks whose training was watched."""


def other_metrics(measurements: Iterable[Measurement]) -> tuple[Metric, ...]:
    """Metrics that a page knows nothing of: other numbers, and other accuracies, among the facts.

    Example:
        >>> other_metrics([])
        ()
    """
    all_ = list(measurements)
    stops = (each for each in STOPS if any(each.of(m) is not None for m in all_))
    found = {each.name: each for each in stops}
    for each in all_:
        for name, value in each.facts.items():
            if name in _KNOWN or name in found or isinstance(value, bool):
                continue
            title = name.replace("_", " ")
            if isinstance(value, int | float):
                fraction = name.startswith(("test_", "validation_")) and 0 <= value <= 1
                show = percent if fraction else "{:.5g}".format
                found[name] = Metric(name, title, _fact(name), show)
            elif counted(value):
                found[name] = Metric(name, title, _of(accuracy_of, name), percent)
    return tuple(found.values())


def latencies(timings: Timings) -> tuple[Metric, ...]:
    """List measured times: per example for each way to run, and of the dense network's time.

    Example:
        >>> times = {"dense": [2.0], "torch": [2.0], "engine": [1.0]}
        >>> [each.name for each in latencies(Timings(networks={"key": times}))]
        ['relative_time', 'latency_engine', 'latency_torch']
    """
    # The dense network is a network of the study itself; next to others it is what they are held to.
    ways = sorted(way for way in timings.ways if way != DENSE)
    found = [_latency(timings, way) for way in ways]
    if ENGINE in ways and DENSE in timings.ways:
        found.insert(0, _relative(timings))
    return tuple(found)


def _latency(timings: Timings, way: str) -> Metric:
    return Metric(
        f"latency_{way}",
        f"measured latency per example in {way} (ms)",
        lambda m: timings.median(m.key, way),
        "{:.4g}".format,
        log=True,
    )


def _relative(timings: Timings) -> Metric:
    def read(m: Measurement) -> float | None:
        ratios = timings.ratios(m.key)
        return median(ratios) if ratios else None

    return Metric(
        "relative_time",
        "measured time in the engine ÷ dense in torch",
        read,
        "{:.3g}".format,
        log=True,
    )
