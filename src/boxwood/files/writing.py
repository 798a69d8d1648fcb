"""Files that appear under their name whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from boxwood.core.errors import BoxwoodError

UNFINISHED = ".new-"
"""How the name of a file begins while it is being written."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes its name once all of it is on the disk.

    Raises:
        BoxwoodError: the disk is full or not writable; nothing is left behind, and what was there
            before is untouched.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder) / "a") as opened:
        ...         _ = opened.write(b"all of it")
        ...     (Path(folder) / "a").read_text()
        'all of it'
    """
    new = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    with disk_errors(path):
        new.unlink(missing_ok=True)
        try:
            # "x": never through a link that somebody has put there.
            with new.open("xb") as opened:
                yield opened
                opened.flush()
                os.fsync(opened.fileno())
            new.replace(path)
            sync_folder(path.parent)
        finally:
            new.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power.

    Example:
        >>> sync_folder(Path())
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an error that says what to do.

    Example:
        >>> with disk_errors(Path("out")):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        ...
        boxwood.core.errors.BoxwoodError: Expected to write out, got [Errno 28] No space left on device; free some space or give another place, and run again: what was finished is kept.
    """
    try:
        yield
    except OSError as error:
        raise BoxwoodError(
            f"Expected to write {path}, got {error}; free some space or give another place, and "
            f"run again: what was finished is kept."
        ) from error
