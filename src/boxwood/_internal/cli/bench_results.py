"""What ``boxwood bench`` prints: the verdict, a table, and notes on what was timed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich import box
from rich.table import Table

from boxwood._internal.cli.agreement import Agreement
from boxwood._internal.core.timing import median_interval
from boxwood._internal.engine.backends import Backend, BackendTimes


@dataclass(frozen=True)
class Entry:
    """A network in an engine.

    Args:
        engine: that runs it.
        network: name of the network.
        int8: whether it runs in whole numbers of eight bits.
        make: prepares it.
    """

    engine: str
    network: str
    int8: bool
    make: Callable[[], Backend]

    @property
    def runner(self) -> str:
        """Engine and precision."""
        return self.engine + " int8" * self.int8

    @property
    def name(self) -> str:
        """Engine, network and precision."""
        return f"{self.engine}, {self.network}{', int8' * self.int8}"


def verdict(
    results: Mapping[Entry, BackendTimes], judged: Mapping[Entry, Agreement] | None = None
) -> str:
    """Name the fastest; compare turn by turn, so that what slows a whole turn drops out.

    The first result is that of dense torch. With what was judged, also say what the fastest costs,
    and which is the fastest of those that cost little.
    """
    torch_dense, winner = next(iter(results)), fastest(results)

    def named(entry: Entry) -> str:
        return entry.name + "; accuracy not checked" * (entry.int8 and not judged)

    if winner is torch_dense:
        said = f"Nothing is measurably faster than {winner.name}."
    else:
        said = (
            f"Fastest: {named(winner)}.\nIt is {_times(results, winner, torch_dense)} "
            f"{torch_dense.name}."
        )
    others = {entry: each for entry, each in results.items() if entry.engine != winner.engine}
    if others and (rival := fastest(others)) is not torch_dense:
        said += (
            f"\nIt is {_times(results, winner, rival)} {named(rival)}, the best of the other "
            f"engines."
        )
    exact = {entry: each for entry, each in results.items() if not entry.int8}
    if winner.int8 and (best := fastest(exact)) is not torch_dense:
        said += (
            f"\nFastest in float32: {best.name}, {_times(results, best, torch_dense)} "
            f"{torch_dense.name}."
        )
    if judged and winner is not torch_dense:
        said += _cost(results, judged, winner)
    return said


def _cost(
    results: Mapping[Entry, BackendTimes], judged: Mapping[Entry, Agreement], winner: Entry
) -> str:
    """What the fastest loses, and the fastest of those that lose little, if that is another."""
    torch_dense = next(iter(results))
    dense = judged[torch_dense]
    said = f"\nOn {dense.examples} examples it {judged[winner].said(dense)}."
    near = {e: each for e, each in results.items() if judged[e].near(dense)}
    if winner in near:
        return said
    best = fastest(near)
    if best is torch_dense:
        return f"{said}\nNothing that loses at most one point is faster than {torch_dense.name}."
    return (
        f"{said}\nFastest of those that lose at most one point: {best.name}, "
        f"{_times(results, best, torch_dense)} {torch_dense.name}."
    )


def fastest(results: Mapping[Entry, BackendTimes]) -> Entry:
    """Find the least median."""
    return min(results, key=lambda entry: results[entry].median)


def _times(results: Mapping[Entry, BackendTimes], one: Entry, other: Entry) -> str:
    """Say how many times as fast one is as another, up to "as"."""
    pairs = zip(results[other].seconds, results[one].seconds, strict=True)
    median, low, high = median_interval([theirs / mine for theirs, mine in pairs])
    interval = f"95 % interval of the ratio {low:.2f} to {high:.2f}"
    if low <= 1 <= high:
        return f"not measurably faster or slower ({interval}) than"
    return f"{median:.2f} times as fast ({interval}) as"


def size_lines(
    sizes: Mapping[str, Mapping[str, int]],
    results: Mapping[Entry, BackendTimes],
    judged: Mapping[Entry, Agreement],
) -> Iterator[str]:
    """A line for each network: how large it is, where it is fastest, and what nobody measured."""
    unmeasured = "" if judged else "; accuracy not measured here (give --data)"
    for name, size in sizes.items():
        raced = {entry: result for entry, result in results.items() if entry.network == name}
        if raced:
            best = fastest(raced)
            yield (
                f"{name}: {size['parameters']:,} parameters, {size['nonzero']:,} not zero; fastest "
                f"in {best.runner}{unmeasured}."
            )


def absent_lines(absent: Mapping[Entry, str], networks: int) -> Iterator[str]:
    """Say what did not take part and why, once for all networks where they have that in common."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry, why in absent.items():
        found.setdefault((entry.runner, why), []).append(entry.network)
    for (runner, why), without in found.items():
        which = "" if len(without) == networks else f" with {'; '.join(without)}"
        yield f"{runner} did not take part{which}: {why}."


def table(results: Mapping[Entry, BackendTimes], judged: Mapping[Entry, Agreement]) -> Table:
    """A row for every network in every engine, the fastest first."""
    found = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    found.add_column("engine")
    found.add_column("network")
    titles = next(iter(judged.values())).cells() if judged else {}
    for title in ("ms", "95 % interval", "of torch", *titles):
        found.add_column(title, justify="right")
    torch_median = next(iter(results.values())).median
    for entry in sorted(results, key=lambda each: results[each].median):
        result = results[entry]
        found.add_row(
            entry.runner,
            entry.network,
            _ms(result.median),
            f"{_ms(result.low)} – {_ms(result.high)}",
            f"{result.median / torch_median:.2f}",
            *(judged[entry].cells().values() if judged else ()),
        )
    return found


def _ms(seconds: float) -> str:
    """Three digits or more."""
    return f"{1e3 * seconds:.3f}" if seconds < 0.01 else f"{1e3 * seconds:.1f}"
