"""The same graph of keys on a Ray cluster, whose machines share the folder of the store."""

from collections.abc import Sequence
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
    address: str | None = None,
) -> None:
    """Run jobs in ``workers`` tasks of a Ray cluster.

    Every task is a worker as on one machine: the locks of the store share out the work, so its
    folder must be on a file system that all machines see and that has file locks. Ray starts a
    task again whose process or machine dies.

    Args:
        jobs: what to run.
        store: finished phases.
        settings: how to run; its watcher is not called.
        workers: how many tasks.
        threads: CPUs that each task asks Ray for, and threads of torch in it.
        address: of the cluster, such as ``"auto"``; None starts one on this machine.

    Raises:
        MissingDependency: Ray is not installed.
        InvalidInput: a phase refuses its input.
    """
    ray = _ray()
    order = order_for(jobs, store, settings or RunSettings(), threads)
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
        task = ray.remote(num_cpus=threads, max_retries=3)(work)
        ray.get([task.remote(order) for _ in range(workers)])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BoxwoodError):
            raise InvalidInput(str(error.cause)) from error
        raise
    finally:
        if mine:
            ray.shutdown()


def _ray() -> Any:
    with extra("ray", "Ray to run on a cluster"):
        import ray
    return ray
