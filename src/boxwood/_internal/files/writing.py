"""Write files so that they appear under their name complete, or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from boxwood._internal.core.replacing import disk_errors, replacing
from boxwood.errors import CheckpointError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes its name once all of it is on the disk.

    Raises:
        CheckpointError: the disk is full or not writable; nothing half-written is left, and what was there
            before is untouched.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder) / "a") as opened:
        ...         _ = opened.write(b"all of it")
        ...     (Path(folder) / "a").read_text()
        'all of it'
    """
    with disk_errors(path), replacing(path) as new, new.open("r+b") as opened:
        yield opened


def copy_file(source: Path, target: Path) -> None:
    """Copy a file so that it appears whole or not at all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     copy_file(Path(__file__), Path(folder) / "copy")
        ...     (Path(folder) / "copy").read_bytes() == Path(__file__).read_bytes()
        True
    """
    with source.open("rb") as opened, whole_file(target) as copy:
        shutil.copyfileobj(opened, copy)


def check_space(folder: Path, needed: int) -> None:
    """Refuse what will not fit before any of it is written.

    Example:
        >>> check_space(Path(), 1)
    """
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"Expected {needed:,} bytes free in {folder}, got {free:,}; free some space, or give "
            f"another place."
        )


def check_new_folder(out: Path) -> None:
    """Refuse a place where something is already: a folder is written into nothing else.

    Example:
        >>> check_new_folder(Path("nothing"))
    """
    with disk_errors(out):
        if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
            raise CheckpointError(
                f"Expected {out} to be a new or an empty folder, got one that holds something; "
                f"give another folder, or delete this one."
            )
