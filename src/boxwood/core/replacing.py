"""Files and folders that take their name whole, or not at all: the one way in which Boxwood writes."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".new-"
"""How the name of a file begins while it is being written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the place of a new file, which takes the name ``path`` once all of it is on the disk.

    Whoever calls it says in its own words what an ``OSError`` means; in any case nothing is left
    behind, and what was there before is untouched.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a") as new:
        ...         _ = new.write_text("all of it")
        ...     (Path(folder) / "a").read_text()
        'all of it'
    """
    new = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    try:
        yield new
        sync(new)
        new.replace(path)
        sync(path.parent)
    finally:
        with suppress(NotADirectoryError):
            new.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder, which takes the name ``path`` once all that is put into it is on the disk.

    Nothing, or an empty folder, may have that name before. A process that is killed leaves a folder
    whose name begins with `UNFINISHED` beside it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing_folder(Path(folder) / "a") as new:
        ...         _ = (new / "b").write_text("all of it")
        ...     (Path(folder) / "a" / "b").read_text()
        'all of it'
    """
    new = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    new.mkdir()
    try:
        yield new
        for each in (*new.rglob("*"), new):
            sync(each)
        new.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file's contents, or the names in a folder, survive a loss of power.

    Example:
        >>> sync(Path())
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
