"""What tests of several folders share: what a store holds, stops and commands in processes of their own."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwood._internal.recipes.phase import State
from boxwood._internal.train.snapshots import Snapshot


@pytest.fixture
def contents() -> Callable[[Path], dict[str, tuple[bytes, object]]]:
    """Return a function that reads the bytes and facts of every finished phase of a store."""

    def read(store: Path) -> dict[str, tuple[bytes, object]]:
        return {
            folder.name: (
                (folder / "state.safetensors").read_bytes(),
                json.loads((folder / "phase.json").read_text())["facts"],
            )
            for folder in (store / "phases").iterdir()
            if not folder.name.startswith(".")
        }

    return read


class Stopping:
    """Checkpoints that keep a snapshot at one moment and stop there; -1 for no stop."""

    def __init__(self, stop: int) -> None:
        self.stop, self.step, self.kept = stop, 0, None

    def load(self) -> Snapshot | None:
        return self.kept

    def due(self) -> bool:
        self.step += 1
        return self.step == self.stop

    def save(self, snapshot: Snapshot) -> None:
        copied = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
        self.kept = Snapshot(copied, snapshot.facts)
        raise KeyboardInterrupt


@pytest.fixture
def stopped_is_undisturbed() -> Callable[..., State]:
    """Return a function that compares a run that is stopped and taken up with one that is not."""

    def compare(phase, start, world, stop) -> State:
        whole = phase.run(start, world())
        checkpoints = Stopping(stop)
        with pytest.raises(KeyboardInterrupt):
            phase.run(start, world(checkpoints))
        checkpoints.stop = -1
        again = phase.run(start, world(checkpoints))
        assert again.facts == whole.facts
        for mine, other in ((again.weights, whole.weights), (again.masks, whole.masks)):
            assert mine.keys() == other.keys()
            assert all(torch.equal(mine[name], other[name]) for name in mine)
        return whole

    return compare


class Forks:
    """Processes that are forked from one that has imported Boxwood; see `fork_server.py`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "fork_server.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def start(self, *argv: object, cwd: Path | None = None, entry: str = "command") -> "Fork":
        """Begin a command, a worker that reads an order, or code."""
        self._number += 1
        given, out, err = (self._folder / f"{self._number}.{name}" for name in ("in", "out", "err"))
        if entry == "worker":
            os.mkfifo(given)
        else:
            given.touch()
        files = [str(each) for each in (given, out, err)]
        words = [str(each) for each in argv]
        pid = self.ask(entry=entry, argv=words, cwd=str(cwd or self._folder), files=files)
        return Fork(self, pid, given, out, err)

    def run(self, *argv: object, cwd: Path | None = None) -> "Fork":
        """Run a command to its end."""
        process = self.start(*argv, cwd=cwd)
        process.wait()
        return process

    def ask(self, **what: Any) -> Any:
        """Ask the server, and wait for its answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(what) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """End the server."""
        with self._server:  # closes its pipes
            self._server.kill()


@dataclass
class Fork:
    """A process that was begun by `Forks`."""

    server: Forks
    pid: int
    given: Path
    out: Path
    err: Path
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = self.server.ask(wait=self.pid)
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        """Return the exit code once there is one."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < end, f"{self.pid} runs for more than {timeout} s"
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self.out.read_text() if self.out.exists() else ""

    @property
    def stderr(self) -> str:
        """What it has printed as errors so far."""
        return self.err.read_text() if self.err.exists() else ""


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Return what begins commands in processes of their own, without importing torch in each."""
    found = Forks(tmp_path_factory.mktemp("forks"))
    yield found
    found.close()


@pytest.fixture
def quick_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes of a pool be forked from one that has imported Boxwood, as by `forks`.

    The server lives as long as the tests: they pay for one import instead of one for each process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["boxwood._internal.agent.environment"])
    monkeypatch.setattr("boxwood._internal.agent.environment.get_context", lambda _: context)
