"""Time the networks of a store on this machine, in turn, and save the times next to the runs.

    latency.json    {"about": machine, versions, batch and threads,
                     "networks": {KEY: {WAY: [milliseconds per example, …]}}, "refused": {KEY: why}}

Times are no facts of a phase, which are the same in every repetition; so they have a file of their
own, which can be made again on another machine and by other means.
"""

import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core.masks import apply
from boxwood._internal.core.reading import read_whole, strict_json
from boxwood._internal.core.replacing import replacing
from boxwood._internal.core.timing import Clock, calls_lasting
from boxwood._internal.engine import compiling
from boxwood._internal.engine.backends import time_backends, torch_eager
from boxwood._internal.engine.session import Uncompiled
from boxwood._internal.recipes.phase import Genesis, State
from boxwood._internal.runs.provenance import provenance
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError, DamagedFileWarning, InvalidInput

FILE = "latency.json"
DENSE, TORCH, ENGINE = "dense", "torch", "engine"
"""Ways: the network before pruning in torch, the pruned one in torch, the pruned one compiled."""
_TURN = 0.005
"""Seconds that a turn of the dense network lasts at least."""
_MOST_CALLS = 1000
_SAME = ("processor", "boxwood", "torch", "batch", "threads")
"""What two times must have in common to stand side by side."""


@dataclass(frozen=True)
class Timings:
    """What was measured.

    Args:
        about: with what.
        networks: key of a measured network, to the name of a way to run it, to milliseconds per
            example, one for each turn. Ways that ran in turn have as many each.
        refused: key of a network that could not be compiled, to the reason.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    networks: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def ways(self) -> list[str]:
        """Names of the ways, in the order in which they are met."""
        return list(dict.fromkeys(way for times in self.networks.values() for way in times))

    def median(self, key: str, way: str) -> float | None:
        """Milliseconds per example, the median of the turns; None where it was not measured."""
        times = self.networks.get(key, {}).get(way)
        return statistics.median(times) if times else None

    def ratios(self, key: str) -> list[float]:
        """Time in the engine over that of the dense network in torch, turn by turn.

        Example:
            >>> Timings(networks={"k": {"dense": [2.0, 4.0], "engine": [1.0, 1.0]}}).ratios("k")
            [0.5, 0.25]
        """
        times = self.networks.get(key, {})
        ours, theirs = times.get(ENGINE, ()), times.get(DENSE, ())
        return [a / b for a, b in zip(ours, theirs, strict=False)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Args:
        batch: examples that enter at once, the first of the validation examples.
        threads: that each way may use.
        turns: how often each way runs.
        clock: seconds; wall time.
    """

    batch: int = 1
    threads: int = 1
    turns: int = 21
    clock: Clock = time.perf_counter

    def __post_init__(self) -> None:
        if min(self.batch, self.threads, self.turns) < 1:
            raise InvalidInput(
                f"Expected a batch, threads and turns of at least 1, got {self.batch}, "
                f"{self.threads} and {self.turns}; give 1 or more of each."
            )


@dataclass(frozen=True)
class Wanted:
    """A network to measure.

    Args:
        genesis: where its run started.
        start: key of the start, which holds the network before anything was pruned.
        key: of the phase that measured it.
    """

    genesis: Genesis
    start: str
    key: str


Progress = Callable[[int, int], None]
"""Is given how many networks are done, and of how many."""


def measure_all(
    store: Store,
    wanted: Sequence[Wanted],
    settings: Settings | None = None,
    *,
    again: bool = False,
    progress: Progress | None = None,
) -> Timings:
    """Measure networks of a store and write the times next to them, after each network.

    Networks that are in the file already are not measured again, so what was interrupted goes on.

    Args:
        store: where they are.
        wanted: which.
        settings: how.
        again: forget what is in the file.
        progress: is called before each network.

    A network whose phase is damaged is left out, with a warning of the kind `DamagedFileWarning`.

    Raises:
        InvalidInput: the file holds times of another machine or other settings, data are missing, or
            a network cannot be built.
        MissingDependency: llvmlite is missing.
    """
    settings = settings or Settings()
    path = store.root / FILE
    about = {**provenance(), "batch": settings.batch, "threads": settings.threads}
    before = Timings() if again or not path.exists() else read(path)
    if before.networks:
        check_alike(about, before.about, path)
    networks, refused = dict(before.networks), dict(before.refused)
    left = [each for each in wanted if each.key not in networks]
    inputs: dict[Any, Tensor] = {}
    found = Timings(about, networks, refused)
    for done, each in enumerate(left):
        if progress is not None:
            progress(done, len(left))
        if each.genesis.data not in inputs:
            inputs[each.genesis.data] = _example(each.genesis, settings.batch)
        try:
            dense, pruned = store.load(each.start), store.load(each.key)
        except BoxwoodError as error:
            warnings.warn(str(error), DamagedFileWarning, stacklevel=2)
            continue
        times, why = measure(each.genesis, dense, pruned, inputs[each.genesis.data], settings)
        networks[each.key] = times
        if why:
            refused[each.key] = why
        write(found, path)
    return found


def measure(
    genesis: Genesis, dense: State, pruned: State, example: Tensor, settings: Settings
) -> tuple[dict[str, list[float]], str]:
    """Measure one network in every way, in turn, so that a busy machine slows all alike.

    Args:
        genesis: builds it.
        dense: its weights before anything was pruned.
        pruned: its weights and masks.
        example: what enters.
        settings: how.

    Returns:
        Milliseconds per example of each turn by way, and why it could not be compiled, if so.
    """
    original = genesis.network(dense.weights).eval()
    network = genesis.network(apply(pruned.weights, pruned.masks)).eval()
    session = compiling.compile(network, example, threads=settings.threads)
    why = session.why if isinstance(session, Uncompiled) else ""
    ways = {
        name: torch_eager(name, model, (example,), settings.threads).run
        for name, model in ((DENSE, original), (TORCH, network))
    }
    runs = {name: run for name, run in ways.items() if run is not None}
    if not why:
        runs[ENGINE] = lambda: session(example)
    calls = calls_lasting(runs[DENSE], _TURN, most=_MOST_CALLS, clock=settings.clock)
    results = time_backends(runs, turns=settings.turns, calls=calls, clock=settings.clock)
    per_example = 1000 / len(example)
    return {each.name: [_digits(per_example * s) for s in each.seconds] for each in results}, why


def read(path: Path) -> Timings:
    """Read a file of times.

    Raises:
        InvalidInput: it is missing or something else.
    """
    try:
        found = strict_json(read_whole(path))
        networks = {
            str(key): {str(way): [_positive(t) for t in times] for way, times in ways.items()}
            for key, ways in found["networks"].items()
        }
        return Timings(dict(found.get("about", {})), networks, dict(found.get("refused", {})))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(
            f'Expected JSON such as {{"networks": {{KEY: {{"torch": [milliseconds, …]}}}}}} in '
            f"{path}, got {error!r}; measure with `boxwood runs latency`, or write the times by "
            f"the key of each measurement."
        ) from error


def check_alike(wanted: Mapping[str, Any], about: Mapping[str, Any], path: Path) -> None:
    """Refuse times that were measured with something else than those in the file.

    Raises:
        InvalidInput: machine, versions, batch or threads differ.

    Example:
        >>> check_alike({"threads": 1}, {"threads": 1, "commit": "an old one"}, Path("latency.json"))
    """
    here, there = ({name: each.get(name) for name in _SAME} for each in (wanted, about))
    if here != there:
        raise InvalidInput(
            f"Expected {path} to hold times measured with {here}, got {there}; measure all again "
            f"with `boxwood runs latency --again`, or move the file away."
        )


def write(timings: Timings, path: Path) -> None:
    """Write a file of times, whole or not at all.

    Raises:
        InvalidInput: the disk is full or not writable.
    """
    whole = {
        "about": dict(timings.about),
        "networks": {key: dict(ways) for key, ways in timings.networks.items()},
        "refused": dict(timings.refused),
    }
    try:
        with replacing(path) as new:
            new.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"Expected to write {path}, got {error}; free some space and run again: earlier "
            f"measurements are kept."
        ) from error


def _digits(milliseconds: float) -> float:
    return float(f"{milliseconds:.6g}")


def _example(genesis: Genesis, batch: int) -> Tensor:
    validation = genesis.data().validation
    if len(validation) < batch:
        raise InvalidInput(
            f"Expected {batch} validation examples to measure with, got {len(validation)}; give a "
            f"smaller --batch."
        )
    inputs, _ = validation.take(torch.arange(batch))
    return inputs


def _positive(value: Any) -> float:
    if not (time_ := float(value)) > 0:
        raise ValueError(f"a time of {value}")
    return time_
