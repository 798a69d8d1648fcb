"""The public names of what recipes are made of: stores and files know it by these.

Where a definition lies inside the package may change at any time; its public name does not.
"""

from types import FunctionType
from typing import Any

_NAMES: dict[Any, str] = {}


def publish(module: str, *things: Any) -> None:
    """Enter classes and functions under the public module that lists them.

    What is entered may be named by a file that nobody has said to trust, so it must neither run
    code that it is given nor write or delete anything.
    """
    for thing in things:
        if isinstance(thing, type | FunctionType):
            _NAMES[thing] = f"{module}:{thing.__name__}"


def public_name(thing: Any) -> str | None:
    """Return the public name of a class or function, None if it has none.

    Example:
        >>> from boxwood.criteria import magnitude
        >>> public_name(magnitude)
        'boxwood.criteria:magnitude'
    """
    return _NAMES.get(thing)


def is_public(target: str) -> bool:
    """Say whether ``package.module:name`` is the public name of a part of recipes.

    Example:
        >>> is_public("boxwood.criteria:magnitude"), is_public("os:abort")
        (True, False)
    """
    return target in _NAMES.values()
