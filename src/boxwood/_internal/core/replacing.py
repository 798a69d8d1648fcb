"""Atomic writes: files and folders appear under their name complete, or not at all. All of Boxwood writes this way."""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from boxwood.errors import CheckpointError, InvalidInput

_OTHERS = {
    ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".npz", ".h5", ".onnx", ".gguf",
    ".safetensors", ".bxw",
}  # fmt: skip
"""Names by which other programs, and people, know how a network is stored."""

UNFINISHED = ".new-"
"""How the name of a file begins while it is being written."""


def unfinished(path: Path) -> Path:
    """Name a file or folder while it is being written: next to it, and as no other is named.

    The random part distinguishes processes whose numbers are the same, as in two containers.

    Example:
        >>> unfinished(Path("a/b.json")).name[:5], finished_name(unfinished(Path("a/b.json")))
        ('.new-', 'b.json')
    """
    return path.with_name(f"{UNFINISHED}{secrets.token_hex(8)}-{path.name}")


def finished_name(path: Path) -> str | None:
    """Return the name that an unfinished file was to take; None for any other file.

    Example:
        >>> finished_name(Path("b.json"))
    """
    if not path.name.startswith(UNFINISHED):
        return None
    return path.name.removeprefix(UNFINISHED).partition("-")[2]


def check_suffix(path: Path, wanted: str) -> None:
    """Refuse a name that promises another format than that which is about to be written.

    Names that promise nothing are as good as any.

    Example:
        >>> check_suffix(Path("small.safetensors"), ".safetensors")
        >>> check_suffix(Path("small.pt"), ".safetensors")
        Traceback (most recent call last):
        ...
        boxwood.errors.CheckpointError: Expected a name for a .safetensors file, got small.pt; the file written here is not a .pt file: name it small.safetensors.
    """
    if path.suffix.lower() in _OTHERS - {wanted}:
        raise CheckpointError(
            f"Expected a name for a {wanted} file, got {path}; the file written here is not a "
            f"{path.suffix} file: name it {path.with_suffix(wanted)}."
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the place of a new file, which takes the name ``path`` once all of it is on the disk.

    The file has the permissions of any new file, whatever the library asks for that writes it.
    Whoever calls this says in its own words what an ``OSError`` means; in any case nothing
    unfinished is left, and what was there before is untouched.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a") as new:
        ...         _ = new.write_text("all of it")
        ...     (Path(folder) / "a").read_text()
        'all of it'
    """
    new = unfinished(path)
    # Never through a link that somebody has put there.
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        yield new
        _permit(new, mode)
        sync(new)
        new.replace(path)
        sync(path.parent)
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            new.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and the folders above it.

    Raises:
        InvalidInput: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "tables" / "a.csv", b"1,2")
        ...     (Path(folder) / "tables" / "a.csv").read_bytes()
        b'1,2'
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            new.write_bytes(content)
    except OSError as error:
        raise InvalidInput(
            f"Expected a folder that can be written for {path}, got {error.strerror}; choose "
            f"another path or change its permissions."
        ) from error


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder, which takes the name ``path`` once all that is put into it is on the disk.

    Nothing, or an empty folder, may have that name before. A process that is killed leaves a folder
    whose name begins with `UNFINISHED` next to it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing_folder(Path(folder) / "a") as new:
        ...         _ = (new / "b").write_text("all of it")
        ...     (Path(folder) / "a" / "b").read_text()
        'all of it'
    """
    new = unfinished(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new.mkdir()
    try:
        yield new
        mode = stat.S_IMODE(new.stat().st_mode) & 0o666
        for each in (*new.rglob("*"), new):
            if each.is_file():
                _permit(each, mode)
            sync(each)
        new.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def disk_errors(
    what: object,
    way_out: str = "free some space or give another place, and run again: what was finished is kept.",
) -> Iterator[None]:
    """Turn a full or read-only disk into an error that says what to do.

    Args:
        what: is written, or the place where it is.
        way_out: what to do, and what is kept.

    Example:
        >>> with disk_errors("out", "free some space."):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        ...
        boxwood.errors.CheckpointError: Expected to write out, got [Errno 28] No space left on device; free some space.
    """
    try:
        yield
    except TimeoutError:  # a lock that another process holds, which is no fault of the disk
        raise
    except OSError as error:
        raise CheckpointError(f"Expected to write {what}, got {error}; {way_out}") from error


def _permit(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        with suppress(OSError):  # some file systems have no permissions
            path.chmod(mode)


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
