"""Keep a trace out of the caches of `functools`, and the caches out of the trace.

A cached function gives back what it made for equal arguments. A size that remembers is equal to
the plain int, so a cache would hand one trace what was made for another, or for a run of the
network; and a run would be handed tensors without data. During a trace the functions themselves
run.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

_CACHED = type(functools.lru_cache(int))
SKIPPED = sys.stdlib_module_names | {
    "boxwood", "cuda", "mpmath", "networkx", "numpy", "scipy", "sympy", "torch", "torchgen", "triton"
}  # fmt: skip
"""Packages that no network's code hands a size to, or that would be slow without their caches."""


@contextmanager
def without_caches() -> Iterator[None]:
    """Replace the cached functions of modules and their classes by what they cache.

    Example:
        >>> with without_caches():
        ...     pass
    """
    changed = list(_cached())
    for holder, name, _, bare in changed:
        setattr(holder, name, bare)
    try:
        yield
    finally:
        for holder, name, value, _ in changed:
            setattr(holder, name, value)


def _cached() -> Iterator[tuple[Any, str, Any, Any]]:
    """Yield where each is held, its name there, itself, and what to put in its place."""
    for title, module in list(sys.modules.items()):
        if title.partition(".")[0] in SKIPPED:
            continue
        for name, value in list(getattr(module, "__dict__", {}).items()):
            yield from _held(module, name, value)
            if issubclass(type(value), type) and value.__module__ == title:
                for inner, method in list(vars(value).items()):
                    yield from _held(value, inner, method)


def _held(holder: Any, name: str, value: Any) -> Iterator[tuple[Any, str, Any, Any]]:
    kind = type(value)
    if kind is _CACHED:
        yield holder, name, value, value.__wrapped__
    elif kind in (staticmethod, classmethod):
        if type(value.__func__) is _CACHED:
            yield holder, name, value, kind(value.__func__.__wrapped__)
        else:
            yield from _closed_over(value.__func__)
    elif kind is FunctionType:
        yield from _closed_over(value)


def _closed_over(function: Any) -> Iterator[tuple[Any, str, Any, Any]]:
    """A decorator may have put a cached function where only its wrapper sees it."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            value = cell.cell_contents
        except ValueError:  # nothing is in it yet
            continue
        if type(value) is _CACHED:
            yield cell, "cell_contents", value, value.__wrapped__
