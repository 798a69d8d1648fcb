"""Run an experiment on a Ray cluster whose machines share the folder of the store."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from boxwood._internal.core.extras import extra
from boxwood._internal.runs.runner import Job, RunSettings
from boxwood._internal.runs.store import Store
from boxwood._internal.runs.workers import order_for, work
from boxwood.errors import BoxwoodError, InvalidInput


def run_on_ray(
    jobs: Sequence[Job],
    store: Store,
    settings: RunSettings | None = None,
    *,
    workers: int,
    threads: int = 1,
    gpus: float | None = None,
    address: str | None = None,
) -> None:
    """Run jobs in ``workers`` tasks of a Ray cluster.

    Every task is a worker as on one machine: the locks of the store share out the work, so its
    folder must be on a file system that all machines see and that has file locks. Ray starts a
    task again whose process or machine dies, and until then the other tasks go on with its work.

    Args:
        jobs: what to run.
        store: finished phases.
        settings: how to run; its watcher is not called.
        workers: how many tasks.
        threads: CPUs that each task asks Ray for, and threads of torch in it.
        gpus: GPUs that each task asks Ray for, at least 0; with a fraction several tasks share one.
            Ray shows each task its own alone. None asks for one where ``settings.device`` is no CPU.
        address: of the cluster, such as ``"auto"``; None starts one on this machine.

    Raises:
        MissingDependency: Ray is not installed.
        InvalidInput: a phase refuses its input, or the device has a number though Ray is asked for
            GPUs, which it numbers itself.

    Warns:
        UserWarning: no machine of the cluster has what a task asks for, and Ray waits for one.
    """
    ray = _ray()
    settings = settings or RunSettings()
    if gpus is None:
        gpus = float(settings.device.type != "cpu")
    if gpus and settings.device.index is not None:
        raise InvalidInput(
            f"Expected a device without a number, because Ray assigns GPUs to each task, got "
            f"{settings.device}; give {settings.device.type}."
        )
    order = order_for(jobs, store, settings, threads)
    mine = not ray.is_initialized()
    if mine:
        ray.init(
            address=address,
            num_cpus=None if address else workers * threads,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
    try:
        _warn_of_waiting(
            [node["Resources"] for node in ray.nodes() if node["Alive"]], threads, gpus
        )
        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=3)(work)
        ray.get([task.remote(order) for _ in range(workers)])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BoxwoodError):
            raise InvalidInput(str(error.cause)) from error
        raise
    finally:
        if mine:
            ray.shutdown()


def _warn_of_waiting(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> None:
    """Say that Ray will wait where no machine is large enough for a task."""
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        warnings.warn(
            f"No machine of the Ray cluster has {cpus} CPUs and {gpus:g} GPUs, which each task asks "
            f"for; Ray waits until there is one. Ask for less where none is to come.",
            UserWarning,
            stacklevel=3,
        )


def _ray() -> Any:
    with extra("ray", "Ray to run on a cluster"):
        import ray
    return ray
