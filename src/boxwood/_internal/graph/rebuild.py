"""Copy a network with other tensors in place of its parameters and buffers."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensor,
)
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from boxwood._internal.core.copies import REBUILT, drop_hooks_
from boxwood._internal.core.placement import check_whole
from boxwood._internal.graph.references import aim_weak_references_, leads_into, prepare
from boxwood.errors import UnsupportedModel

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
        boxwood.errors.InvalidInput: Expected parameters with data, got 'weight' on the meta device; load the weights first.
    """
    for name, module in model.named_modules():
        if isinstance(module, DistributedDataParallel):
            raise UnsupportedModel(
                f"Expected a network, got {type(module).__name__} around one"
                f"{f' in {name!r}' if name else ''}, which cannot be copied; give its .module."
            )
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    check_whole(named)
    for name, tensor in named.items():
        if tensor.is_quantized or tensor.dtype in _COARSE:
            way = "dequantize()" if tensor.is_quantized else "model.to(torch.bfloat16)"
            raise UnsupportedModel(
                f"Expected tensors in a type that PyTorch computes in, got {name!r} in "
                f"{str(tensor.dtype).removeprefix('torch.')}; shrink the network before it is "
                f"quantised, or convert it with {way}."
            )
    for name, parameter in model.named_parameters():
        if parameter.layout is not torch.strided:
            raise UnsupportedModel(
                f"Expected dense parameters, got {name!r}, which is sparse; make it dense with "
                "to_dense(), or register it as a buffer, which is kept whole."
            )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters()):
            raise UnsupportedModel(
                f"Expected a network in Python, got {name or 'one'} in TorchScript, whose code "
                "cannot be followed; give the module that it was made from."
            )
        if hasattr(module, "_packed_params"):  # the weights of torch.ao's quantised layers
            raise UnsupportedModel(
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
        UnsupportedModel: something that the network holds cannot be copied.

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
    memo: dict[int, Any] = {id(REBUILT): REBUILT}
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
    variables = prepare(model, memo)
    with _DetachingCopies():
        try:
            twin = copy.deepcopy(model, memo)
            drop_hooks_(twin)
            for cell, content in variables:
                own = isolated or leads_into(content, memo)
                cell.cell_contents = copy.deepcopy(content, memo) if own else content
        except Exception as error:
            raise UnsupportedModel(
                f"Expected a network that can be copied, got {_not_copied(model)} "
                f"({type(error).__name__}: {error}); take it out of the network for the call, or "
                "give its class a __deepcopy__."
            ) from error
    if isolated:
        _check_apart(model, twin)
    aim_weak_references_(model, memo)
    for module in twin.modules():
        if parametrize.is_parametrized(module):
            _give_own_class_(module)
    return twin, listed


def _check_apart(model: nn.Module, twin: nn.Module) -> None:
    """Refuse parts that are copied to themselves: what is done to the copy would change them."""
    originals = {id(module): name for name, module in model.named_modules()}
    for module in twin.modules():
        if id(module) in originals:
            raise UnsupportedModel(
                f"Expected a network whose copy has parts of its own, got "
                f"{originals[id(module)] or 'one'!r}, a {type(module).__name__} whose __deepcopy__ "
                "returns itself; let it return a copy."
            )


def _give_own_class_(module: nn.Module) -> None:
    """Part a parametrised module from its original, with which ``deepcopy`` lets it share a class.

    The class has the weight as a property, and ``remove_parametrizations`` takes it off the class:
    what is done to the copy would break the original.
    """
    kind = type(module)
    own = {key: each for key, each in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, own)


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
