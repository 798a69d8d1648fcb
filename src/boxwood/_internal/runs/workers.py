"""Several processes on one store: each takes the next phase that is ready and that no other is making.

The graph of keys needs no server. The store holds what was asked for, locks say who makes what, and
the system lets go of a lock when its process ends. So a worker may be killed at any moment: another
makes its phase again, from the last snapshot on.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import IO, Any

import torch

from boxwood._internal.core.spec import encode
from boxwood._internal.core.trust import Trust
from boxwood._internal.runs.decoding import places_in, recipe_of, start_of
from boxwood._internal.runs.runner import Job, RunSettings, note, run_all, with_needs
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError, InvalidInput

Progress = Callable[[int, int], None]
"""Called with (done, all) phases of the graph."""

_POLL = 0.2  # seconds
_BAD_INPUT = 2
_WARNED = "boxwood worker warns: "


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker is to do: plain values, so that it may sit on another machine.

    Args:
        store: folder that all workers see.
        runs: last keys of the jobs, in the order in which to try them.
        threads: of torch, in this worker.
        snapshot_every: seconds between snapshots in a phase.
        device: where to train; one with a number is made the current one of the process.
        code: files and modules that define the jobs; no others are imported.
        path: folders in which modules are found, after the worker's own.
    """

    store: str
    runs: tuple[str, ...]
    threads: int = 1
    snapshot_every: float = 30.0
    device: str = "cpu"
    code: tuple[str, ...] = ()
    path: tuple[str, ...] = ()


def order_for(jobs: Sequence[Job], store: Store, settings: RunSettings, threads: int) -> Order:
    """Write jobs down in the store, the longest chains first: what comes last should be short."""
    note(jobs, store)
    longest = sorted(jobs, key=lambda job: -len(job.chain))
    return Order(
        store=str(store.root.absolute()),
        runs=tuple(job.chain[-1] for job in longest),
        threads=threads,
        snapshot_every=settings.snapshot_every,
        device=str(settings.device),
        code=tuple(sorted({*places_in([encode((job.genesis, job.recipe)) for job in jobs])})),
        path=tuple(os.path.abspath(each) for each in sys.path),  # noqa: PTH100 - "" is this folder
    )


def work(order: Order) -> None:
    """Do what is ready until all runs of the order are done, by this worker or others.

    Raises:
        InvalidInput: a phase refuses its input, or a file that defines it has changed since.
    """
    torch.set_num_threads(order.threads)
    device = torch.device(order.device)
    if device.index is not None:  # else what names no number would hold memory on the first device
        torch.get_device_module(device).set_device(device)
    # A file that was named put its folder there, for the packages next to it.
    sys.path += [each for each in order.path if each not in sys.path]
    store = Store(order.store)
    asked = {run["chain"][-1]: run for run in store.runs()}
    settings = RunSettings(snapshot_every=order.snapshot_every, device=device)
    if lost := [key for key in order.runs if key not in asked]:
        raise InvalidInput(
            f"Expected the run {lost[0]} to be recorded in {store.root}, got none that can be "
            f"read; "
            f"start it again."
        )
    trust = Trust.of(*order.code)
    run_all([_job(asked[key], trust) for key in order.runs], store, settings)


def run_in_processes(
    jobs: Sequence[Job],
    store: Store,
    settings: RunSettings | None = None,
    *,
    workers: int,
    threads: int = 1,
    progress: Progress | None = None,
) -> None:
    """Run jobs in ``workers`` processes of ``threads`` threads each.

    On a kind of device without a number, such as ``cuda``, each has one of this machine's to
    itself as long as there are enough; then they share. Workers that die are not replaced, for whatever killed one may kill the next; the others do
    their work. All end when this process does.

    Args:
        jobs: what to run.
        store: finished phases; ``settings.watcher`` is not called, as workers are other processes.
        settings: how to run.
        workers: how many processes.
        threads: of torch in each; more than the cores have is slower.
        progress: called with the number of finished phases.

    What workers warn of is warned of here, once.

    Raises:
        InvalidInput: a phase refuses its input, or the last worker died before all was done.
    """
    if workers < 1 or threads < 1:
        raise InvalidInput(
            f"Expected at least one worker of one thread, got workers={workers}, "
            f"threads={threads}; the product should be at most the {os.cpu_count()} cores here."
        )
    order = order_for(jobs, store, settings or RunSettings(), threads)
    keys = {key for job in with_needs(jobs) for key in job.chain}
    with tempfile.TemporaryFile("w+") as said:
        devices = [device_of(number, torch.device(order.device)) for number in range(workers)]
        crew = [_start(replace(order, device=str(each)), said) for each in devices]
        try:
            while any(worker.poll() is None for worker in crew):
                time.sleep(_POLL)
                if progress is not None:
                    progress(sum(map(store.has, keys)), len(keys))
        finally:
            for worker in crew:
                worker.terminate()
                worker.communicate()
        said.seek(0)
        words = said.read()
        for line in dict.fromkeys(words.splitlines()):
            if line.startswith(_WARNED):
                warnings.warn(json.loads(line.removeprefix(_WARNED)), UserWarning, stacklevel=2)
        _check(jobs, store, [worker.returncode for worker in crew], words)


def device_of(worker: int, device: torch.device) -> torch.device:
    """Choose the device of one of several workers.

    Args:
        worker: its number, from 0.
        device: what was asked for; one with a number is every worker's.

    Example:
        >>> device_of(3, torch.device("cpu"))
        device(type='cpu')
    """
    if device.type == "cpu" or device.index is not None:
        return device
    count = torch.get_device_module(device).device_count()
    return torch.device(device.type, worker % max(count, 1))


def _start(order: Order, said: IO[str]) -> "subprocess.Popen[str]":
    # Libraries read the number of threads when they are loaded, before anyone can call them.
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(order.threads))}
    worker = subprocess.Popen(  # noqa: S603 - this interpreter, this module
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stderr=said,
        env=environment,
        text=True,
    )
    assert worker.stdin is not None  # noqa: S101 - it is a pipe
    with suppress(BrokenPipeError):  # it died at once, which its exit code says
        worker.stdin.write(json.dumps(asdict(order)) + "\n")
        worker.stdin.flush()
    return worker


def _check(jobs: Sequence[Job], store: Store, codes: Sequence[int], said: str) -> None:
    if all(store.has(job.chain[-1]) for job in jobs):
        return
    lines = [each for each in said.splitlines() if each.strip() and not each.startswith(_WARNED)]
    if _BAD_INPUT in codes:
        raise InvalidInput(lines[-1] if lines else "Expected workers to say why they ended.")
    raise InvalidInput(
        f"Expected workers that finish, got exit codes {list(codes)} and last words "
        f"{lines[-1] if lines else 'none'!r}; run the same command again to resume."
    )


def _job(run: Mapping[str, Any], trust: Trust) -> Job:
    start = start_of(run["genesis"], run["chain"][0], trust)
    job = Job(start, recipe_of(run["recipe"], trust), run["name"])
    if job.chain[-1] != run["chain"][-1]:
        raise InvalidInput(
            f"Expected the run {run['name']!r} with the key {run['chain'][-1]}, got one with the "
            f"key {job.chain[-1]}: the file that defines it has changed since; start it again."
        )
    return job


def _report(message: Warning | str, *_: object, **__: object) -> None:
    """Write a warning in a line, for the parent to repeat."""
    print(f"{_WARNED}{json.dumps(str(message))}", file=sys.stderr)  # noqa: T201


def _end_with_parent() -> None:
    """End when the pipe from the parent closes: nobody is left to hear of the results."""
    # Not by sys.stdin, whose lock would stop the interpreter from ending by itself.
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Read an order from standard input and work on it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # interrupted together with the parent, silently
    warnings.showwarning = _report
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    given |= {name: tuple(given[name]) for name in ("runs", "code", "path")}
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(Order(**given))
    except BoxwoodError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the parent
        sys.exit(_BAD_INPUT)


if __name__ == "__main__":
    main()
