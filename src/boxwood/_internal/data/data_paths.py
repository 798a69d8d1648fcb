"""Where data sets are on disk."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from boxwood.errors import InvalidInput


def data_home() -> Path:
    """Return the folder that data sets are fetched into.

    It is ``$BOXWOOD_DATA``, or ``.data`` in the working directory.
    """
    return Path(os.environ.get("BOXWOOD_DATA") or ".data")


def folders_to_search(given: str | None, variable: str, *below: str) -> tuple[Path, ...]:
    """List where to look for a data set, the most explicit place first.

    Args:
        given: a folder that the caller names, or None.
        variable: environment variable that may name a folder.
        below: folders below `data_home`.

    Example:
        >>> [place.name for place in folders_to_search("mine", "SURELY_NOT_SET", "mnist")]
        ['mine', 'mnist']
    """
    explicit = [folder for folder in (given, os.environ.get(variable)) if folder]
    return (*map(Path, explicit), *(data_home() / name for name in below))


def find_folder(
    title: str, looked: Sequence[Path], holds: Callable[[Path], bool], way_out: str
) -> Path:
    """Return the first place that holds a data set.

    Args:
        title: what is looked for.
        looked: folders, in order; they need not exist.
        holds: says whether a folder holds it.
        way_out: what the message asks the reader to do.

    Raises:
        InvalidInput: no place holds it; the message lists every place.

    Example:
        >>> find_folder("the rest", [Path("here")], lambda place: False, "look elsewhere.")
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected the rest in one of these places, got nothing in any of: here; look elsewhere.
    """
    for place in looked:
        if holds(place):
            return place
    raise InvalidInput(
        f"Expected {title} in one of these places, got nothing in any of: "
        f"{', '.join(map(str, looked))}; {way_out}"
    )
