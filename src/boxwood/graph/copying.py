"""Copy a network with other tensors in the place of its parameters and buffers."""

import copy
import functools
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensor,
)
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from boxwood.core.errors import BoxwoodError
from boxwood.core.placement import check_whole

_COARSE = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
    torch.float4_e2m1fn_x2,
)
"""Types that PyTorch stores, but neither adds nor multiplies in."""

Replace = Callable[[str, Tensor], Tensor]
"""Given the first name of a parameter or buffer, and its data: what to put in its place."""


def check_materialised(model: nn.Module) -> None:
    """Refuse parameters that have no shape or no data yet, or that nothing can be cut from.

    Example:
        >>> check_materialised(nn.Linear(1, 1, device="meta"))
        Traceback (most recent call last):
        ...
        boxwood.core.errors.BoxwoodError: Expected parameters with data, got 'weight' on the meta device; load the weights first.
    """
    for name, module in model.named_modules():
        if isinstance(module, DistributedDataParallel):
            raise BoxwoodError(
                f"Expected a network, got {type(module).__name__} around one"
                f"{f' in {name!r}' if name else ''}, which cannot be copied; give its .module."
            )
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    check_whole(named)
    for name, tensor in named.items():
        if tensor.is_quantized or tensor.dtype in _COARSE:
            way = "dequantize()" if tensor.is_quantized else "model.to(torch.bfloat16)"
            raise BoxwoodError(
                f"Expected tensors in a type that PyTorch computes in, got {name!r} in "
                f"{str(tensor.dtype).removeprefix('torch.')}; shrink the network before it is "
                f"quantised, or convert it with {way}."
            )
    for name, parameter in model.named_parameters():
        if parameter.layout is not torch.strided:
            raise BoxwoodError(
                f"Expected dense parameters, got {name!r}, which is sparse; make it dense with "
                "to_dense(), or register it as a buffer, which is kept whole."
            )
    for name, module in model.named_modules():
        if hasattr(module, "_packed_params"):  # the weights of torch.ao's quantised layers
            raise BoxwoodError(
                f"Expected a network with ordinary weights, got {name!r}, a "
                f"quantised {type(module).__name__} that holds them packed for quantised arithmetic; shrink "
                "the network before it is quantised."
            )


def named_tensors(model: nn.Module) -> list[tuple[tuple[str, ...], Tensor]]:
    """List parameters and buffers, each once, with all of its names.

    Two of them that are views of the same memory in the same shape count as one.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> net = nn.Sequential(layer, layer)
        >>> [names for names, _ in named_tensors(net)]
        [('0.weight', '1.weight'), ('0.bias', '1.bias')]
    """
    found: dict[Any, tuple[list[str], Tensor]] = {}
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        place = memory_of(tensor)
        key = (place, tensor.shape, tensor.stride()) if place else id(tensor)
        found.setdefault(key, ([], tensor))[0].append(name)
    return [(tuple(names), tensor) for names, tensor in found.values()]


def memory_of(tensor: Tensor) -> int:
    """Say where the data of a tensor lie; 0 for those without one place, such as sparse ones.

    Example:
        >>> memory_of(torch.ones(2, 2).to_sparse())
        0
    """
    if tensor.is_meta or tensor.layout is not torch.strided:
        return 0
    try:
        return tensor.data_ptr()
    except RuntimeError:  # subclasses that wrap other tensors
        return 0


def rebuilt(model: nn.Module, replace: Replace, *, isolated: bool = False) -> nn.Module:
    """Copy a module with each parameter and buffer replaced; ties and attributes stay.

    Hooks and everything else are copied as ``copy.deepcopy`` copies them, and beyond that:
    activations that the network keeps are detached, functions that refer to parts of the network
    refer to the same parts of the copy, as weak references in attributes of modules do, and locks
    and Python modules are shared.

    Args:
        model: any module.
        replace: given the first name of a parameter or buffer, and its data: what to put in place.
        isolated: also copy the containers that hooks and other functions write into, so that
            running the copy leaves nothing in them.

    Raises:
        BoxwoodError: something that the network holds cannot be copied.

    Example:
        >>> rebuilt(nn.Linear(2, 2, bias=False), lambda name, tensor: tensor[:1]).weight.shape
        torch.Size([1, 2])
    """
    return twin_of(model, replace, isolated=isolated)[0]


def twin_of(
    model: nn.Module, replace: Replace, *, isolated: bool = False
) -> tuple[nn.Module, list[tuple[tuple[str, ...], Tensor]]]:
    """Copy a module as `rebuilt` does, and list what was put into it, with names.

    Example:
        >>> copied, listed = twin_of(nn.Linear(2, 2), lambda name, tensor: tensor.clone())
        >>> [names for names, _ in listed]
        [('weight',), ('bias',)]
    """
    memo: dict[int, Any] = {}
    listed: list[tuple[tuple[str, ...], Tensor]] = []
    by_name = dict(
        [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
    )
    check_whole(by_name)
    for names, tensor in named_tensors(model):
        made = replace(names[0], tensor.detach())
        for name in names:
            old = by_name[name]
            if id(old) in memo:
                continue
            if isinstance(made, FakeTensor):
                made._is_param = isinstance(old, nn.Parameter)  # what makes it a Parameter
                memo[id(old)] = made
            elif isinstance(old, nn.Parameter):
                memo[id(old)] = _as_parameter(made, old)
            else:
                memo[id(old)] = made
            listed.append((names, memo[id(old)]))
    for module in model.modules():
        for value in vars(module).values():
            # A dozen of every module's tables are empty; deepcopy takes a thousand times as long.
            if type(value) in (dict, OrderedDict) and not value:
                memo[id(value)] = type(value)()
    variables = _prepare(model, memo)
    with _DetachingCopies():
        try:
            twin = copy.deepcopy(model, memo)
            for cell, content in variables:
                copied = copy.deepcopy(content, memo) if isolated else memo.get(id(content))
                cell.cell_contents = content if copied is None else copied
        except Exception as error:
            raise BoxwoodError(
                f"Expected a network that can be copied, got {_not_copied(model)} "
                f"({type(error).__name__}: {error}); take it out of the network for the call, or "
                "give its class a __deepcopy__."
            ) from error
    _aim_weak_references_(model, memo)
    return twin, listed


def _as_parameter(made: Tensor, old: nn.Parameter) -> nn.Parameter:
    """Make a parameter of the class of an old one, with the marks that code has put on it."""
    if type(made) is Tensor:
        parameter: nn.Parameter = Tensor._make_subclass(type(old), made, old.requires_grad)
    else:
        parameter = nn.Parameter(made, requires_grad=old.requires_grad)
    for mark, value in vars(old).items():
        vars(parameter).setdefault(mark, value)  # subclasses keep their data in attributes too
    return parameter


class _DetachingCopies(TorchFunctionMode):
    """Lets ``deepcopy`` take tensors that autograd has computed, such as activations kept."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


_SHARED = (type(threading.Lock()), type(threading.RLock()), ModuleType)
"""Types of what ``deepcopy`` refuses, and what a copy can use as well as the original."""


def _prepare(model: nn.Module, memo: dict[int, Any]) -> list[tuple[CellType, Any]]:
    """Put into the memo what is shared, and functions whose variables are to be filled.

    Functions are atoms to ``deepcopy``: without this, one that was written in ``__init__`` and
    refers to ``self`` would compute with the original, in the copy too.
    """
    cells: list[tuple[CellType, Any]] = []
    for each in _reached(model):
        if isinstance(each, _SHARED):
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
    return any(
        isinstance(each, nn.Module | Tensor | list | dict | set | deque | MethodType)
        or (isinstance(each, FunctionType) and _refers(each, seen))
        for each in _variables(function).values()
    )


def _reached(model: nn.Module) -> Iterator[Any]:
    """Go through what modules hold, in containers, functions and objects."""
    seen: set[int] = set()
    waiting: list[Any] = [vars(module) for module in model.modules()]
    while waiting:
        each = waiting.pop()
        if each is None or isinstance(each, int | float | str | Tensor | type) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list | tuple | set | deque):
            waiting += each
        elif isinstance(each, functools.partial):
            waiting += [each.func, each.args, each.keywords]
        elif isinstance(each, FunctionType):
            waiting += _variables(each).values()
        elif not isinstance(each, ModuleType) and isinstance(
            held := getattr(each, "__dict__", None), dict
        ):
            waiting.append(held)


def _not_copied(model: nn.Module) -> str:
    """Name what ``deepcopy`` fails on."""
    for path, module in reversed(list(model.named_modules())):
        for name, value in vars(module).items():
            if name == "_modules":
                continue
            try:
                with _DetachingCopies():
                    copy.deepcopy(value)
            except Exception:  # noqa: BLE001 - whatever it is, this is what fails
                return f"{'.'.join(filter(None, (path, name)))!r} of {type(value).__name__}"
    return f"a {type(model).__name__} that cannot"


def _aim_weak_references_(model: nn.Module, memo: dict[int, Any]) -> None:
    """Let weak references of the copy's modules refer to the copy."""
    for module in model.modules():
        twin = memo.get(id(module))
        if twin is None or twin is module:  # which has its own way of being copied
            continue
        for name, value in vars(module).items():
            if isinstance(value, weakref.ref) and id(value()) in memo:
                vars(twin)[name] = type(value)(memo[id(value())])
