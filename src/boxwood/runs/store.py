"""A folder of finished phases, each there whole or not at all.

    phases/KEY/state.safetensors    weights/NAME and masks/NAME (bits)
    phases/KEY/phase.json           spec, parent, facts, checksum, provenance
    partial/KEY.safetensors         how far a phase under way has come
    runs/KEY.json                   what was asked for: the chain that ends in KEY
    locks/KEY.lock                  held by the process that makes KEY

A phase is written into a folder of its own and renamed; a snapshot is written into a file of its
own and renamed. Nothing in the store is executable.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from boxwood.core.errors import BoxwoodError
from boxwood.core.masks import pack, unpack
from boxwood.core.replacing import UNFINISHED, replacing, sync
from boxwood.files.header import refuse_pickle
from boxwood.recipes.phase import State
from boxwood.train.snapshots import Snapshot

FORMAT = 1


class Store:
    """Finished phases by key, in a folder.

    Args:
        root: the folder; made when something is first written.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def has(self, key: str) -> bool:
        """Say whether the phase is finished."""
        return (self.root / "phases" / key / "phase.json").exists()

    def record(self, key: str) -> dict[str, Any]:
        """Read what is written about a phase: spec, facts, provenance."""
        path = self.root / "phases" / key / "phase.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise BoxwoodError(
                f"Expected a phase {key!r} in the store {self.root}, got none; "
                f"list what there is with `boxwood runs list`."
            ) from error
        except ValueError as error:
            raise _damaged(path, error) from error
        return found

    def load(self, key: str) -> State:
        """Read the state that a phase left.

        Raises:
            BoxwoodError: the file is truncated or not what was written.
        """
        record = self.record(key)
        path = self.root / "phases" / key / "state.safetensors"
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() != record["sha256"]:
                raise _damaged(path, "its bytes are not those that were written")
            tensors, _ = read_tensors(path)
        except OSError as error:
            raise _damaged(path, error) from error
        weights = {n[8:]: t for n, t in tensors.items() if n.startswith("weights/")}
        bits = {n[6:]: t for n, t in tensors.items() if n.startswith("masks/")}
        shapes = {name: tuple(weights[name].shape) for name in bits}
        return State(weights, unpack(bits, shapes), record["facts"])

    def commit(self, key: str, state: State, about: Mapping[str, Any]) -> None:
        """Write a finished phase; it appears under its key at once, or not at all.

        Raises:
            BoxwoodError: the disk is full or not writable; nothing is left behind.
        """
        folder = self._folder("phases")
        with _disk(self.root):
            made = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder))
            try:
                tensors = {f"weights/{n}": t.contiguous() for n, t in state.weights.items()}
                tensors |= {f"masks/{n}": t for n, t in pack(state.masks).items()}
                save_file(tensors, made / "state.safetensors")
                record = {
                    "format": FORMAT,
                    "key": key,
                    **about,
                    "facts": state.facts,
                    "sha256": hashlib.sha256((made / "state.safetensors").read_bytes()).hexdigest(),
                }
                text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False)
                (made / "phase.json").write_text(text + "\n")
                for each in made.iterdir():
                    sync(each)
                made.rename(folder / key)
                sync(folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        self._partial(key).unlink(missing_ok=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[bool]:
        """Try to become the one process that makes a phase; yields whether that worked.

        The system lets go of the lock when a process ends, however it ends.
        """
        path = self._folder("locks") / f"{key}.lock"
        lock = FileLock(path)
        try:
            with _disk(self.root):
                lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def note_run(self, key: str, about: Mapping[str, Any]) -> None:
        """Write down what was asked for, before any of it is done."""
        path = self._folder("runs") / f"{key}.json"
        text = json.dumps(about, indent=1, sort_keys=True) + "\n"
        if not (path.exists() and path.read_text() == text):
            _replace(path, lambda new: new.write_text(text), self.root)

    def runs(self) -> list[dict[str, Any]]:
        """Read all that was asked for, oldest first."""
        files = sorted((self.root / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime)
        return [json.loads(path.read_text()) for path in files]

    def snapshot(self, key: str) -> Snapshot | None:
        """Read how far a phase under way has come; None if it has not been started."""
        path = self._partial(key)
        if not path.exists():
            return None
        tensors, facts = read_tensors(path)
        return Snapshot(tensors, json.loads(facts["facts"]))

    def save_snapshot(self, key: str, snapshot: Snapshot) -> None:
        """Keep how far a phase has come, in place of what was kept before."""
        self._folder("partial")
        tensors = {name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}
        facts = {"facts": json.dumps(snapshot.facts)}
        _replace(self._partial(key), lambda new: save_file(tensors, new, facts), self.root)

    def collect_garbage(self) -> int:
        """Delete what interrupted processes left and no run needs; returns the bytes freed.

        Finished phases that belong to a noted run stay, and so do snapshots of unfinished ones.
        """
        wanted = {key for run in self.runs() for key in run["chain"]}
        freed = 0
        for path in [*self.root.glob("phases/*"), *self.root.glob("partial/*")]:
            key = path.name.removesuffix(".safetensors")
            with self.lock(key) as mine:
                unfinished = path.parent.name == "partial" and not self.has(key)
                if not mine or (key in wanted and (path.is_dir() or unfinished)):
                    continue
                freed += sum(f.stat().st_size for f in [path, *path.rglob("*")] if f.is_file())
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return freed

    def _partial(self, key: str) -> Path:
        return self.root / "partial" / f"{key}.safetensors"

    def _folder(self, name: str) -> Path:
        with _disk(self.root):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        return self.root / name


class StoredCheckpoints:
    """Snapshots of one phase in a store, at most one every ``every`` seconds."""

    def __init__(self, store: Store, key: str, every: float) -> None:
        self._store, self._key, self._every = store, key, every
        self._last = time.monotonic()

    def load(self) -> Snapshot | None:
        """Read the last snapshot."""
        return self._store.snapshot(self._key)

    def due(self) -> bool:
        """Say whether ``every`` seconds have passed."""
        return time.monotonic() - self._last >= self._every

    def save(self, snapshot: Snapshot) -> None:
        """Write a snapshot."""
        self._store.save_snapshot(self._key, snapshot)
        self._last = time.monotonic()


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a safetensors file and its notes.

    Raises:
        BoxwoodError: the file is a pickle, is truncated, or is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            return {n: opened.get_tensor(n) for n in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        with path.open("rb") as start:
            refuse_pickle(start.read(4), path)
        raise _damaged(path, error) from error


def _damaged(path: Path, why: object) -> BoxwoodError:
    return BoxwoodError(
        f"Expected an undamaged file at {path}, got one that cannot be used ({why}); "
        f"delete {path.parent if path.parent.parent.name == 'phases' else path} "
        f"and run again, or copy the file anew."
    )


@contextmanager
def _disk(root: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an error that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, Timeout):
            raise
        raise BoxwoodError(
            f"Expected to write into the store {root}, got {error}; free some space, or give "
            f"another folder with --store. What was finished before is kept."
        ) from error


def _replace(path: Path, write: Any, root: Path) -> None:
    with _disk(root), replacing(path) as new:
        write(new)
