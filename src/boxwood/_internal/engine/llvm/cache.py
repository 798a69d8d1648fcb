"""Files that can be made again, kept in the user's cache folder and checked when read."""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from boxwood._internal.core.replacing import unfinished


@dataclass(frozen=True)
class ObjectCache:
    """Byte strings in a folder, one file each, safe for processes that share it.

    A file holds the SHA-256 of its content, then the content; a damaged one counts as absent.

    Args:
        folder: where the files are; made when first written to. None keeps nothing.
    """

    folder: Path | None

    def get(self, key: str) -> bytes | None:
        """The content, or None if it is absent or damaged."""
        if self.folder is None:
            return None
        try:
            data = (self.folder / key).read_bytes()
        except OSError:
            return None
        digest, content = data[:32], data[32:]
        return content if hashlib.sha256(content).digest() == digest else None

    def put(self, key: str, content: bytes) -> None:
        """Store whole or not at all; a full or read-only disk costs only the work of next time."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            new = unfinished(self.folder / key)
            try:
                with new.open("xb") as file:  # not synchronised: what is lost is made again
                    file.write(hashlib.sha256(content).digest() + content)
                new.replace(self.folder / key)
            except OSError:
                new.unlink(missing_ok=True)
                raise


def default_cache(name: str = "objects") -> ObjectCache:
    """A cache of the user's: ``$XDG_CACHE_HOME/boxwood``, by default under ``~/.cache``.

    It keeps nothing for a user without a home folder, as there are in many containers.
    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return ObjectCache(None)
    return ObjectCache(root / "boxwood" / name)
