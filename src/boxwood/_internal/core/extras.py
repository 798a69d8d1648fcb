"""Imports of packages that belong to an extra, with the line for pip where one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from boxwood.errors import MissingDependency


@contextmanager
def extra(name: str, wanted: str, *, instead: str = "") -> Iterator[None]:
    """Explain imports that fail because an extra is not installed.

    Args:
        name: of the extra, or of several with commas, as in ``pip install 'boxwood[NAME]'``.
        wanted: the packages, and what for.
        instead: another way out, if there is one.

    Raises:
        MissingDependency: an import failed.

    Example:
        >>> with extra("vision", "torchvision for this network"):
        ...     import torchvision_that_is_not_here
        Traceback (most recent call last):
        ...
        boxwood.errors.MissingDependency: Expected torchvision for this network, got none (No module named 'torchvision_that_is_not_here'); do `pip install 'boxwood[vision]'`.
    """
    try:
        yield
    except MissingDependency:
        raise
    except ImportError as error:
        other = f", or {instead}" if instead else ""
        raise MissingDependency(
            f"Expected {wanted}, got none ({error}); do `pip install 'boxwood[{name}]'`{other}."
        ) from error
