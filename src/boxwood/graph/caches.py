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
from typing import Any

_CACHED = type(functools.lru_cache(int))
_LEFT = sys.stdlib_module_names | {
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
    for holder, name, value in changed:
        setattr(holder, name, value.__wrapped__)
    try:
        yield
    finally:
        for holder, name, value in changed:
            setattr(holder, name, value)


def _cached() -> Iterator[tuple[Any, str, Any]]:
    for title, module in list(sys.modules.items()):
        if title.partition(".")[0] in _LEFT:
            continue
        for name, value in list(getattr(module, "__dict__", {}).items()):
            kind = type(value)
            if kind is _CACHED:
                yield module, name, value
            elif (
                issubclass(kind, type)
                and _CACHED in map(type, vars(value).values())
                and value.__module__ == title
            ):
                for inner, method in list(vars(value).items()):
                    if type(method) is _CACHED:
                        yield value, inner, method
