"""From kernels' codes to callable addresses, through a cache of objects on disk."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from boxwood.engine.kernels.contract import Code
from boxwood.engine.llvm.objects import Library, compile_text, load
from boxwood.engine.targets import Target

_REVISION = b"boxwood objects 1"


@dataclass(frozen=True)
class ObjectCache:
    """Compiled objects in a folder, one file each, safe for processes that share it.

    A file holds the SHA-256 of its content, then the content; a damaged one counts as absent.

    Args:
        folder: where the files are; made when first written to.
    """

    folder: Path

    def get(self, key: str) -> bytes | None:
        """The object, or None if it is absent or damaged."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        digest, content = data[:32], data[32:]
        return content if hashlib.sha256(content).digest() == digest else None

    def put(self, key: str, content: bytes) -> None:
        """Store whole or not at all; a full or read-only disk costs only the next compile."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(file.name, self._path(key))
        except OSError:
            return

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.o"


def default_cache() -> ObjectCache:
    """The user's cache: ``$XDG_CACHE_HOME/boxwood/objects``, by default under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return ObjectCache(Path(root) / "boxwood" / "objects")


def compile_all(
    codes: Iterable[Code], target: Target, cache: ObjectCache | None = None
) -> dict[str, bytes]:
    """Compile each different code into an object, or find it in the cache.

    Args:
        codes: what to compile; equal entries are compiled once.
        target: the family to compile for.
        cache: where objects are kept between processes; None compiles always.

    Returns:
        Entry symbol to object.

    Raises:
        BoxwoodError: something must be compiled and llvmlite is missing.
    """
    objects = {}
    for code in dict.fromkeys(codes):
        text = code.emit()
        key = _key(text, target)
        found = cache.get(key) if cache else None
        if found is None:
            found = compile_text(text, target)
            if cache:
                cache.put(key, found)
        objects[code.entry] = found
    return objects


def load_codes(codes: Iterable[Code], target: Target, cache: ObjectCache | None = None) -> Library:
    """Compile or find each code, and load all: `compile_all`, then `objects.load`."""
    return load(compile_all(codes, target, cache))


def _key(text: str, target: Target) -> str:
    """Digest of everything that the object depends on."""
    family = f"{target.triple}|{target.cpu}|{target.features}|{_llvm_version()}"
    return hashlib.sha256(b"\0".join([_REVISION, family.encode(), text.encode()])).hexdigest()


def _llvm_version() -> str:
    """Version of llvmlite, read without importing it; an object stays usable without it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("llvmlite")
    except PackageNotFoundError:
        return "none"
