"""The journal of a search: results on disk, so that a resumed search reads them instead of computing them again."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from boxwood._internal.core.reading import read_whole, strict_json
from boxwood._internal.core.replacing import disk_errors, write_whole
from boxwood._internal.core.tensor_files import read_checked, write_tensors
from boxwood.errors import CheckpointError

FORMAT = 1
Value = TypeVar("Value")


class Fact(Protocol):
    """Finds something out, or remembers it."""

    def __call__(self, name: str, find: Callable[[], Value], /) -> Value:
        """Return what is known under a name, or else what the function returns."""
        ...


def unremembered(name: str, find: Callable[[], Value], /) -> Value:  # noqa: ARG001
    """Find out again each time.

    Example:
        >>> unremembered("one", lambda: 1)
        1
    """
    return find()


class Journal:
    """Facts and tensors of one search, in a folder.

    A fact is written once it is known, so a search that is killed goes on from the last one. What
    took seconds remembers how many.

    Args:
        folder: made if it is not there.
        about: what is searched for; a folder of another search is refused.

    Raises:
        CheckpointError: the folder is of another search, damaged, or cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Journal(Path(folder), {"of": "a"}).fact("one", lambda: 1)
        ...     Journal(Path(folder), {"of": "a"}).fact("one", lambda: 2)
        1
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._folder, self._path = folder, folder / "journal.json"
        self._about = json.loads(json.dumps(dict(about)))
        self._facts: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        if self._path.exists():
            self._read()

    def fact(self, name: str, find: Callable[[], Value], /) -> Value:
        """Return what is known under a name, or find it out and write it down.

        What comes back is what JSON makes of it, the first time as well: tuples become lists.
        """
        if name not in self._facts:
            begun = time.perf_counter()
            found = json.loads(json.dumps(find()))
            self._facts[name] = found
            self.seconds[name] = round(time.perf_counter() - begun, 3)
            self._write()
        known: Value = self._facts[name]
        return known

    def known(self, name: str) -> bool:
        """Say whether a fact is known."""
        return name in self._facts

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors under a name, whole or not at all."""
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_tensors(self._tensors(name), dict(tensors))

    def kept(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of a name."""
        return dict(read_checked(self._tensors(name)).tensors)

    def drop(self, name: str) -> None:
        """Delete the tensors of a name, if there are any."""
        self._tensors(name).unlink(missing_ok=True)

    def _tensors(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    def _write(self) -> None:
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            text = {
                "format": FORMAT, "about": self._about, "facts": self._facts,
                "seconds": self.seconds,
            }  # fmt: skip
            write_whole(self._path, (json.dumps(text, indent=1) + "\n").encode())

    def _read(self) -> None:
        with disk_errors(self._path):
            text = read_whole(self._path)
        try:
            found = strict_json(text)
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}")
            about, self._facts, self.seconds = found["about"], found["facts"], found["seconds"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"Expected the journal of a search in {self._path}, got a damaged file ({error}); "
                f"delete the folder {self._folder}, or give another one."
            ) from error
        different = [name for name, value in self._about.items() if about.get(name) != value]
        if different:
            name = different[0]
            raise CheckpointError(
                f"Expected {self._folder} to be of this search, got one whose {name} is "
                f"{about.get(name)!r}, where this has {self._about[name]!r}; give another folder, or "
                f"delete this one."
            )
