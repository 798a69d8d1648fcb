"""Run a recipe on a store: use phases that are there, and make each missing one once."""

import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core.spec import encode
from boxwood._internal.core.tensor_files import read_tensors
from boxwood._internal.data.splits import Splits
from boxwood._internal.recipes.phase import (
    Experiment,
    Genesis,
    Phase,
    Recipe,
    State,
    World,
    load_weights_,
    state_of,
)
from boxwood._internal.runs.chain import keys
from boxwood._internal.runs.provenance import provenance
from boxwood._internal.runs.records import damaged
from boxwood._internal.runs.store import Store, StoredCheckpoints
from boxwood.errors import InvalidInput

Watcher = Callable[["Job", int, int, int], None]
"""Called with the job, the number of the phase, and (done, all) within it."""

_TELL_AFTER = 60.0
"""Seconds of waiting for other processes after which that is said."""


@dataclass(frozen=True)
class Job:
    """One recipe from one start."""

    genesis: Genesis
    recipe: Recipe
    name: str = ""

    @cached_property
    def chain(self) -> tuple[str, ...]:
        """Keys of the start and of every phase."""
        return keys(self.genesis, self.recipe)


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run that change no result.

    Args:
        snapshot_every: seconds between snapshots inside a long phase.
        device: where to train; bit-exact resumption is promised on the CPU.
        watcher: called with the progress.
    """

    snapshot_every: float = 30.0
    device: torch.device = torch.device("cpu")
    watcher: Watcher | None = None


def run_recipe(
    genesis: Genesis, recipe: Recipe, store: Store, settings: RunSettings | None = None
) -> State:
    """Run a recipe to its end and return the last state.

    Finished phases are read from the store. You may kill the run at any moment and run it again:
    the result is byte for byte that of an uninterrupted run.

    Args:
        genesis: where to start.
        recipe: the phases.
        store: where finished phases are.
        settings: how to run.

    Raises:
        InvalidInput: a phase refuses its input, or the store cannot be written.
    """
    run_all([Job(genesis, recipe)], store, settings)
    return store.load(keys(genesis, recipe)[-1])


def run_all(jobs: Sequence[Job], store: Store, settings: RunSettings | None = None) -> None:
    """Run several recipes; any number of processes on one store share the work.

    The process that locks a phase first makes it. A process that finds a phase locked continues
    with another job, and waits only if there is no other.
    """
    settings = settings or RunSettings()
    data = _Data()
    jobs = with_needs(jobs)
    note(jobs, store)
    waiting = [job for job in jobs if not store.has(job.chain[-1])]
    idle_since = time.monotonic()
    while waiting:
        moved = False
        for job in list(waiting):
            before = _done(job, store)
            if _advance(job, store, settings, data):
                waiting.remove(job)
            moved |= _done(job, store) > before
        if moved:
            idle_since = time.monotonic()
        elif waiting:
            time.sleep(0.2)  # every next phase is being made by another process
            if time.monotonic() - idle_since > _TELL_AFTER:
                _tell_of_waiting(waiting, store)
                idle_since = math.inf  # once is enough


def _tell_of_waiting(waiting: Sequence[Job], store: Store) -> None:
    """Say what is waited for: a process that was stopped holds its lock until it ends."""
    keys = dict.fromkeys(job.chain[_done(job, store)] for job in waiting)
    files = ", ".join(str(store.lock_file(key)) for key in keys)
    warnings.warn(
        f"Every phase that could be made next has been in the hands of other processes for "
        f"{_TELL_AFTER:.0f} s, and is waited for. If none of them works any more, end the one that "
        f"holds the lock: `fuser {files}` names it.",
        UserWarning,
        stacklevel=3,
    )


def note(jobs: Sequence[Job], store: Store) -> None:
    """Write down in a store what is asked for."""
    for job in jobs:
        store.note_run(
            job.chain[-1],
            {
                "name": job.name,
                "chain": job.chain,
                "genesis": encode(job.genesis),
                "recipe": encode(job.recipe),
            },
        )


def jobs_of(experiment: Experiment, seeds: Sequence[int]) -> list[Job]:
    """List the jobs of an experiment: every branch for every seed."""
    experiment = _with_checksum(experiment)
    return [
        Job(experiment.genesis(seed), recipe, f"{name} / seed {seed}")
        for seed in seeds
        for name, recipe in experiment.branches
    ]


def _done(job: Job, store: Store) -> int:
    """How many keys from the start on are there."""
    return next((i for i, key in enumerate(job.chain) if not store.has(key)), len(job.chain))


def _advance(job: Job, store: Store, settings: RunSettings, data: "_Data") -> bool:
    """Work until the end, or until a phase that another process is making."""
    if store.has(job.chain[-1]):
        return True
    state: State | None = None
    for index in range(_done(job, store), len(job.chain)):
        key = job.chain[index]
        with store.lock(key) as mine:
            if store.has(key):
                state = None
                continue
            if not mine or not all(store.has(need.chain[-1]) for need in _needs(job, index)):
                return False
            started = time.monotonic()
            if index == 0:
                state = _start(job.genesis)
                spec, parent = encode(job.genesis), None
            else:
                phase, parent = job.recipe[index - 1], job.chain[index - 1]
                _check_data(store, parent, data.of(job.genesis))
                before = state if state is not None else store.load(parent)
                world = _world(job, index, store, settings, data.of(job.genesis))
                state, spec = phase.run(before, world), encode(phase)
            about = {
                "spec": spec,
                "parent": parent,
                "data": data.of(job.genesis).identity,
                "provenance": provenance(settings.device)
                | {"seconds": round(time.monotonic() - started, 3)},
            }
            store.commit(key, state, about)
    return True


def _check_data(store: Store, parent: str, data: Splits) -> None:
    """Refuse to go on with other examples than a run began with, under the same function."""
    began = store.record(parent).get("data")
    if began is not None and began != data.identity:
        raise InvalidInput(
            f"Expected {data.name} as it was when this run began (its identity was "
            f"{str(began)[:12]}), got other contents ({data.identity[:12]}); restore the old "
            f"data, or start again with another --store or a function of another name."
        )


def with_needs(jobs: Sequence[Job]) -> list[Job]:
    """Put before each recipe the runs that its phases need, and those that these need; each once."""
    found: dict[str, Job] = {}
    for job in jobs:
        needed = [need for index in range(1, len(job.chain)) for need in _needs(job, index)]
        for need in with_needs(needed):
            found.setdefault(need.chain[-1], need)
        found[job.chain[-1]] = job
    return list(found.values())


def _needs(job: Job, index: int) -> list[Job]:
    """Runs that the phase before key ``index`` of a job needs."""
    needs = getattr(job.recipe[index - 1], "needs", None) if index else None
    if needs is None:
        return []
    return [Job(genesis, recipe, f"for {job.name}") for genesis, recipe in needs(job.genesis)]


def _start(genesis: Genesis) -> State:
    model = genesis.build()
    if genesis.checkpoint is not None:
        load_weights_(model, _checkpoint(Path(genesis.checkpoint)))
    return state_of(model, {}, {})


def _world(job: Job, index: int, store: Store, settings: RunSettings, data: Splits) -> World:
    labels = {"genesis": job.chain[0]}
    labels |= _labels(job.recipe[: index - 1], job.chain[1:])
    watcher = settings.watcher

    def earlier(label: str) -> State:
        if label not in labels:
            raise InvalidInput(
                f"Expected the label of an earlier phase ({', '.join(labels)}), got {label!r}; "
                f"give that phase the label, or correct it."
            )
        return store.load(labels[label])

    return World(
        genesis=job.genesis,
        data=data,
        earlier=earlier,
        checkpoints=StoredCheckpoints(store, job.chain[index], settings.snapshot_every),
        progress=None if watcher is None else lambda done, n: watcher(job, index, done, n),
        device=settings.device,
        finished=lambda genesis, recipe: store.load(keys(genesis, recipe)[-1]),
        cache=store.root / "answers",
    )


def _labels(recipe: Recipe, chain: tuple[str, ...]) -> dict[str, str]:
    return {phase.label: key for phase, key in zip(recipe, chain, strict=False) if phase.label}


class _Data:
    """The data sets of the jobs, each read once."""

    def __init__(self) -> None:
        self._read: dict[Any, Splits] = {}

    def of(self, genesis: Genesis) -> Splits:
        if genesis.data not in self._read:
            self._read[genesis.data] = genesis.data()
        return self._read[genesis.data]


def _with_checksum(experiment: Experiment) -> Experiment:
    """Name a checkpoint by its bytes, so that another file under its name is another start."""
    if experiment.checkpoint is None:
        return experiment
    path = Path(experiment.checkpoint)
    if not os.path.isfile(path):  # noqa: PTH113 - a path that is too long is none
        raise InvalidInput(f"Expected a checkpoint at {path}, got none; correct the path.")
    _checkpoint(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if experiment.checkpoint_sha256 not in (None, found):
        raise InvalidInput(
            f"Expected the checkpoint {path} with SHA-256 {experiment.checkpoint_sha256}, got "
            f"{found}; the file has changed: give the old file, or leave checkpoint_sha256 out."
        )
    return replace(experiment, checkpoint_sha256=found)


def _checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path).tensors
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def phase_title(phase: Phase) -> str:
    """Say what a phase is in a few words.

    Example:
        >>> from boxwood.phases import Prune
        >>> phase_title(Prune(sparsity=0.9))
        'Prune to 90 %'
    """
    name = type(phase).__name__
    training, sparsity = getattr(phase, "training", None), getattr(phase, "sparsity", None)
    if training is not None:
        taught = getattr(phase, "teacher", None) is not None
        return f"{name} {training.length}" + " with a teacher" * taught
    return name if sparsity is None else f"{name} to {100 * sparsity:.4g} %"
