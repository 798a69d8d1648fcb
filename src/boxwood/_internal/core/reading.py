"""Read files without blocking, and JSON strictly as a program wrote it."""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from boxwood.errors import CheckpointError

_PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file to read; a pipe or a device is an ``OSError``, where another call would wait.

    Whoever calls it says in its own words what an ``OSError`` means.

    Example:
        >>> with opened(Path("/dev/zero")) as file:
        ...     pass
        Traceback (most recent call last):
        ...
        OSError: /dev/zero is no regular file
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{path} is no regular file")
    with os.fdopen(handle, "rb") as file:
        yield file


def check_regular(path: Path) -> None:
    """Refuse a path that a library would wait for; the error is an ``OSError``.

    Example:
        >>> check_regular(Path("/dev/null"))
        Traceback (most recent call last):
        ...
        OSError: /dev/null is no regular file
    """
    with opened(path):
        pass


def read_whole(path: Path) -> bytes:
    """Read a file; what an ``OSError`` means is said by whoever calls it.

    Example:
        >>> read_whole(Path(__file__))[:3]
        b'\"\"\"'
    """
    with opened(path) as file:
        return file.read()


def refuse_pickle(head: bytes, path: Path) -> None:
    """Refuse a file that begins as a pickle does, whatever its name.

    Raises:
        CheckpointError: it does; with the way to convert it.

    Example:
        >>> refuse_pickle(b"{}", Path("weights.safetensors"))
    """
    if head[:2] in _PICKLES:
        raise CheckpointError(
            f"Expected a safetensors file, got a pickle at {path}, which could run code when "
            f"it is read; if you trust it, convert it: `safetensors.torch.save_file("
            f"torch.load('{path.name}', weights_only=True), 'weights.safetensors')`."
        )


def strict_json(text: bytes) -> dict[str, Any]:
    """Parse a JSON object in which no key comes twice.

    Raises:
        ValueError: it is anything else, saying what.

    Example:
        >>> strict_json(b'{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ...
        ValueError: 'a' comes twice
    """
    try:
        found = json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    return found


def shown(value: object) -> str:
    """Show a part of what a file says, which may be as long as it likes.

    Example:
        >>> shown("x" * 500)[-5:]
        "xxx…'"
    """
    try:
        text = ascii(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:76]}…{text[-1]}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        most = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{shown(most[0][0])} comes twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
