"""Record the operations of one forward pass, without computing anything."""

import copy
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from boxwood.core.errors import BoxwoodError
from boxwood.graph.calls import ASKS_SIZE, STATISTICS, WHOLE, bind
from boxwood.graph.sizes import Expression, Listener, OfAttribute, OfShape, Shape, Size

_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep


Replace = Callable[[str, Tensor], Tensor]
"""Given the first name of a parameter or buffer, and its data: what to put in its place."""


@dataclass(frozen=True)
class Ref:
    """Stands in recorded arguments for a tensor: the number of its value."""

    value: int


@dataclass(frozen=True)
class Call:
    """One operation.

    Args:
        name: of the operation, without namespace, overload and trailing underscore.
        args: by name; tensors replaced by `Ref`, sizes still `Size`.
        outputs: `Ref`, or nested tuples and lists of them.
        writes: whether it changes an argument in place.
        number: how many statistics were taken up to here, which is alike in every run.
        module: dotted name of the module whose code makes the call; empty for the model itself.
        source: file and line of the user's code.
    """

    name: str
    args: Mapping[str, Any]
    outputs: Any
    writes: bool
    number: int
    module: str
    source: str

    def __str__(self) -> str:
        return f"{self.name!r} in {self.module or 'the model'!r} ({self.source})"


@dataclass
class Trace:
    """What one forward pass did.

    Args:
        calls: in order.
        shapes: of every value.
        named: value to the names of the parameter or buffer that it is.
        floating, integral: of every value, whether it holds floats; whether it is no mask.
        storages: value to a key that values sharing memory have in common.
        sharing: that key to the values.
        numbers: expressions of sizes that code used as plain numbers, and where.
        equal: attributes that code checked against the size of an axis, and where.
        evaluated: how many calls belong to the pass in evaluation; the others to one in training.
        results: values that the model returns.
        attributes: the ints that modules hold.
    """

    calls: list[Call] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    named: dict[int, tuple[str, ...]] = field(default_factory=dict)
    floating: list[bool] = field(default_factory=list)
    integral: list[bool] = field(default_factory=list)
    storages: list[int] = field(default_factory=list)
    sharing: dict[int, list[int]] = field(default_factory=dict)
    numbers: list[tuple[Expression, str]] = field(default_factory=list)
    equal: list[tuple[OfAttribute, OfShape, str]] = field(default_factory=list)
    evaluated: int = 0
    results: set[int] = field(default_factory=set)
    attributes: dict[OfAttribute, int] = field(default_factory=dict)


def as_arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read an example: one input, a tuple of inputs, or a dict of inputs by name.

    Example:
        >>> as_arguments({"x": 1})
        ((), {'x': 1})
    """
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example,), {}


def trace(model: nn.Module, example: Any) -> Trace:
    """Run a copy of a model on fake tensors and record what it does in evaluation.

    Nothing is computed and the model is not touched: parameters are replaced by tensors without
    data, and the ints that its modules hold by ints that remember where they came from.

    Args:
        model: any module.
        example: an input, a tuple of inputs, or a dict of inputs by name.

    Raises:
        BoxwoodError: a parameter has no data or shape yet, the control flow depends on data, or
            the model does not take the example.
    """
    check_materialised(model)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    recorder = _Recorder(Trace())
    twin, names = _twin(model, lambda _, tensor: _faked(fake, tensor))
    recorder.modules = {id(module): name for name, module in twin.named_modules()}
    for names_of, tensor in names:
        recorder.trace.named[recorder.value(tensor)] = names_of
    twin.eval()
    _remember_ints_(twin, recorder.trace, recorder)
    args, kwargs = tree_map(
        lambda each: _faked(fake, each) if isinstance(each, Tensor) else each, as_arguments(example)
    )
    with ExitStack() as stack:
        for context in (torch.no_grad(), fake, _Operations(recorder), _Functions(recorder)):
            stack.enter_context(context)
        try:
            returned = [twin(*args, **kwargs)]
        except BoxwoodError:
            raise
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise BoxwoodError(
                f"Expected a model whose control flow does not depend on data, got "
                f"{type(model).__name__}, which reads values of tensors at {recorder.where()} "
                f"({error}); give units() the part of it that computes the features."
            ) from error
        except Exception as error:
            raise BoxwoodError(
                f"Expected an example that {type(model).__name__} takes, got one of shape "
                f"{_shapes(example)}, on which it fails at {recorder.where()} "
                f"({type(error).__name__}: {_first_line(error)}); give the inputs of its forward: a "
                "tensor, a tuple, or a dict by name."
            ) from error
        recorder.trace.evaluated = len(recorder.trace.calls)
        if unread(recorder.trace):
            returned += _in_training(recorder, twin, args, kwargs)
    recorder.trace.results = {
        recorder.value(each) for each in _tensors(returned) if recorder.knows(each)
    }
    return recorder.trace


def unread(trace: Trace) -> list[int]:
    """List the parameters and buffers that no call reads.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> net.spare = nn.Parameter(torch.zeros(3))
        >>> found = trace(net, torch.ones(1, 1))
        >>> [found.named[value] for value in unread(found)]
        [('spare',)]
    """
    read = {ref.value for call in trace.calls for ref in refs(tuple(call.args.values()))}
    return [value for value in trace.named if value not in read]


def refs(nested: Any) -> list[Ref]:
    """Collect the tensors among recorded arguments.

    Example:
        >>> refs((Ref(3), [1, Ref(4)]))
        [Ref(value=3), Ref(value=4)]
    """
    if isinstance(nested, Ref):
        return [nested]
    if isinstance(nested, tuple | list):
        return [ref for each in nested for ref in refs(each)]
    if isinstance(nested, slice):
        return refs((nested.start, nested.stop, nested.step))
    return []


def _in_training(recorder: "_Recorder", twin: nn.Module, args: Any, kwargs: Any) -> list[Any]:
    """Run a second pass in training mode, for what evaluation does not read: auxiliary heads."""
    calls, numbers = len(recorder.trace.calls), len(recorder.trace.numbers)
    twin.train()
    try:
        return [twin(*args, **kwargs)]
    except Exception:  # noqa: BLE001 - the pass is extra; what it does not reach stays unread
        del recorder.trace.calls[calls:], recorder.trace.numbers[numbers:]
        return []


def check_materialised(model: nn.Module) -> None:
    """Refuse parameters that have no shape or no data yet.

    Example:
        >>> check_materialised(nn.Linear(1, 1, device="meta"))
        Traceback (most recent call last):
        ...
        boxwood.core.errors.BoxwoodError: Expected parameters with data, got 'weight' on the meta device; load the weights first.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, UninitializedTensorMixin):
            raise BoxwoodError(
                f"Expected initialised parameters, got {name!r}, which is lazy; "
                "run the model once on a batch first."
            )
        if tensor.is_meta:
            raise BoxwoodError(
                f"Expected parameters with data, got {name!r} on the meta device; "
                "load the weights first."
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
        place = 0 if tensor.is_meta else tensor.data_ptr()
        key = (place, tensor.shape, tensor.stride()) if place else id(tensor)
        found.setdefault(key, ([], tensor))[0].append(name)
    return [(tuple(names), tensor) for names, tensor in found.values()]


def rebuilt(model: nn.Module, replace: Replace) -> nn.Module:
    """Copy a module with each parameter and buffer replaced; ties and attributes stay.

    Hooks and everything else are copied as ``copy.deepcopy`` copies them.

    Example:
        >>> rebuilt(nn.Linear(2, 2, bias=False), lambda name, tensor: tensor[:1]).weight.shape
        torch.Size([1, 2])
    """
    return _twin(model, replace)[0]


def _twin(
    model: nn.Module, replace: Replace
) -> tuple[nn.Module, list[tuple[tuple[str, ...], Tensor]]]:
    memo: dict[int, Any] = {}
    listed: list[tuple[tuple[str, ...], Tensor]] = []
    by_name = dict(
        [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
    )
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
                memo[id(old)] = nn.Parameter(made, requires_grad=old.requires_grad)
            else:
                memo[id(old)] = made
            listed.append((names, memo[id(old)]))
    for module in model.modules():
        for value in vars(module).values():
            # A computed tensor, as an old-style weight norm leaves behind, cannot be deep-copied.
            if isinstance(value, Tensor) and id(value) not in memo:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo), listed


def _faked(fake: FakeTensorMode, tensor: Tensor) -> Tensor:
    bare = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(fake, bare, tensor.device)


def _remember_ints_(model: nn.Module, trace: Trace, listener: Listener) -> None:
    seen: set[int] = set()

    def remember(holder: Any, path: tuple[str | int, ...], depth: int) -> None:
        if id(holder) in seen:
            return
        seen.add(id(holder))
        for name, value in list(vars(holder).items()):
            where = (*path, name)
            if type(value) is int:
                vars(holder)[name] = made(value, where)
            elif type(value) in (tuple, list) and value and all(type(v) is int for v in value):
                sizes = [made(v, (*where, place)) for place, v in enumerate(value)]
                vars(holder)[name] = type(value)(sizes)
            elif depth and _holds_settings(value):
                remember(value, where, depth - 1)

    def made(value: int, where: tuple[str | int, ...]) -> Size:
        trace.attributes[OfAttribute(where)] = value
        return Size(value, OfAttribute(where), listener)

    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            remember(module, tuple(name.split(".")) if name else (), 2)


def _holds_settings(value: Any) -> bool:
    """Tell a configuration object from modules, tensors, functions and containers."""
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, nn.Module | Tensor | type | FunctionType)
        and not callable(value)
        and not type(value).__module__.startswith(("torch", "builtins", "collections"))
    )


class _Recorder:
    """What the two modes write into."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.modules: dict[int, str] = {}
        self.whole = 0
        self.number = 0
        self._values: dict[int, int] = {}
        self._alive: list[Tensor] = []
        self._last = ("", "")

    def knows(self, tensor: Tensor) -> bool:
        return id(tensor) in self._values

    def value(self, tensor: Tensor) -> int:
        found = self._values.get(id(tensor))
        if found is None:
            found = self._values[id(tensor)] = len(self._alive)
            self._alive.append(tensor)  # or its id might be given to another
            self.trace.shapes.append(tuple(int(size) for size in _plain_shape(tensor)))
            self.trace.floating.append(tensor.is_floating_point())
            self.trace.integral.append(tensor.dtype not in (torch.bool, torch.uint8))
            storage = tensor.untyped_storage()._cdata
            self.trace.storages.append(storage)
            self.trace.sharing.setdefault(storage, []).append(found)
        return found

    def refs(self, nested: Any) -> Any:
        if isinstance(nested, Tensor):
            return Ref(self.value(nested))
        if type(nested) in (tuple, list) or isinstance(nested, tuple):
            return tuple(self.refs(each) for each in nested)
        if isinstance(nested, slice):
            return slice(*(self.refs(each) for each in (nested.start, nested.stop, nested.step)))
        return nested

    def record(self, name: str, args: Mapping[str, Any], out: Any, *, writes: bool) -> None:
        module, source = self._last = self._place()
        given = {key: self.refs(value) for key, value in args.items()}
        self.trace.calls.append(
            Call(name, given, self.refs(out), writes, self.number, module, source)
        )

    def on_number(self, size: Size) -> None:
        self.trace.numbers.append((size.expression, self._place()[1]))

    def on_equal(self, first: Size, second: Size) -> None:
        pair = first.expression, second.expression
        if isinstance(pair[1], OfAttribute):
            pair = pair[1], pair[0]
        if isinstance(pair[0], OfAttribute) and isinstance(pair[1], OfShape):
            self.trace.equal.append((pair[0], pair[1], self._place()[1]))

    def where(self) -> str:
        return self._last[1] or "its first line"

    def _place(self) -> tuple[str, str]:
        frame = sys._getframe(2)
        module = source = None
        while frame is not None and (module is None or source is None):
            file = frame.f_code.co_filename
            if not file.startswith(_HERE):
                if source is None and not file.startswith((_TORCH, "<")):
                    source = f"{file}:{frame.f_lineno}"
                if module is None and "self" in frame.f_code.co_varnames:
                    module = self.modules.get(id(frame.f_locals.get("self")))
            frame = frame.f_back  # type: ignore[assignment]
        return module or "", source or ""


class _Functions(TorchFunctionMode):
    """Records the functions of `calls.WHOLE`, and makes sizes remember."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        recorder, kwargs = self._recorder, kwargs or {}
        if func in ASKS_SIZE:
            return _remembering(recorder, func(*args, **kwargs), args, kwargs)
        known = WHOLE.get(func)
        if known is None:
            for size in _sizes(args, kwargs):
                size.as_number()
            return func(*args, **kwargs)
        name, signature = known
        recorder.number += name in STATISTICS
        recorder.whole += 1
        try:
            out = func(*args, **kwargs)
        finally:
            recorder.whole -= 1
        if recorder.whole == 0:
            bound = bind(signature, args, kwargs)
            recorder.record(name, bound, out, writes=name == "setitem")
        return out


class _Operations(TorchDispatchMode):
    """Records every other operation."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not self._recorder.whole:
            self._recorder._last = ("", self._recorder._place()[1])
        out = func(*args, **kwargs)
        if (
            self._recorder.whole
            or func.namespace == "prim"
            or not any(map(torch.is_tensor, _flat(out)))
        ):
            return out
        schema = func._schema
        given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        given |= dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
        name = schema.name.partition("::")[2].rstrip("_") or schema.name
        self._recorder.record(name.lstrip("_"), given, out, writes=writes)
        return out


def _remembering(recorder: _Recorder, out: Any, args: Any, kwargs: Any) -> Any:
    if not isinstance(args[0], Tensor):
        return out
    value = recorder.value(args[0])
    if isinstance(out, int):
        axis = (args[1] if len(args) > 1 else kwargs["dim"]) % len(recorder.trace.shapes[value])
        return Size(out, OfShape(value, axis), recorder)
    return Shape(Size(size, OfShape(value, axis), recorder) for axis, size in enumerate(out))


def _plain_shape(tensor: Tensor) -> Sequence[int]:
    with torch._C.DisableTorchFunction():
        return tensor.shape


def _sizes(args: Any, kwargs: Any) -> Iterator[Size]:
    for each in _flat((args, tuple(kwargs.values()))):
        if isinstance(each, Size):
            yield each


def _flat(nested: Any) -> Iterator[Any]:
    if isinstance(nested, tuple | list):
        for each in nested:
            yield from _flat(each)
    else:
        yield nested


def _tensors(nested: Any) -> Iterator[Tensor]:
    """Find the tensors in what a model returned: containers, mappings, dataclasses."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        for each in nested.values():
            yield from _tensors(each)
    elif isinstance(nested, tuple | list | set):
        for each in nested:
            yield from _tensors(each)
    elif hasattr(nested, "__dict__") and not isinstance(nested, type | nn.Module):
        for each in vars(nested).values():
            yield from _tensors(each)


def _shapes(example: Any) -> str:
    args, kwargs = as_arguments(example)
    said = [str(tuple(t.shape)) for t in _tensors((args, kwargs))]
    return ", ".join(said) or "none"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
