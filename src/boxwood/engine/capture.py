"""From a module to a program: one forward pass with every operator call written down.

The pass runs on real tensors in inference mode, where torch hands over its operators whole
(``conv2d``, ``linear``, ``lstm`` …) at the cost of the pass itself. Sizes that depend on the batch
are found by a second pass with one example more: an integer that differs between the two is a
linear function of the batch, or a third pass shows that it is not. Writes in place become new values; whoever else looks at the same
memory is derived from them again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from boxwood.engine.program import PerExample, Program, Ref, Size, Torch, Value, at


class UncapturableError(Exception):
    """A forward pass that is not the same list of operations for every input."""


@dataclass(frozen=True)
class Captured:
    """A program and what its example gave.

    Args:
        program: the operations.
        outputs: the tensors that the example gave, in the order of the program's outputs.
    """

    program: Program
    outputs: tuple[Tensor, ...]


def capture(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Captured:
    """Write down what a function of tensors does.

    Args:
        function: takes the inputs, returns tensors, changes nothing else.
        inputs: example tensors; those whose first axis has the length of the first one's form
            the batch.

    Raises:
        UncapturableError: the pass depends on the inputs' values, or changes tensors that outlive it.

    Example:
        >>> captured = capture(lambda x: (torch.relu(x),), (torch.zeros(2, 3),))
        >>> captured.program.ops[0].target, captured.program.values[0].shape
        ('aten.relu.default', (PerExample(per=1, plus=0), 3))
    """
    first, outputs = _record(function, inputs)
    batch = inputs[0].shape[0] if inputs and inputs[0].ndim else 0
    if batch:
        try:
            second, third = (
                _record(function, [_more(tensor, batch, extra) for tensor in inputs])[0]
                for extra in (1, 3)
            )
            merged = _Merge(batch).programs(first, second)
            _check_merged(merged, third, batch + 3)
        except (
            UncapturableError,
            _BatchMattersError,
            RuntimeError,
            ValueError,
            LookupError,
            AssertionError,
            TypeError,
        ):
            merged = first  # the net takes this batch alone
        return Captured(merged, outputs)
    return Captured(first, outputs)


def _more(tensor: Tensor, batch: int, extra: int) -> Tensor:
    if tensor.ndim and tensor.shape[0] == batch:
        return torch.cat([tensor, *[tensor[:1]] * extra])
    return tensor


def _record(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]
) -> tuple[Program, tuple[Tensor, ...]]:
    with torch.inference_mode(), whole_operators():
        recorder = _Recorder(inputs)
        with _RefuseReading(recorder), recorder:
            outputs = tuple(function(*inputs))
        return recorder.program(outputs), outputs


@contextmanager
def whole_operators() -> Iterator[None]:
    """Have transformers call linear layers and attention, not one opaque operator for all."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _RefuseReading(TorchFunctionMode):
    """Notice values that leave torch without an operator call."""

    _leaving = frozenset((Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.data_ptr))

    def __init__(self, recorder: "_Recorder") -> None:
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func in self._leaving and self.recorder.depends(args[0]):
            raise UncapturableError(f"the Python code reads values that {func.__name__} gives")
        return func(*args, **(kwargs or {}))


@dataclass
class _Memory:
    """A storage that values share: the value that covers it, and how often it was written."""

    root: int
    root_tensor: Tensor
    version: int = 0


class _Recorder(TorchDispatchMode):
    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Torch] = []
        self.values: dict[int, Value] = {}
        self.constants: dict[int, Tensor] = {}
        self.live: set[int] = set()  # values that depend on an input or on chance
        self.tensors: dict[int, tuple[Tensor, int, int]] = {}  # by id: tensor, value, version
        self.memories: dict[int, _Memory] = {}
        self.inputs = tuple(self._new(tensor, live=True) for tensor in inputs)
        self.protected = {_storage(tensor) for tensor in inputs}

    def program(self, outputs: Sequence[Tensor]) -> Program:
        numbers = tuple(self._value_of(tensor) for tensor in outputs)
        return Program(
            tuple(self.ops), self.values, self.constants, self.inputs, numbers, batch=None
        )

    def depends(self, tensor: Any) -> bool:
        found = self.tensors.get(id(tensor))
        return found is not None and found[1] in self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        given, named = self._argument(args), self._argument(kwargs)
        op = Torch(_name(func), given, tuple(named), ())
        live = any(value in self.live for value in op.reads)
        if live and _shape_depends_on_values(func, args):
            raise UncapturableError(f"the values of the input decide what {op.name} gives")
        result = func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags and not _idle_dropout(func, args):
            live = True
        if func._schema.is_mutable:
            self._write(func, op, args, kwargs, result, live)
            return result
        if func is torch.ops.aten.lift_fresh.default:
            result = result.clone()  # a literal is new in each pass, and may be written
        tensors = [leaf for leaf in _flat(result) if isinstance(leaf, Tensor)]
        if len(tensors) < len(list(_flat(result))):
            if live:
                raise UncapturableError(f"the Python code reads the result of {op.name}")
            return result
        if all(id(tensor) in self.tensors for tensor in tensors):
            return result  # gave back what it was given
        writes = tuple(self._new(tensor, live=live) for tensor in tensors)
        self.ops.append(Torch(op.target, op.args, op.kwargs, writes))
        return result

    def _write(self, func: Any, op: Torch, args: Any, kwargs: Any, result: Any, live: bool) -> None:
        """Record a call that writes into its first argument as one that makes a new value."""
        written = [a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
        target = args[0] if args else None
        if written != [func._schema.arguments[0].name] or result is not target or "out" in kwargs:
            raise UncapturableError(
                f"{op.target} writes into a tensor in a way that is not covered"
            )
        memory = self.memories[_storage(target)]
        if memory.root in self.constants or _storage(target) in self.protected:
            raise UncapturableError(f"{op.name} changes a tensor that outlives the forward pass")
        name = func.__name__.split(".")[0].removesuffix("_")
        functional = getattr(getattr(torch.ops.aten, name, None), func._overloadname, None)
        if functional is None:
            raise UncapturableError(f"{op.target} has no form that leaves its argument alone")
        live = live or memory.root in self.live
        new = self._number(target, live)
        self.ops.append(Torch(_name(functional), op.args, op.kwargs, (new,)))
        memory.version += 1
        if target is memory.root_tensor:
            memory.root = new
        else:
            self._write_root(target, new, memory, live)
        self.tensors[id(target)] = (target, new, memory.version)

    def _write_root(self, view: Tensor, new: int, memory: _Memory, live: bool) -> None:
        root = memory.root_tensor
        plain, order = self._in_memory_order(memory, view)
        layout = (tuple(view.shape), view.stride(), view.storage_offset() - root.storage_offset())
        number = self._number(root.permute(order), live)
        self.ops.append(
            Torch("aten.as_strided_scatter.default", (Ref(plain), Ref(new), *layout), (), (number,))
        )
        back = tuple(sorted(range(root.ndim), key=order.__getitem__))
        number = self._permuted(number, root.permute(order), back, live)
        memory.root = number
        self.tensors[id(root)] = (root, number, memory.version)

    def _in_memory_order(self, memory: _Memory, view: Tensor) -> tuple[int, tuple[int, ...]]:
        """Return what covers a view's memory, as it lies there, and the order of its axes."""
        root, live = memory.root_tensor, memory.root in self.live
        order = tuple(sorted(range(root.ndim), key=lambda axis: -root.stride()[axis]))
        lies = root.permute(order)
        if not lies.is_contiguous() or root.dtype != view.dtype:
            raise UncapturableError("it writes into a tensor that others see with gaps or overlaps")
        steps = zip(view.shape, view.stride(), strict=True)
        first = view.storage_offset() - root.storage_offset()
        last = first + sum((size - 1) * stride for size, stride in steps)
        if first < 0 or last >= root.numel():
            raise UncapturableError("it writes into memory that no tensor it computed covers")
        permuted = self._permuted(memory.root, root, order, live)
        number = self._number(lies, live)
        self.ops.append(Torch("aten.contiguous.default", (Ref(permuted),), (), (number,)))
        return number, order

    def _permuted(self, value: int, shown: Tensor, order: tuple[int, ...], live: bool) -> int:
        """Record a permutation, unless it changes nothing."""
        if order == tuple(range(shown.ndim)):
            return value
        number = self._number(shown.permute(order), live)
        self.ops.append(Torch("aten.permute.default", (Ref(value), order), (), (number,)))
        return number

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return Ref(self._value_of(argument))
        if isinstance(argument, tuple | list | torch.Size):
            return tuple(self._argument(part) for part in argument)
        if isinstance(argument, dict):
            return tuple((name, self._argument(part)) for name, part in argument.items())
        return argument

    def _value_of(self, tensor: Tensor) -> int:
        found = self.tensors.get(id(tensor))
        if found is None:
            number = self._new(tensor.detach(), live=False, key=tensor)
            self.constants[number] = tensor.detach()
            return number
        _, number, version = found
        memory = self.memories[_storage(tensor)]
        if version == memory.version:
            return number
        root = memory.root_tensor
        plain, _ = self._in_memory_order(memory, tensor)
        number = self._number(tensor, memory.root in self.live)
        layout = (
            tuple(tensor.shape), tensor.stride(), tensor.storage_offset() - root.storage_offset()
        )  # fmt: skip
        self.ops.append(Torch("aten.as_strided.default", (Ref(plain), *layout), (), (number,)))
        self.tensors[id(tensor)] = (tensor, number, memory.version)
        return number

    def _number(self, tensor: Tensor, live: bool) -> int:
        number = len(self.values)
        self.values[number] = Value(tuple(tensor.shape), tensor.dtype)
        if live:
            self.live.add(number)
        return number

    def _new(self, tensor: Tensor, *, live: bool, key: Tensor | None = None) -> int:
        key = tensor if key is None else key
        if tensor.is_sparse or tensor.is_quantized or tensor.device.type != "cpu":
            raise UncapturableError(
                f"it uses a tensor on {tensor.device} of layout {tensor.layout}"
            )
        number = self._number(tensor, live)
        memory = self.memories.setdefault(_storage(tensor), _Memory(number, key))
        self.tensors[id(key)] = (key, number, memory.version)
        return number


class _BatchMattersError(Exception):
    """Two batches give programs that differ in more than sizes."""


class _Merge:
    """Two recordings of one function as a program for every batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def programs(self, one: Program, two: Program) -> Program:
        if (
            len(one.ops) != len(two.ops)
            or (one.inputs, one.outputs) != (two.inputs, two.outputs)
            or one.constants.keys() != two.constants.keys()
            or one.values.keys() != two.values.keys()
        ):
            raise _BatchMattersError
        for number, constant in one.constants.items():
            other = two.constants[number]
            if constant is not other and not torch.equal(constant, other):
                raise _BatchMattersError
        ops = tuple(self.argument(a, b) for a, b in zip(one.ops, two.ops, strict=True))
        values = {
            number: Value(self.argument(value.shape, two.values[number].shape), value.dtype)
            for number, value in one.values.items()
        }
        return Program(ops, values, one.constants, one.inputs, one.outputs, self.batch)

    def argument(self, one: Any, two: Any) -> Any:
        if type(one) is not type(two):
            raise _BatchMattersError
        if isinstance(one, Torch):
            if (one.target, one.writes) != (two.target, two.writes):
                raise _BatchMattersError
            return Torch(
                one.target,
                self.argument(one.args, two.args),
                self.argument(one.kwargs, two.kwargs),
                one.writes,
            )
        if isinstance(one, tuple):
            if len(one) != len(two):
                raise _BatchMattersError
            return tuple(self.argument(a, b) for a, b in zip(one, two, strict=True))
        if one == two or one is two or (one != one and two != two):
            return one
        if type(one) is int:
            return self.size(one, two)
        raise _BatchMattersError

    def size(self, one: int, two: int) -> Size:
        per = two - one
        return PerExample(per, one - per * self.batch)


def _check_merged(merged: Program, recorded: Program, batch: int) -> None:
    """Raise if a program for every batch is not what was recorded for one."""
    for op, seen in zip(merged.ops, recorded.ops, strict=True):
        if not isinstance(op, Torch) or not isinstance(seen, Torch):
            raise _BatchMattersError
        same = op.target == seen.target and op.writes == seen.writes
        if not same or at((op.args, op.kwargs), batch) != (seen.args, seen.kwargs):
            raise _BatchMattersError
    for number, value in merged.values.items():
        if at(value.shape, batch) != recorded.values[number].shape:
            raise _BatchMattersError


def _name(func: Any) -> str:
    namespace, name = func._schema.name.split("::")
    return f"{namespace}.{name}.{func._overloadname}"


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _flat(result: Any) -> Any:
    if isinstance(result, tuple | list):
        for part in result:
            yield from _flat(part)
    else:
        yield result


def _shape_depends_on_values(func: Any, args: Any) -> bool:
    tags = func.tags
    if torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags:
        indices = args[1] if func is torch.ops.aten.index.Tensor else None
        return indices is None or any(i is not None and i.dtype == torch.bool for i in indices)
    return False


def _idle_dropout(func: Any, args: Any) -> bool:
    """A dropout that drops nothing is marked as random all the same."""
    name = func._schema.name
    return "dropout" in name and len(args) > 2 and not (args[2] and args[1])
