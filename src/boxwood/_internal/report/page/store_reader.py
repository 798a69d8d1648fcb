"""Read stores from disk without importing anything or running a user's code."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from boxwood._internal.report.study import Measurement, Step, measured_along
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError, DamagedFileWarning, InvalidInput

Spec = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """One recipe from one start.

    Args:
        name: as it was noted.
        genesis: the start, encoded.
        steps: the phases.
        store: where it lies.
        start: key and record of the start.
    """

    name: str
    genesis: Spec
    steps: tuple[Step, ...]
    store: Store
    start: Step

    @property
    def branch(self) -> str:
        """Name without the seed."""
        return self.name.rpartition(" / seed ")[0] or self.name or self.key[:8]

    @property
    def seed(self) -> int:
        """Root seed."""
        return int(self.genesis.get("seed", 0))

    @property
    def key(self) -> str:
        """Key of the last phase."""
        return self.steps[-1].key if self.steps else self.start.key

    @property
    def done(self) -> int:
        """How many phases are there, the start apart."""
        return sum(step.record is not None for step in self.steps)

    @property
    def seconds(self) -> float:
        """Time that its finished phases took when they were made."""
        return sum(step.seconds for step in self.steps)

    @cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        """The measured networks, in order."""
        wanted = {step.key for step in self.steps if step.measures}
        return tuple(measured_along(self.steps, branch=self.branch, seed=self.seed, wanted=wanted))


@dataclass(frozen=True, eq=False)
class Study:
    """Runs that may be compared: one network, one data set, seeds in common.

    Args:
        model: the network's spec in short.
        data: the data set's.
        runs: the runs, by branch in the order noted, then by seed.
        replaced: names of runs that were noted again with another recipe; only the last is here.
    """

    model: str
    data: str
    runs: tuple[Run, ...]
    replaced: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds, in order."""
        return tuple(sorted({run.seed for run in self.runs}))

    @property
    def branches(self) -> dict[str, list[Run]]:
        """Runs by branch."""
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            found.setdefault(run.branch, []).append(run)
        return found

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Every measured network of every run."""
        return tuple(each for run in self.runs for each in run.measurements)


def read(
    stores: Sequence[Store], *, only: Sequence[str] = (), without: Sequence[str] = ()
) -> tuple[Study, ...]:
    """Read all runs of some stores and put those together that may be compared.

    Two runs belong to one study when network and data are the same and their branches have a seed
    in common, directly or through others: only then can they be paired. So the runs that tuned a
    setting on a seed of their own are a study of their own.

    Args:
        stores: where to read.
        only: patterns of run names, or of studies such as ``"lenet_5 on mnist"``; none takes all.
        without: the same, to leave out.

    Raises:
        InvalidInput: there is no store, no run, or no run of such a name.
    """
    runs = [run for store in stores for run in _runs(store)]
    chosen = [
        run for run in runs if (not only or _matches(run, only)) and not _matches(run, without)
    ]
    if not chosen:
        names = ", ".join(str(store.root) for store in stores)
        raise InvalidInput(
            f"Expected runs to report in {names}, got {len(runs)} of which none has a wanted name; "
            f"list them with `boxwood runs list`."
        )
    groups: dict[str, list[Run]] = {}
    for run in chosen:
        start = {name: value for name, value in run.genesis.items() if name != "seed"}
        groups.setdefault(json.dumps(start, sort_keys=True), []).append(run)
    studies = [_study(part) for group in groups.values() for part in _sharing_seeds(group)]
    return tuple(sorted(studies, key=lambda study: -len(study.measurements)))


def short(spec: Any) -> str:
    """Write a spec in one line: names without their modules, settings that are set.

    Example:
        >>> short({"is": "boxwood.optim:SGD", "lr": 0.1, "nesterov": False})
        'SGD(lr=0.1)'
        >>> short({"is": "boxwood.recipes:Call", "settings": [["inputs", 64]],
        ...     "function": {"function": "boxwood.networks:lenet_300_100"}})
        'lenet_300_100(inputs=64)'
    """
    if isinstance(spec, list):
        return f"({', '.join(short(part) for part in spec)})"
    if not isinstance(spec, Mapping):
        return f"{spec:g}" if isinstance(spec, float) else str(spec)
    if "is" not in spec:
        return str(spec.get("function", "?")).rpartition(":")[2]
    name = str(spec["is"]).rpartition(":")[2]
    if name == "Call":
        listed = spec.get("settings")
        pairs = [
            pair
            for pair in (listed if isinstance(listed, list) else [])
            if isinstance(pair, list) and len(pair) == 2
        ]
        inner = ", ".join(f"{key}={short(value)}" for key, value in pairs)
        return f"{short(spec.get('function'))}({inner})"
    settings = ", ".join(
        f"{key}={short(value)}"
        for key, value in spec.items()
        if key not in ("is", "label") and value not in (None, False, 0, "", [])
    )
    return f"{name}({settings})" if settings else name


def _runs(store: Store) -> Iterator[Run]:
    if not store.root.is_dir():
        raise InvalidInput(
            f"Expected a store at {store.root}, got no such folder; give the --store of a run."
        )
    records: dict[str, Mapping[str, Any] | None] = {}

    def step(key: str, spec: Spec) -> Step:
        if key not in records:
            records[key] = _record(store, key)
        return Step(key, spec, records[key])

    for noted in store.runs():
        chain, recipe = noted["chain"], noted["recipe"]
        yield Run(
            name=str(noted["name"]),
            genesis=noted["genesis"],
            steps=tuple(step(key, spec) for key, spec in zip(chain[1:], recipe, strict=True)),
            store=store,
            start=step(chain[0], noted["genesis"]),
        )


def _record(store: Store, key: str) -> Mapping[str, Any] | None:
    """Read what is written about a phase; None while it is not done, or cannot be read."""
    try:
        return store.record(key) if store.has(key) else None
    except BoxwoodError as error:
        warnings.warn(str(error), DamagedFileWarning, stacklevel=2)
        return None


def _matches(run: Run, patterns: Sequence[str]) -> bool:
    about = f"{short(run.genesis.get('model'))} on {short(run.genesis.get('data'))}"
    return any(fnmatchcase(name, each) for each in patterns for name in (run.name, about))


def _sharing_seeds(runs: Iterable[Run]) -> list[list[Run]]:
    """Split runs into those whose branches are connected by seeds."""
    branches: dict[str, list[Run]] = {}
    for run in runs:
        branches.setdefault(run.branch, []).append(run)
    parts: list[tuple[set[int], list[Run]]] = []
    for group in branches.values():
        seeds = {run.seed for run in group}
        together = [part for part in parts if part[0] & seeds]
        parts = [part for part in parts if not part[0] & seeds]
        merged = [run for part in together for run in part[1]]
        parts.append((seeds.union(*(part[0] for part in together)), merged + group))
    return [part[1] for part in parts]


def _study(runs: Sequence[Run]) -> Study:
    latest: dict[tuple[str, int], Run] = {}
    replaced = []
    for run in runs:
        if (run.branch, run.seed) in latest:
            replaced.append(run.name)
        latest[run.branch, run.seed] = run
    order = {branch: i for i, branch in enumerate(dict.fromkeys(run.branch for run in runs))}
    ordered = sorted(latest.values(), key=lambda run: (order[run.branch], run.seed))
    start = runs[0].genesis
    return Study(
        short(start.get("model")), short(start.get("data")), tuple(ordered), tuple(replaced)
    )
