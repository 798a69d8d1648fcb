"""From kernels' codes to callable addresses, through a cache of objects on disk."""

import hashlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from boxwood._internal.engine.kernels.contract import Code
from boxwood._internal.engine.llvm.cache import ObjectCache, default_cache
from boxwood._internal.engine.llvm.objects import Library, compile_text, load_library
from boxwood._internal.engine.targets import Target

__all__ = ["ObjectCache", "compile_all", "default_cache", "load_codes"]

_REVISION = b"boxwood objects 1"


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
        MissingDependency: something must be compiled and llvmlite is missing.
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
    return load_library(compile_all(codes, target, cache))


def _key(text: str, target: Target) -> str:
    """Digest of everything that the object depends on."""
    family = f"{target.triple}|{target.cpu}|{target.features}|{_llvm_version()}"
    return hashlib.sha256(b"\0".join([_REVISION, family.encode(), text.encode()])).hexdigest()


def _llvm_version() -> str:
    """Version of llvmlite, read without importing it; an object stays usable without it."""
    try:
        return version("llvmlite")
    except PackageNotFoundError:
        return "none"
