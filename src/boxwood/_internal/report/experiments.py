"""Run an experiment to its end and return its measurements."""

from collections.abc import Sequence
from pathlib import Path

import torch

from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.report.study import Measurement, collect
from boxwood._internal.runs.runner import Job, RunSettings, jobs_of, run_all
from boxwood._internal.runs.store import Store
from boxwood._internal.runs.workers import run_in_processes
from boxwood.errors import InvalidInput


def run(
    experiment: Experiment,
    *,
    store: Store | str | Path = "runs",
    seeds: int | Sequence[int] = 1,
    workers: int = 1,
    device: str | torch.device = "cpu",
    snapshot_every: float = 30.0,
) -> tuple[Measurement, ...]:
    """Run every branch of an experiment for every seed.

    Finished phases are read from the store. You may kill the run at any moment and run it again:
    the results are byte for byte those of an uninterrupted run (on the CPU, with the same number of
    threads).

    Args:
        experiment: what to run.
        store: the folder where finished phases are kept.
        seeds: the number of seeds, at least 1, or the seeds themselves.
        workers: the number of processes that share the work, at least 1.
        device: where to train.
        snapshot_every: seconds between snapshots inside a long phase, above 0.

    Returns:
        A measurement for each phase `Measure`, in the order of the branches.

    Raises:
        InvalidInput: there is no seed, or a phase refuses its input.
        CheckpointError: the store cannot be read or written.

    Example:
        >>> import tempfile
        >>> from boxwood.data import digits
        >>> from boxwood.networks import lenet_300_100
        >>> from boxwood.optim import SGD
        >>> from boxwood.recipes import Call, iterative
        >>> from boxwood.training import Training
        >>> short = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> study = Experiment(
        ...     model=Call.of(lenet_300_100, inputs=64),
        ...     data=digits,
        ...     branches={"pruned": iterative(short, short, (0.5,))},
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [each.name for each in run(study, store=folder)]
        ['pruned round-1']
    """
    chosen = range(seeds) if isinstance(seeds, int) else seeds
    if not len(chosen) or workers < 1:
        raise InvalidInput(
            f"Expected at least one seed and one worker, got seeds={seeds!r} and "
            f"workers={workers}; give seeds=5 for the seeds 0 to 4."
        )
    jobs, opened = jobs_of(experiment, chosen), store if isinstance(store, Store) else Store(store)
    settings = RunSettings(snapshot_every=snapshot_every, device=torch.device(device))
    run_jobs(jobs, opened, settings, workers=workers)
    return collect(jobs, opened)


def run_jobs(jobs: Sequence[Job], store: Store, settings: RunSettings, *, workers: int) -> None:
    """Run jobs in this process, or in several with as many threads each as this one has."""
    if workers == 1:
        run_all(jobs, store, settings)
    else:
        run_in_processes(jobs, store, settings, workers=workers, threads=torch.get_num_threads())
