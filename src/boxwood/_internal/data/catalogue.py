"""The built-in data sets, by name."""

from collections.abc import Callable

from boxwood._internal.data.digits import digits
from boxwood._internal.data.idx import fashion_mnist, mnist
from boxwood._internal.data.splits import Splits
from boxwood._internal.data.text import ptb
from boxwood._internal.data.vision import cifar10
from boxwood.errors import InvalidInput

CATALOGUE: dict[str, Callable[[], Splits]] = {
    "cifar10": cifar10,
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "mnist": mnist,
    "ptb": ptb,
}
"""Loaders by name; loading starts when one is called."""


def named(name: str) -> Callable[[], Splits]:
    """Find the loader of a data set by its name.

    Args:
        name: a key of `CATALOGUE`.

    Raises:
        InvalidInput: there is none of that name; the message lists those there are.

    Example:
        >>> named("digits")().shape
        (1, 8, 8)
    """
    if name not in CATALOGUE:
        raise InvalidInput(
            f"Expected the name of a data set, got {name!r}; use one of {', '.join(CATALOGUE)}."
        )
    return CATALOGUE[name]
