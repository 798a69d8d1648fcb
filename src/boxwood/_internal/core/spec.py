"""Frozen dataclasses and functions as JSON, and back; a digest of what they mean.

A recipe is data. This module writes it down (`encode`), reads it again (`decode`) and names it
(`digest`). The name must change when the meaning changes and must not change otherwise:

* a field that says how a thing is called is left out (``field(identity=False)``);
* a field that was added later declares the value that old runs had (``field(legacy=…)``) and is
  left out while it holds that value;
* a class whose arithmetic changed on purpose bumps its ``revision``;
* a function of Boxwood or of an installed package is its name; a function of the user's own file, or
  of a package that is not installed or in place (``pip install -e``), is its name and the text of
  every definition there that it reaches, so editing a network makes new runs of it.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from boxwood._internal.core.digests import digest, source_digest
from boxwood._internal.core.public_names import public_name
from boxwood._internal.core.trust import EVERYTHING, Trust
from boxwood.errors import BoxwoodError, InvalidInput

_USER_MODULE = "boxwood_user_file."
_USER_FOLDERS: set[Path] = set()  # of such files; what they import there is the user's too
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_PYTHON = Path(sysconfig.get_path("stdlib"))


def field(
    default: Any = dataclasses.MISSING,
    *,
    legacy: Any = dataclasses.MISSING,
    identity: bool = True,
) -> Any:
    """Declare a dataclass field whose part in the identity of a spec is not the usual one.

    Args:
        default: the default value, if there is one.
        legacy: the value that means what specs meant before this field existed.
        identity: False for a field that only says how something is called.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Train:
        ...     rate: float
        ...     nesterov: bool = field(False, legacy=False)
        >>> digest(encode(Train(rate=0.1), identity=True)) == digest(
        ...     {"is": encode(Train(0.1))["is"], "rate": 0.1}
        ... )
        True
    """
    metadata: dict[str, Any] = {"identity": identity}
    if legacy is not dataclasses.MISSING:
        metadata["legacy"] = legacy
    return dataclasses.field(default=default, metadata=metadata)


def encode(value: Any, *, identity: bool = False) -> Any:
    """Turn frozen dataclasses, tuples, functions, numbers and strings into plain JSON values.

    Args:
        value: the spec.
        identity: leave out what does not belong to the meaning (see the module's text).

    Raises:
        InvalidInput: a value of another type is part of the spec.

    Example:
        >>> encode((1, 0.5, "fc1", None))
        [1, 0.5, 'fc1', None]
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        out: dict[str, Any] = {"is": _name_of(kind, identity=identity)}
        revision: int | None = getattr(value, "revision", None)
        if identity and revision:
            out["revision"] = revision
        for each in dataclasses.fields(value):
            part = getattr(value, each.name)
            # 1 and 1.0 mean the same to a field of type float, and must have one name.
            if type(part) is int and str(each.type).find("float") >= 0:
                part = float(part)
            if identity and not each.metadata.get("identity", True):
                continue
            if identity and "legacy" in each.metadata and part == each.metadata["legacy"]:
                continue
            out[each.name] = encode(part, identity=identity)
        return out
    if isinstance(value, tuple | list):
        return [encode(part, identity=identity) for part in value]
    made = isinstance(value, type) and not dataclasses.is_dataclass(value)  # such as nn.Linear
    if made or isinstance(value, FunctionType):
        return {"function": _name_of(value, identity=identity)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InvalidInput(
        f"Expected numbers, strings, tuples, module-level functions or frozen dataclasses in a "
        f"recipe, got {value!r} of type {type(value).__name__}; use one of these types for the "
        f"value."
    )


def decode(value: Any, trust: Trust = Trust()) -> Any:  # noqa: B008 - frozen
    """Build the spec that `encode` wrote down.

    Naming a function is enough to have it imported and called later, so only names whose code is
    trusted are looked up.

    Args:
        value: plain JSON values.
        trust: whose code they may name; by default what Boxwood's own recipes use.

    Raises:
        InvalidInput: a name is not trusted; a class, function or field is unknown; a field is
            missing or has a value that its class refuses.

    Example:
        >>> from boxwood.criteria import magnitude
        >>> from boxwood.recipes import Call
        >>> decode(encode(Call.of(magnitude, p=2))) == Call.of(magnitude, p=2)
        True
        >>> decode({"function": "os:abort"})
        Traceback (most recent call last):
        ...
        boxwood.errors.UntrustedCode: Expected a file that names only Boxwood's own code, got the name 'os:abort', of which nothing was run; if you trust this code, give --code os, or --trust for all that is named.
    """
    try:
        return _decoded(value, trust)
    except RecursionError:
        raise InvalidInput(
            "Expected a recipe that a program wrote, got one that is nested too deeply; write it "
            "with `boxwood plan --json` and edit that."
        ) from None


def _decoded(value: Any, trust: Trust) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(part, trust) for part in value)
    if not isinstance(value, Mapping):
        return value
    if "function" in value and "is" not in value:
        return load(_text(value["function"], "function"), trust)
    if "is" not in value:
        raise InvalidInput(
            f"Expected an object with the key 'is' or 'function', got keys {sorted(value)}; "
            f"write the recipe with `boxwood plan --json` and edit that."
        )
    kind = load(_text(value["is"], "is"), trust)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise InvalidInput(
            f"Expected the name of a frozen dataclass under 'is', got {value['is']!r}; "
            f"write the recipe with `boxwood plan --json` and edit that."
        )
    fields = {each.name: each for each in dataclasses.fields(kind)}
    for name in value:
        if name not in fields and name != "is":
            raise InvalidInput(
                f"Expected a field of {kind.__name__} ({', '.join(sorted(fields))}), "
                f"got {name!r}; {_suggest(name, list(fields))}."
            )
    given = {name: _decoded(part, trust) for name, part in value.items() if name != "is"}
    for name, each in fields.items():
        required = (
            each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        )
        if required and name not in given:
            raise InvalidInput(
                f"Expected a value for the field {name!r} of {kind.__name__}, got none; add it."
            )
    try:
        return kind(**given)
    except BoxwoodError:
        raise
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
        raise InvalidInput(
            f"Expected values that {kind.__name__} takes, got {type(error).__name__} ({error}); "
            f"correct its fields {', '.join(sorted(given))}."
        ) from error


def _text(name: Any, key: str) -> str:
    if not isinstance(name, str):
        raise InvalidInput(
            f"Expected a name such as package.module:name under {key!r}, got {name!r}; write the "
            f"recipe with `boxwood plan --json` and edit that."
        )
    return name


def load(target: str, trust: Trust = EVERYTHING) -> Any:
    """Find what ``package.module:name`` or ``file.py:name`` names.

    Args:
        target: the name.
        trust: whose code may be imported for it; all of it by default, as for a name that the user
            typed. A name that was read from a file gets the trust that the file has.

    Raises:
        InvalidInput: the name is not trusted, or the module, the file or the name in it does not
            exist.

    Example:
        >>> load("boxwood._internal.core.spec:load") is load
        True
    """
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise InvalidInput(
            f"Expected file.py:name or package.module:name, got {target!r}; name one function."
        )
    trust.check(target)
    module = _file_module(Path(where)) if where.endswith(".py") else _module(where)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [n for n in dir(found) if not n.startswith("_")]
            raise InvalidInput(
                f"Expected {where} to define {name!r}, got no such name; {_suggest(part, names)}."
            )
        found = getattr(found, part)
    trust.check_found(target, found, module.__name__)
    return found


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"Expected an installed module {name!r}, got {error}; install it, or give a file.py."
        ) from error


def _file_module(path: Path) -> ModuleType:
    """Import a file that is not on the path; the same file is imported once.

    Files next to it can be imported by it, as where Python runs it; an installed module of the
    same name comes first.
    """
    path = path.resolve()
    name = f"{_USER_MODULE}{path.stem}_{digest(str(path))}"  # two files may have one name
    for known in (name, path.stem):
        module = sys.modules.get(known)
        # By its own name where a file next to it has imported it.
        if module is not None and module.__file__ == str(path):
            return module
    if not path.is_file():
        raise InvalidInput(f"Expected a Python file at {path}, got none; check the name.")
    made = importlib.util.spec_from_file_location(name, path)
    if made is None or made.loader is None:  # pragma: no cover - a .py file always has a loader
        raise InvalidInput(f"Expected a Python file, got {path}; give a .py file.")
    module = importlib.util.module_from_spec(made)
    sys.modules[name] = module  # dataclasses look their module up while it is being run
    _USER_FOLDERS.add(path.parent)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        made.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, SyntaxError | ImportError):
            raise InvalidInput(
                f"Expected {path} to be a Python file that can be imported, got "
                f"{type(error).__name__}: {error}; correct it."
            ) from error
        raise
    return module


def _is_users(module: str) -> bool:
    """Say whether it is a file that the user named, or one next to such a file: not installed."""
    if module.startswith(_USER_MODULE) or module == "__main__":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and Path(file).parent in _USER_FOLDERS


def _is_worked_on(module: str) -> bool:
    """Say whether it is of a package that may change from run to run: not installed, not Boxwood."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module.partition(".")[0] == "boxwood" or file is None or not file.endswith(".py"):
        return False
    path = Path(file)
    return _INSTALLED.isdisjoint(path.parts) and not path.is_relative_to(_PYTHON)


def _name_of(thing: Any, *, identity: bool) -> str:
    """Where a class or function is found again; for an identity, also what it says."""
    if public := public_name(thing):
        return public
    module, name = thing.__module__, thing.__qualname__
    if "<" in name:
        raise InvalidInput(
            f"Expected functions and classes at the top level of a file, got {name}; move it "
            f"out of the function, so that it can be found by its name."
        )
    if _is_users(module):
        path = Path(sys.modules[module].__file__ or "")
        if identity:
            return f"{path.stem}.py:{name}#{source_digest(path, name.split('.')[0])}"
        here = Path.cwd()
        return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{name}"
    if identity and _is_worked_on(module):
        path = Path(sys.modules[module].__file__ or "")
        return f"{module}:{name}#{source_digest(path, name.split('.')[0])}"
    return f"{module}:{name}"


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "correct the name or take it out"
