"""Find and delete files that interrupted processes left in a store and that no run needs.

Other processes may work on the store meanwhile. What one of them is making is locked by its key,
and a run is noted, with all the phases that it will want, before it begins. So a phase is taken
away only while nobody can note a run, and what is being written only while its key is not locked.
"""

import re
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boxwood._internal.core.replacing import finished_name, unfinished
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError, DamagedFileWarning

_OLD = 3600.0
"""Seconds after which something unfinished that carries no key counts as abandoned."""

_KEY = re.compile("[0-9a-f]{20}")
"""Keys as `boxwood._internal.core.digests.digest` makes them; nothing of another name is touched."""


def collect_garbage(store: Store) -> int:
    """Delete files that interrupted processes left and no run needs, and return the bytes freed.

    Finished phases that belong to a recorded run are kept, and so are snapshots of unfinished ones.
    If a record is damaged, all finished phases and snapshots are kept, because any may belong to
    it. Files that cannot be read or deleted are left, with a `DamagedFileWarning`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     left = Path(folder) / "runs" / ".new-0123456789abcdef-00ff.json"
        ...     left.parent.mkdir()
        ...     _ = left.write_text("half a note")
        ...     collect_garbage(Store(folder)), left.exists()
        (11, False)
    """
    with store.noting():
        _set_unwanted_aside(store)
    freed = 0
    for path in _inside(store, "phases", "partial", "runs"):
        with _going_on(path):
            if _is_abandoned(store, path):
                size = _size(path)
                _delete(path)
                freed += size
    return freed


def _set_unwanted_aside(store: Store) -> None:
    """Rename what no run needs; a run that is noted from now on makes it again."""
    notes, damaged = store.read_notes()
    for error in damaged:
        warnings.warn(
            f"{error} Until then no finished phase is deleted.", DamagedFileWarning, stacklevel=3
        )
    if damaged:
        return
    wanted = {key for run in notes for key in run["chain"]}
    for path in _inside(store, "phases", "partial"):
        key = path.name.removesuffix(".safetensors")
        needed = key in wanted and (path.parent.name == "phases" or not store.has(key))
        if needed or not _KEY.fullmatch(key):
            continue
        with _going_on(path), store.lock(key) as mine:
            if mine:
                path.rename(unfinished(path))


def _is_abandoned(store: Store, path: Path) -> bool:
    """Say whether something is unfinished, and nobody is writing it any more."""
    name = finished_name(path)
    if name is None:
        return False
    if path.parent.name == "runs":
        with store.noting():  # so that nobody is
            return path.exists()
    key = name.removesuffix(".safetensors")
    if not _KEY.fullmatch(key):
        return time.time() - path.lstat().st_mtime > _OLD
    with store.lock(key) as mine:
        return mine


def _inside(store: Store, *folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted(store.root.glob(f"{folder}/*"))]


def _size(path: Path) -> int:
    return sum(each.lstat().st_size for each in [path, *path.rglob("*")] if not each.is_dir())


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def _going_on(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        pass  # its process has finished it, or another one cleans up
    except (OSError, BoxwoodError) as error:
        warnings.warn(
            f"Expected to delete {path}, got {error}; delete it by hand, if no process writes it.",
            DamagedFileWarning,
            stacklevel=4,
        )
