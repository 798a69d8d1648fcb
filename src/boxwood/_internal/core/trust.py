"""Which code a name in a recipe file or a store may import.

A recipe names functions and classes. Looking one up imports its module, which runs the module, and
a function that was named is called later. So a name that was read from a file is looked up only if
its code is trusted: what recipes are made of in Boxwood itself, and the files and modules that the
user named.
"""

import dataclasses
from pathlib import Path
from typing import Any

from boxwood._internal.core.public_names import is_public
from boxwood.errors import UntrustedCode


@dataclasses.dataclass(frozen=True)
class Trust:
    """Whose code may be run because a file names it; by default what Boxwood's own recipes use.

    Args:
        places: files, as absolute paths, and modules and packages of the user whose definitions are
            trusted too.
        everything: trust whatever is named, as a Python file is trusted that one runs.

    Example:
        >>> Trust().check("boxwood.networks:lenet_5")
        >>> Trust().check("os:system")
        Traceback (most recent call last):
        ...
        boxwood.errors.UntrustedCode: Expected a file that names only Boxwood's own code, got the name 'os:system', of which nothing was run; if you trust this code, give --code os, or --trust for all that is named.
    """

    places: frozenset[str] = frozenset()
    everything: bool = False

    @classmethod
    def of(cls, *places: str, everything: bool = False) -> "Trust":
        """Trust the definitions of some files, modules and packages.

        What they import from elsewhere is not trusted with them.

        Args:
            places: paths that end in ``.py``, or names of modules; of a package all modules count.
            everything: trust whatever is named.

        Example:
            >>> Trust.of("mylib").check("mylib.nets:small")
        """
        return cls(frozenset(map(_place, places)), everything)

    def check(self, target: str) -> None:
        """Refuse a name whose module may not be imported.

        Raises:
            UntrustedCode: neither Boxwood's recipes nor the user's places have it.
        """
        if self.everything or self._has(_place(target.rpartition(":")[0])):
            return
        if not is_public(target):
            raise _untrusted(target)

    def check_found(self, target: str, found: Any, module: str) -> None:
        """Refuse what a trusted module of the user only imports.

        Args:
            target: the name that was looked up.
            found: what it names.
            module: the name under which its module was imported.

        Raises:
            UntrustedCode: it is defined elsewhere.

        Example:
            >>> from boxwood._internal.core.spec import load
            >>> Trust().check_found("boxwood._internal.core.spec:load", load, "boxwood._internal.core.spec")
            Traceback (most recent call last):
            ...
            boxwood.errors.UntrustedCode: Expected a file that names only Boxwood's own code, got the name 'boxwood._internal.core.spec:load', of which nothing was run; if you trust this code, give --code boxwood._internal.core.spec, or --trust for all that is named.
        """
        if self.everything:
            return
        home = str(getattr(found, "__module__", ""))
        if self._has(_place(target.rpartition(":")[0])) and (home == module or self._has(home)):
            return
        if not is_public(target):
            raise _untrusted(target)

    def _has(self, place: str) -> bool:
        """Say whether a file was named, or a module or a package that it is in."""
        names = [place] if place.endswith(".py") else place.split(".")
        return any(".".join(names[:count]) in self.places for count in range(1, len(names) + 1))


EVERYTHING = Trust(everything=True)
"""For what the user typed, or is running already."""


def _place(where: str) -> str:
    return str(Path(where).resolve()) if where.endswith(".py") else where


def _untrusted(target: str) -> UntrustedCode:
    return UntrustedCode(
        f"Expected a file that names only Boxwood's own code, got the name {target!r}, of which "
        f"nothing was run; if you trust this code, give --code {target.rpartition(':')[0]}, or "
        f"--trust for all that is named."
    )
