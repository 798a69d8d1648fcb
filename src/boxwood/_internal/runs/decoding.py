"""Decode starts and recipes that a store has written."""

from collections.abc import Iterator, Mapping
from typing import Any

from boxwood._internal.core.spec import decode, load
from boxwood._internal.core.trust import Trust
from boxwood._internal.recipes.phase import Genesis, Recipe
from boxwood._internal.runs.chain import keys
from boxwood.errors import BoxwoodError, CheckpointError


def start_of(spec: Any, key: str, trust: Trust) -> Genesis:
    """Make the start of a run from what a store says of it.

    Args:
        spec: the start, encoded.
        key: of the start: what it must mean.
        trust: whose code it may name.

    Raises:
        CheckpointError: it is no start, names code that is not trusted, or means something else than
            it did.

    Example:
        >>> start_of({"is": "boxwood.schedules:OneShot", "final": 0.5}, "3f2a", Trust())
        Traceback (most recent call last):
        ...
        boxwood.errors.CheckpointError: Expected the start of a run, got OneShot; run the experiment again into a new store.
    """
    found = decode(spec, trust)
    if not isinstance(found, Genesis):
        raise CheckpointError(
            f"Expected the start of a run, got {type(found).__name__}; run the experiment again "
            f"into a new store."
        )
    (mine,) = keys(found, ())
    if mine != key:
        raise CheckpointError(
            f"Expected the start with the key {key}, got one with the key {mine}: the file that "
            f"defines it has changed since; run the experiment again."
        )
    return found


def recipe_of(spec: Any, trust: Trust) -> Recipe:
    """Make the phases of a run from what a store says of them.

    Raises:
        CheckpointError: one is no phase, or names code that is not trusted.

    Example:
        >>> recipe_of([], Trust())
        ()
    """
    found = decode(list(spec), trust)
    for phase in found:
        if not (hasattr(phase, "run") and hasattr(phase, "label")):
            raise CheckpointError(
                f"Expected the phases of a run, got {type(phase).__name__}; run the experiment "
                f"again into a new store."
            )
    return tuple(found)


def places_in(spec: Any) -> Iterator[str]:
    """List the files and modules of an encoded spec that are not trusted by themselves.

    Example:
        >>> list(places_in({"is": "boxwood.recipes:Call", "x": [{"function": "d.py:e"}]}))
        ['d.py']
    """
    if isinstance(spec, Mapping):
        named = spec.get("is", spec.get("function"))
        if isinstance(named, str):
            try:
                load(named, Trust())
            except BoxwoodError:
                yield named.rpartition(":")[0]
        for part in spec.values():
            yield from places_in(part)
    elif isinstance(spec, list | tuple):
        for part in spec:
            yield from places_in(part)
