"""Where two phases begin to differ: the history they share, and what differs after it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from boxwood._internal.runs.records import damaged
from boxwood._internal.runs.store import Store


@dataclass(frozen=True)
class Change:
    """One value that differs.

    Args:
        where: number and kind of the phase; 0 is the start.
        what: path of the value within it.
        a: what the first has, None where it has nothing there.
        b: what the second has.
    """

    where: str
    what: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Difference:
    """Why two phases differ.

    Args:
        shared: keys of the phases that both histories share.
        settings: settings that differ, in order.
        facts: results of the two phases that differ.
    """

    shared: tuple[str, ...]
    settings: tuple[Change, ...]
    facts: tuple[Change, ...]


def difference(store: Store, a: str, b: str) -> Difference:
    """Compare two phases of a store by everything that led to them.

    Raises:
        InvalidInput: a phase is not there, or cannot be read.
    """
    ours, theirs = history(store, a), history(store, b)
    shared = 0
    while shared < min(len(ours), len(theirs)) and ours[shared] == theirs[shared]:
        shared += 1
    settings: list[Change] = []
    for index, (mine, other) in enumerate(
        zip_longest(ours[shared:], theirs[shared:]), start=shared
    ):
        specs = [None if key is None else store.record(key)["spec"] for key in (mine, other)]
        names = [None if spec is None else spec["is"].rpartition(":")[2] for spec in specs]
        where = f"{index} {names[0] or names[1]}"
        if None in names:
            settings.append(Change(where, "the whole phase", *names))
        else:
            settings += _changes(where, *specs)
    facts = _changes(b[:8], store.record(a)["facts"], store.record(b)["facts"])
    return Difference(tuple(ours[:shared]), tuple(settings), tuple(facts))


def history(store: Store, key: str) -> list[str]:
    """Keys from the start to a phase.

    Raises:
        InvalidInput: a phase is not there, cannot be read, or comes before itself.
    """
    chain: list[str] = []
    at: str | None = key
    while at is not None:
        if at in chain:
            path = store.root / "phases" / at / "phase.json"
            raise damaged(path, "it comes before itself")
        chain.append(at)
        at = store.record(at)["parent"]
    return chain[::-1]


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """List the single values of nested JSON by their paths.

    Example:
        >>> list(flat({"training": {"lr": 0.1}, "sizes": [3, 4]}))
        [('training.lr', 0.1), ('sizes.0', 3), ('sizes.1', 4)]
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flat(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from flat(inner, f"{path}.{index}" if path else str(index))
    else:
        yield path, value


def _changes(where: str, a: Any, b: Any) -> list[Change]:
    ours, theirs = dict(flat(a)), dict(flat(b))
    return [
        Change(where, name, ours.get(name), theirs.get(name))
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name) != theirs.get(name)
    ]
