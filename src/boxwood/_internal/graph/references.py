"""What ``deepcopy`` leaves leading to the original: functions and weak references.

Functions are atoms to it, so one that was written in ``__init__`` and refers to ``self`` would
compute with the original, in a copy too; and so would a module that finds another by a weak
reference.
"""

import functools
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

_SHARED = (type(threading.Lock()), type(threading.RLock()), ModuleType)
"""Types of what ``deepcopy`` refuses, and what a copy can use as well as the original."""

_HOLDERS = (list, tuple, set, deque)
_ENDS = (int, float, str, type(None), Tensor, type)  # which hold nothing that is looked for


def prepare(model: nn.Module, memo: dict[int, Any]) -> list[tuple[CellType, Any]]:
    """Put into a memo what is shared, and new functions whose variables are to be filled.

    Returns:
        The variables of these functions, each with what the original's holds.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> layer.itself = (lambda held: lambda: held)(layer)
        >>> [content is layer for _, content in prepare(layer, {})]
        [True]
    """
    cells: list[tuple[CellType, Any]] = []
    for each in _reached(model):
        if isinstance(each, _SHARED) or type(each) in weakref.ProxyTypes:
            memo[id(each)] = each
        elif isinstance(each, FunctionType) and _refers(each, set()):
            closure = tuple(CellType() for _ in each.__closure__ or ())
            made = FunctionType(
                each.__code__, each.__globals__, each.__name__, each.__defaults__, closure
            )
            made.__kwdefaults__ = each.__kwdefaults__
            vars(made).update(vars(each))
            memo[id(each)] = made
            variables = _variables(each)
            cells += [(closure[place], content) for place, content in variables.items()]
    return cells


def leads_into(content: Any, memo: Mapping[int, Any]) -> bool:
    """Say whether something leads to what has been copied, directly or through containers.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> leads_into([layer.forward], {id(layer): layer}), leads_into([], {id(layer): layer})
        (True, False)
    """
    seen: set[int] = set()

    def inside(each: Any) -> bool:
        if id(each) in seen:
            return False
        seen.add(id(each))
        if isinstance(each, MethodType):
            return inside(each.__self__)
        if isinstance(each, dict):
            return any(map(inside, each.values()))
        if isinstance(each, _HOLDERS):
            return any(map(inside, each))
        if isinstance(each, functools.partial):
            return any(map(inside, (each.func, each.args, each.keywords)))
        return isinstance(each, nn.Module | Tensor | FunctionType) and id(each) in memo

    return inside(content)


def aim_weak_references_(model: nn.Module, memo: Mapping[int, Any]) -> None:
    """Let weak references and proxies in the attributes of a copy's modules lead into the copy."""
    for module in model.modules():
        twin = memo.get(id(module))
        if twin is None or twin is module:  # which has its own way of being copied
            continue
        for name, value in vars(module).items():
            if isinstance(value, weakref.ref) and id(value()) in memo:
                vars(twin)[name] = type(value)(memo[id(value())])
            elif type(value) in weakref.ProxyTypes and isinstance(value, nn.Module):
                itself = value.modules.__self__  # type: ignore[attr-defined]  # of its object
                vars(twin)[name] = weakref.proxy(memo.get(id(itself), itself))


def _variables(function: FunctionType) -> dict[int, Any]:
    """List what the variables of a closure hold, by place; some may have no value yet."""
    found = {}
    for place, cell in enumerate(function.__closure__ or ()):
        with suppress(ValueError):
            found[place] = cell.cell_contents
    return found


def _refers(function: FunctionType, seen: set[int]) -> bool:
    """Say whether a function refers to modules, tensors or containers of its own."""
    if id(function) in seen:
        return False
    seen.add(id(function))
    kinds = (nn.Module, Tensor, dict, *_HOLDERS, MethodType, functools.partial)
    return any(
        isinstance(each, kinds) or (isinstance(each, FunctionType) and _refers(each, seen))
        for each in _variables(function).values()
    )


def _reached(model: nn.Module) -> Iterator[Any]:
    """Go through what modules hold, in containers, functions and objects."""
    seen: set[int] = set()
    waiting: list[Any] = [vars(module) for module in model.modules()]
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            parts = [part for part in _held(each) if not isinstance(part, _ENDS)]
            waiting += [part for part in parts if not (isinstance(part, dict) and not part)]


def _held(each: Any) -> Iterable[Any]:
    if type(each) in weakref.ProxyTypes or isinstance(each, ModuleType):
        return ()
    if isinstance(each, dict):
        return each.values()
    if isinstance(each, _HOLDERS):
        return each
    if isinstance(each, functools.partial):
        return each.func, each.args, each.keywords
    if isinstance(each, FunctionType):
        return _variables(each).values()
    held = getattr(each, "__dict__", None)
    return (held,) if isinstance(held, dict) else ()
