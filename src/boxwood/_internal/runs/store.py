"""A store: a folder of finished phases, each of them complete.

    phases/KEY/state.safetensors    weights/NAME and masks/NAME (bits)
    phases/KEY/phase.json           spec, parent, facts, checksum, provenance
    partial/KEY.safetensors         how far a phase under way has come
    runs/KEY.json                   what was asked for: the chain that ends in KEY
    locks/KEY.lock                  held by the process that makes KEY
    locks/notes.lock                held while a run is noted, or unwanted phases are taken away

A phase is written into a folder of its own and renamed; a snapshot and a note are written into a
file of their own and renamed. What is being written has a name that begins with `UNFINISHED`, and
is read by nobody.

Nothing in the store is executable. It names functions and classes, though, which whoever builds a
network from it imports and calls; see `boxwood._internal.core.trust` for which of them.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from boxwood._internal.core.masks import pack, unpack
from boxwood._internal.core.reading import opened, strict_json
from boxwood._internal.core.replacing import disk_errors, replacing, replacing_folder, unfinished
from boxwood._internal.core.tensor_files import read_checked, read_tensors, write_tensors
from boxwood._internal.recipes.phase import State
from boxwood._internal.runs.records import (
    FORMAT,
    OtherFormatError,
    check_format,
    damaged,
    read_note,
    read_record,
    sealed_text,
)
from boxwood._internal.train.snapshots import Snapshot
from boxwood.errors import BoxwoodError, CheckpointError, DamagedFileWarning

_SNAPSHOT = "boxwood.snapshot"
_PATIENCE = 60.0
"""Seconds to wait for what takes another process milliseconds."""


class Store:
    """Finished phases by key, in a folder.

    Args:
        root: the folder; made when something is first written.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def has(self, key: str) -> bool:
        """Say whether the phase is finished."""
        try:
            return (self.root / "phases" / key / "phase.json").exists()
        except OSError:  # a folder that may not be looked into
            return False

    def phases(self) -> list[str]:
        """List the finished phases."""
        found = (path.parent.name for path in self.root.glob("phases/[!.]*/phase.json"))
        return sorted(found)

    def record(self, key: str) -> dict[str, Any]:
        """Read what is written about a phase: spec, facts, provenance.

        Raises:
            CheckpointError: there is no such phase, its record is damaged, or a newer Boxwood made it.
        """
        try:
            return read_record(self.root / "phases" / key / "phase.json")
        except FileNotFoundError as error:
            raise CheckpointError(
                f"Expected a phase {key!r} in the store {self.root}, got none; "
                f"list what there is with `boxwood runs list`."
            ) from error

    def load(self, key: str) -> State:
        """Read the state that a phase left.

        Raises:
            CheckpointError: the file is truncated or not what was written.
        """
        record = self.record(key)
        path = self.root / "phases" / key / "state.safetensors"
        try:
            if _sha256(path) != record["sha256"]:
                raise damaged(path, "its bytes are not those that were written")
            tensors = read_tensors(path).tensors
        except (OSError, ValueError) as error:
            raise damaged(path, error) from error
        weights = {n[8:]: t for n, t in tensors.items() if n.startswith("weights/")}
        bits = {n[6:]: t for n, t in tensors.items() if n.startswith("masks/")}
        try:
            masks = unpack(bits, {name: tuple(weights[name].shape) for name in bits})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged(path, f"masks that do not fit its weights: {error}") from error
        return State(weights, masks, record["facts"])

    def commit(self, key: str, state: State, about: Mapping[str, Any]) -> None:
        """Write a finished phase; it appears under its key at once, or not at all.

        Raises:
            CheckpointError: the disk is full or not writable; nothing half-written is left.
        """
        path = self._folder("phases") / key
        with _disk(self.root):
            if path.exists() and not self.has(key):
                path.rename(unfinished(path))  # what somebody left of it
            with replacing_folder(path) as made:
                tensors = {f"weights/{n}": t for n, t in state.weights.items()}
                tensors |= {f"masks/{n}": t for n, t in pack(state.masks).items()}
                write_tensors(made / "state.safetensors", tensors)
                record = {
                    "format": FORMAT,
                    "key": key,
                    **about,
                    "facts": state.facts,
                    "sha256": _sha256(made / "state.safetensors"),
                }
                (made / "phase.json").write_text(sealed_text(record))
        with suppress(OSError):  # it is of no use any more, and no harm
            self._partial(key).unlink()

    @contextmanager
    def lock(self, key: str) -> Iterator[bool]:
        """Try to become the one process that makes a phase; yields whether that worked.

        The system lets go of the lock when a process ends, however it ends.
        """
        lock = FileLock(self.lock_file(key))
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

    def lock_file(self, key: str) -> Path:
        """Name the file whose lock is held by the process that makes a phase."""
        return self._folder("locks") / f"{key}.lock"

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Be the only one who notes runs, or who takes away phases that no note wants.

        Raises:
            CheckpointError: another process has held the lock for a minute.
        """
        path = self.lock_file("notes")
        lock = FileLock(path)
        try:
            with _disk(self.root):
                lock.acquire(timeout=_PATIENCE)
        except Timeout as error:
            raise CheckpointError(
                f"Expected the lock {path} to be free within {_PATIENCE:.0f} s, got one that "
                f"another process holds, which may be suspended; find it with `fuser {path}`, "
                f"let it finish or end it, and run again."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def note_run(self, key: str, about: Mapping[str, Any]) -> None:
        """Write down what was asked for, before any of it is done.

        Raises:
            CheckpointError: the disk is full or not writable, or another version of Boxwood has noted
                this run.
        """
        path = self._folder("runs") / f"{key}.json"
        wanted = json.loads(json.dumps({"format": FORMAT, **about}))
        try:
            if read_note(path) == wanted:
                return
        except OtherFormatError:
            raise
        except (FileNotFoundError, BoxwoodError):
            pass  # it is new, or damaged and written again
        with self.noting(), _disk(self.root), replacing(path) as new:
            new.write_text(sealed_text(wanted))

    def runs(self) -> list[dict[str, Any]]:
        """Read all that was asked for, oldest first.

        A note that cannot be used is left out, with a warning of the kind `DamagedFileWarning`.
        """
        notes, errors = self.read_notes()
        for error in errors:
            warnings.warn(str(error), DamagedFileWarning, stacklevel=2)
        return notes

    def read_notes(self) -> tuple[list[dict[str, Any]], list[BoxwoodError]]:
        """Read all that was asked for, oldest first, and what is wrong with those left out."""
        dated: list[tuple[int, str, dict[str, Any]]] = []
        errors = []
        for path in sorted(self.root.glob("runs/[!.]*.json")):
            try:
                dated.append((path.stat().st_mtime_ns, path.name, read_note(path)))
            except BoxwoodError as error:
                errors.append(error)
            except OSError as error:
                if not isinstance(error, FileNotFoundError) or path.is_symlink():
                    errors.append(damaged(path, error))
        return [note for _, _, note in sorted(dated, key=lambda each: each[:2])], errors

    def snapshot(self, key: str) -> Snapshot | None:
        """Read how far a phase under way has come; None if it has not been started.

        A damaged snapshot counts as none, with a warning of the kind `DamagedFileWarning`: the
        phase begins again, and its result is the same.

        Raises:
            CheckpointError: a newer Boxwood wrote it.
        """
        path = self._partial(key)
        if not path.exists():
            return None
        try:
            found = read_checked(path)
            about = strict_json(found.texts[_SNAPSHOT].encode())
            facts, version = about["facts"], about["format"]
        except (CheckpointError, OSError, ValueError, KeyError) as error:
            _begin_again(path, error)
            return None
        check_format(version, path)
        return Snapshot(found.tensors, facts)

    def save_snapshot(self, key: str, snapshot: Snapshot) -> None:
        """Keep how far a phase has come, in place of what was kept before."""
        self._folder("partial")
        about = json.dumps({"format": FORMAT, "facts": snapshot.facts})
        with _disk(self.root):
            write_tensors(self._partial(key), snapshot.tensors, {_SNAPSHOT: about})

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
        """Write a snapshot; one that cannot be written is only warned of, as training needs none."""
        try:
            self._store.save_snapshot(self._key, snapshot)
        except BoxwoodError as error:
            warnings.warn(
                f"{error} The training goes on without a new snapshot.", UserWarning, stacklevel=2
            )
        self._last = time.monotonic()


def _sha256(path: Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _begin_again(path: Path, why: object) -> None:
    warnings.warn(
        f"Expected an undamaged snapshot at {path}, got one that cannot be used ({why}); its phase "
        f"begins again, and its result will be the same.",
        DamagedFileWarning,
        stacklevel=3,
    )


def _disk(root: Path) -> AbstractContextManager[None]:
    way_out = (
        "free some space, or give another folder with --store. What was finished before is kept."
    )
    return disk_errors(f"into the store {root}", way_out)
