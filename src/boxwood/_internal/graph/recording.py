"""The record of a forward pass."""

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from boxwood._internal.graph.concrete_values import ConcreteValues
from boxwood._internal.graph.sizes import Expression, OfAttribute, OfShape, Size

TORCH = str(Path(torch.__file__).parent) + os.sep


HERE = str(Path(__file__).parent) + os.sep


@dataclass(frozen=True)
class Ref:
    """Takes the place of a tensor in recorded arguments: the number of its value."""

    value: int


@dataclass(frozen=True)
class Call:
    """One operation.

    Args:
        name: of the operation, without overload and trailing underscore; with its namespace where
            that is not PyTorch's own.
        args: by name; tensors replaced by `Ref`, sizes still `Size`.
        outputs: `Ref`, or nested tuples and lists of them.
        writes: whether it changes an argument in place.
        number: how many statistics were taken up to here, which is alike in every run.
        module: dotted name of the module whose code makes the call; empty for the model itself.
        source: file and line of the user's code.
        operator: name of the overload, such as ``aten.relu.default``; empty for a function of Python.
    """

    name: str
    args: Mapping[str, Any]
    outputs: Any
    writes: bool
    number: int
    module: str
    source: str
    operator: str = ""

    def __str__(self) -> str:
        return f"{self.name!r} in {self.module or 'the model'!r} ({self.source})"


@dataclass
class Trace:
    """What one forward pass did.

    Args:
        calls: in order.
        shapes: of every value.
        named: value to the names of the parameter or buffer that it is.
        floating, integral: of every value, whether it holds floats or complex numbers, densely;
            whether it is no mask.
        storages: value to a key that values sharing memory have in common.
        sharing: that key to the values.
        numbers: expressions of sizes that code used as plain numbers, and where.
        equal: attributes that code checked against the size of an axis, and where.
        compared: comparisons of sizes, with what came out and where.
        evaluated: how many calls belong to the pass in evaluation; the others to one in training.
        results: values that the model returns.
        inputs: values that the model is given.
        attributes: the ints that modules hold.
        beyond: file and line from which on nothing was followed, since what runs depends on data.
        assumed: files and lines where values that follow from whole-number inputs were looked at.
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
    compared: dict[Expression, tuple[bool, str]] = field(default_factory=dict)
    evaluated: int = 0
    results: set[int] = field(default_factory=set)
    inputs: set[int] = field(default_factory=set)
    attributes: dict[OfAttribute, int] = field(default_factory=dict)
    beyond: str = ""
    assumed: list[str] = field(default_factory=list)


def place_of(error: BaseException) -> str:
    """Name the last line of user's code that an error came through.

    Example:
        >>> place_of(ValueError())
        'an unknown line'
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((TORCH, HERE)):
            return f"{frame.filename}:{frame.lineno}"
    return "an unknown line"


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


class Recorder:
    """What the two modes write into."""

    def __init__(self, trace: Trace, concrete: ConcreteValues | None) -> None:
        self.trace = trace
        self.concrete = concrete
        self.modules: dict[int, str] = {}
        self.whole = 0
        self.number = 0
        self.listening = True
        self._values: dict[int, int] = {}
        self._alive: list[Tensor | None] = []
        self.last = ("", "")

    def knows(self, tensor: Tensor) -> bool:
        """Say whether a tensor has been seen."""
        return id(tensor) in self._values

    def value(self, tensor: Tensor) -> int:
        """Number a tensor, and note what it is when it is new."""
        found = self._values.get(id(tensor))
        return self._numbered(tensor) if found is None else found

    def renumber(self, tensor: Tensor) -> None:
        """Take a tensor whose shape was changed in place for another value from now on."""
        if id(tensor) in self._values:
            self._alive[self._values.pop(id(tensor))] = None
        self._numbered(tensor)

    def _numbered(self, tensor: Tensor) -> int:
        number = self._values[id(tensor)] = len(self._alive)
        self._alive.append(tensor)  # or its id might be given to another
        self.trace.shapes.append(tuple(int(size) for size in plain_shape(tensor)))
        inexact = tensor.is_floating_point() or tensor.is_complex()
        self.trace.floating.append(inexact and tensor.layout is torch.strided)
        self.trace.integral.append(tensor.dtype not in (torch.bool, torch.uint8))
        try:
            storage = tensor.untyped_storage()._cdata
        except NotImplementedError:
            storage = -len(self._alive)  # within vmap, which shares nothing that one could see
        self.trace.storages.append(storage)
        self.trace.sharing.setdefault(storage, []).append(number)
        return number

    def held(self) -> list[Tensor]:
        """List what code that goes on can still read: tensors that somebody else holds as well.

        Parameters are not among them: the model holds all of them.
        """
        ours = 2  # the list, and the argument of getrefcount; a loop over tensors would be one more
        places = [
            value
            for value in range(len(self._alive))
            if value not in self.trace.named and self._alive[value] is not None
        ]
        return [self._alive[i] for i in places if sys.getrefcount(self._alive[i]) > ours]  # type: ignore[misc]

    def refs(self, nested: Any) -> Any:
        """Put a `Ref` in place of every tensor."""
        if isinstance(nested, Tensor):
            return Ref(self.value(unwrapped(nested)[0]))
        if type(nested) in (tuple, list) or isinstance(nested, tuple):
            return tuple(self.refs(each) for each in nested)
        if isinstance(nested, slice):
            return slice(*(self.refs(each) for each in (nested.start, nested.stop, nested.step)))
        if isinstance(nested, Size) and nested.listener is not self:
            return int(nested)  # of an earlier trace, which code has kept somewhere
        return nested

    def given(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Note what a call is given, before it changes any of it."""
        for tensor in flat(tuple(args.values())):
            if isinstance(tensor, FakeTensor) and id(tensor) not in self._values:
                self._find_origin(tensor)
        return {key: self.refs(value) for key, value in args.items()}

    def _find_origin(self, tensor: Tensor) -> None:
        """Record where a tensor comes from that no operation returned: it shares known memory."""
        for place in self.trace.sharing.get(tensor.untyped_storage()._cdata, ()):
            known = self._alive[place]
            if known is not None:
                same = (known.shape, known.stride(), known.storage_offset()) == (
                    tensor.shape, tensor.stride(), tensor.storage_offset()
                )  # fmt: skip
                name = "alias" if same else "view_by_other_means"
                self.record(name, {"self": Ref(place)}, tensor, writes=False)
                return

    def record(
        self, name: str, given: Mapping[str, Any], out: Any, *, writes: bool, operator: str = ""
    ) -> None:
        """Write a call down."""
        module, source = self.last = self.place()
        self.trace.calls.append(
            Call(name, given, self.refs(out), writes, self.number, module, source, operator)
        )

    def stop(self) -> None:
        """Listen no more: what is done with sizes from now on is not the network's code."""
        self.listening = False

    def on_number(self, size: Size) -> None:
        """Note that a size was used as a number."""
        self.trace.numbers.append((size.expression, self.place()[1]))

    def on_equal(self, first: Size, second: Size) -> None:
        """Note that an attribute was checked against the size of an axis."""
        pair = first.expression, second.expression
        if isinstance(pair[1], OfAttribute):
            pair = pair[1], pair[0]
        if isinstance(pair[0], OfAttribute) and isinstance(pair[1], OfShape):
            self.trace.equal.append((pair[0], pair[1], self.place()[1]))

    def on_compared(self, comparison: Expression, outcome: bool) -> None:
        """Note that code compared sizes; PyTorch's own code does so to check, or to go faster."""
        frame = sys._getframe(1)
        while frame.f_code.co_filename.startswith(HERE):
            frame = frame.f_back  # type: ignore[assignment]
        if not frame.f_code.co_filename.startswith(TORCH):
            self.trace.compared.setdefault(comparison, (outcome, self.place()[1]))

    def on_value(self) -> None:
        """Note that a value that follows from whole-number inputs was looked at."""
        place = self.place()[1]
        if place not in self.trace.assumed:
            self.trace.assumed.append(place)

    def where(self) -> str:
        """Say where the last operation was."""
        return self.last[1] or "its first line"

    def place(self) -> tuple[str, str]:
        """Say in which module the code is that runs now, and in which file and line."""
        frame = sys._getframe(2)
        module = source = None
        while frame is not None and (module is None or source is None):
            file = frame.f_code.co_filename
            if not file.startswith(HERE):
                if source is None and not file.startswith((TORCH, "<")):
                    source = f"{file}:{frame.f_lineno}"
                if module is None and "self" in frame.f_code.co_varnames:
                    module = self.modules.get(id(frame.f_locals.get("self")))
            frame = frame.f_back  # type: ignore[assignment]
        return module or "", source or ""


def is_foreign(operator: Any) -> bool:
    """Say whether an operator belongs to neither PyTorch nor torchvision.

    Example:
        >>> is_foreign(torch.ops.aten.relu.default)
        False
    """
    return operator.namespace not in ("aten", "prims", "torchvision", "mkldnn")


def is_wrapped(each: Any) -> bool:
    """Say whether a tensor is one of ``vmap``, which shows part of another."""
    return isinstance(each, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(each)


def unwrapped(tensor: Tensor) -> tuple[Tensor, list[int]]:
    """Find the whole tensor of one within ``vmap``, and which of its axes can be seen there."""
    if not is_wrapped(tensor):
        return tensor, list(range(tensor.dim()))
    hidden = torch._C._functorch.maybe_get_bdim(tensor)
    found, axes = unwrapped(torch._C._functorch.get_unwrapped(tensor))
    return found, axes if hidden < 0 else axes[:hidden] + axes[hidden + 1 :]


def plain_shape(tensor: Tensor) -> Sequence[int]:
    """Ask for a shape without letting the listener know."""
    with torch._C.DisableTorchFunction():
        return tensor.shape


def flat(nested: Any) -> Iterator[Any]:
    """Go through tuples and lists, and those in them."""
    if isinstance(nested, tuple | list):
        for each in nested:
            yield from flat(each)
    else:
        yield nested
