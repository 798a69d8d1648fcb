"""Take what a trace has left out of the variables of a network's code.

A copy of the network is traced, but its code may also keep something in a table of its module or
in an attribute of its class. A tensor without data that stays there would meet the next run.
"""

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from boxwood._internal.graph.caches import SKIPPED
from boxwood._internal.graph.sizes import Size

_DEPTH = 3  # of containers in containers
_TABLES = (
    dict,
    OrderedDict,
    defaultdict,
)  # classes made of these may do anything when they are read
_NONE = object()


@contextmanager
def without_leftovers(model: nn.Module) -> Iterator[None]:
    """Put back what was there wherever a trace has written tensors without data, or its sizes.

    Looked at are the variables of the modules that the network's classes are written in, of those
    that these take functions and classes from, of their classes, and the dicts, lists and objects
    that all of these hold.

    Example:
        >>> with without_leftovers(nn.Linear(1, 1)):
        ...     pass
    """
    before = [(holder, _content(holder)) for holder in _holders(model)]
    try:
        yield
    finally:
        for holder, content in before:
            _restore_(holder, content)


def _content(holder: Any) -> Any:
    if isinstance(holder, list):
        return list(holder)
    return dict(vars(holder) if isinstance(holder, type) else holder)


def _restore_(holder: Any, content: Any) -> None:
    if isinstance(holder, list):
        if any(_is_of_trace(each) for each in holder):
            holder[:] = content
        return
    for name, value in _content(holder).items():
        old = content.get(name, _NONE)
        if value is old or not _is_of_trace(value):
            continue
        if isinstance(holder, type):
            delattr(holder, name) if old is _NONE else setattr(holder, name, old)
        elif old is _NONE:
            del holder[name]
        else:
            holder[name] = old


def _is_of_trace(value: Any, depth: int = _DEPTH) -> bool:
    if isinstance(value, FakeTensor | Size):
        return True
    if depth == 0 or isinstance(value, type | ModuleType | nn.Module):
        return False
    if type(value) in _TABLES:
        parts = list(value.values())
    elif type(value) in (list, tuple, set):
        parts = list(value)
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    return any(_is_of_trace(part, depth - 1) for part in parts)


def _holders(model: nn.Module) -> Iterator[Any]:
    """List dicts of variables, classes, and the containers in them, each once."""
    seen: set[int] = set()
    spaces: list[Any] = []
    for module in _modules(model):
        spaces.append(vars(module))
        spaces += [
            value
            for value in list(vars(module).values())
            if isinstance(value, type) and value.__module__ == module.__name__
        ]
    for space in spaces:
        yield space
        for value in list((vars(space) if isinstance(space, type) else space).values()):
            if type(value) in (*_TABLES, list):
                inside: Any = value
            elif isinstance(value, type | ModuleType | FunctionType | nn.Module | Tensor):
                continue
            else:
                inside = getattr(value, "__dict__", None)
            if type(inside) in (*_TABLES, list) and id(inside) not in seen:
                seen.add(id(inside))
                yield inside


def _modules(model: nn.Module) -> list[ModuleType]:
    names = {kind.__module__ for module in model.modules() for kind in type(module).__mro__}
    for name in list(names):
        if not _is_left(name) and name in sys.modules:
            values = list(vars(sys.modules[name]).values())
            names |= {
                each.__module__ for each in values if isinstance(each, type | FunctionType)
            } - {None}
    return [
        sys.modules[name] for name in sorted(names) if not _is_left(name) and name in sys.modules
    ]


def _is_left(name: str) -> bool:
    return name.partition(".")[0] in SKIPPED
