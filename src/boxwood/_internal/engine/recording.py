"""Record every operator call of one forward pass.

The pass runs on real tensors. Autograd's layer is left out, so that torch hands over its operators
whole (``conv2d``, ``linear``, ``lstm`` …) and what the pass leaves are ordinary tensors.
Writes in place become new values; whoever else looks at the same memory is derived from them again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from boxwood._internal.engine.program import Program, TorchOp, Value, ValueRef
from boxwood._internal.engine.tracked_sizes import SizeTracker
from boxwood._internal.engine.zero_results import zeros_of


class UncapturableError(Exception):
    """A forward pass that is not the same list of operations for every input."""


def recorded_operations(
    function: Callable[..., Sequence[Tensor]],
    inputs: Callable[[], Sequence[Tensor]],
    tracker: SizeTracker | None = None,
) -> Program:
    """Run a function and return what it did, if possible without computing most of it.

    Linear layers and pointwise operators give zeros of the right shape. The operations are the
    same, because a pass that reads a value which depends on its inputs is refused. Where an operator
    accepts no zeros, such as the Cholesky factor of a matrix, the function runs again and all is
    computed.

    Args:
        function: takes the inputs, returns tensors.
        inputs: makes tensors that nobody else needs.
        tracker: notes what Python code does with sizes.

    Raises:
        UncapturableError: the pass depends on the inputs' values, or changes tensors that outlive it.
    """
    try:
        return _record(function, inputs(), tracker, values=False)
    except UncapturableError:
        raise
    except Exception:  # noqa: BLE001 - zeros may be the reason
        return _record(function, inputs(), tracker, values=True)


def _record(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    tracker: SizeTracker | None,
    *,
    values: bool,
) -> Program:
    with torch.no_grad(), torch._C._AutoDispatchBelowAutograd(), whole_operators():
        recorder = _Recorder(inputs, values=values)
        with _Watching(recorder, tracker), recorder:
            outputs = tuple(function(*inputs))
        return recorder.program(outputs)


@contextmanager
def whole_operators() -> Iterator[None]:
    """Have transformers call linear layers and attention, not one opaque operator for all."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def as_if_compiling() -> Iterator[None]:
    """Have code that asks ``torch.compiler.is_compiling()`` take the path without looking at values."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


class _Watching(TorchFunctionMode):
    """Notice values and sizes that leave torch without an operator call."""

    _leaving = frozenset(
        (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.data_ptr, Tensor.__deepcopy__,
         Tensor.__reduce_ex__, Tensor.__dlpack__, Tensor.storage, Tensor.untyped_storage)
    )  # fmt: skip

    def __init__(self, recorder: "_Recorder", tracker: SizeTracker | None) -> None:
        self.recorder, self.tracker = recorder, tracker

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func in self._leaving and self.recorder.depends(args[0]):
            raise UncapturableError(f"the Python code reads values that {func.__name__} gives")
        result = func(*args, **(kwargs or {}))
        if self.tracker is None or not args:
            return result
        number = self.recorder.number_of(args[0])
        return result if number is None else self.tracker.read(func, number, result, args, kwargs)


@dataclass
class _Memory:
    """A storage that values share: the value that covers it, and the number of writes."""

    root: int
    root_tensor: Tensor
    version: int = 0


class _Recorder(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Decline a wrapper that torch adds for code within ``torch.compile``: it takes a second to import."""
        return False

    def __init__(self, inputs: Sequence[Tensor], *, values: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.with_values = values
        self.ops: list[TorchOp] = []
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

    def number_of(self, tensor: Any) -> int | None:
        """Return the number of a tensor that this pass knows."""
        found = self.tensors.get(id(tensor))
        return None if found is None else found[1]

    def depends(self, tensor: Any) -> bool:
        """Say whether a tensor depends on an input or on chance."""
        return self.number_of(tensor) in self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        given, named = self._argument(args), self._argument(kwargs)
        op = TorchOp(_name(func), given, tuple(named), ())
        live = any(value in self.live for value in op.reads)
        if live and _shape_depends_on_values(func, args):
            raise UncapturableError(f"the values of the input decide what {op.name} gives")
        if op.name in ("batch_norm", "instance_norm") and args[3] is not None and args[5]:
            raise UncapturableError(f"{op.name} updates statistics that outlive the forward pass")
        known = None if self.with_values or not live else zeros_of(func, args)
        result = func(*args, **kwargs) if known is None else known
        if torch.Tag.nondeterministic_seeded in func.tags and not _idle_dropout(func, args):
            live = True
        if func._schema.is_mutable:
            self._write(func, op, args, kwargs, result, live)
            return result
        if func is torch.ops.aten.lift_fresh.default:
            result = result.clone()  # a literal is new in each pass, and may be written
        if func is torch.ops.aten.as_strided.default and live:
            self._from_memory(result)
            return result
        tensors = [leaf for leaf in _flat(result) if isinstance(leaf, Tensor)]
        if len(tensors) < len(list(_flat(result))):
            if live:
                raise UncapturableError(f"the Python code reads the result of {op.name}")
            return result
        if all(id(tensor) in self.tensors for tensor in tensors):
            if len(tensors) == 1 and args and tensors[0] is args[0]:
                self._again(op, tensors[0], live)
            return result
        if op.target == "aten.contiguous.default" and op.reads[0] not in self.constants:
            # Where there is nothing to copy, torch does not even call it: a copy has the same values.
            self._same(tensors[0], op.reads[0])
            return result
        writes = tuple(self._new(tensor, live=live) for tensor in tensors)
        self.ops.append(TorchOp(op.target, op.args, op.kwargs, writes))
        return result

    def _same(self, tensor: Tensor, number: int) -> None:
        """Note a tensor of its own memory that holds a value that is known."""
        memory = self.memories.setdefault(_storage(tensor), _Memory(number, tensor))
        self.tensors[id(tensor)] = (tensor, number, memory.version)

    def _again(self, op: TorchOp, tensor: Tensor, live: bool) -> None:
        """Record an operator that gave back what it was given; at other sizes it may copy."""
        _, number, version = self.tensors[id(tensor)]
        if version == self._memory(tensor).version and number not in self.constants:
            new = self._number(tensor, live)
            self.ops.append(TorchOp(op.target, op.args, op.kwargs, (new,)))
            self.tensors[id(tensor)] = (tensor, new, version)

    def _write(
        self, func: Any, op: TorchOp, args: Any, kwargs: Any, result: Any, live: bool
    ) -> None:
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
        self.ops.append(TorchOp(_name(functional), op.args, op.kwargs, (new,)))
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
            TorchOp(
                "aten.as_strided_scatter.default",
                (ValueRef(plain), ValueRef(new), *layout),
                (),
                (number,),
            )
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
        self.ops.append(TorchOp("aten.contiguous.default", (ValueRef(permuted),), (), (number,)))
        return number, order

    def _permuted(self, value: int, shown: Tensor, order: tuple[int, ...], live: bool) -> int:
        """Record a permutation, unless it changes nothing."""
        if order == tuple(range(shown.ndim)):
            return value
        number = self._number(shown.permute(order), live)
        self.ops.append(TorchOp("aten.permute.default", (ValueRef(value), order), (), (number,)))
        return number

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return ValueRef(self._value_of(argument))
        if isinstance(argument, tuple | list | torch.Size):
            return tuple(self._argument(part) for part in argument)
        if isinstance(argument, dict):
            return tuple((name, self._argument(part)) for name, part in argument.items())
        return argument

    def _value_of(self, tensor: Tensor) -> int:
        found = self.tensors.get(id(tensor))
        if found is None:
            check_tensor(tensor)
            memory = self.memories.get(_storage(tensor))
            if memory is not None and memory.root in self.live:
                raise UncapturableError("it looks at what it computed through another tensor")
            number = self._new(tensor.detach(), live=False, key=tensor)
            self.constants[number] = tensor.detach()
            return number
        _, number, version = found
        return number if version == self._memory(tensor).version else self._from_memory(tensor)

    def _from_memory(self, tensor: Tensor) -> int:
        """Record a tensor as entries of the memory that it looks at, as that lay in this pass."""
        memory = self._memory(tensor)
        root = memory.root_tensor
        plain, _ = self._in_memory_order(memory, tensor)
        number = self._number(tensor, memory.root in self.live)
        layout = (
            tuple(tensor.shape), tensor.stride(), tensor.storage_offset() - root.storage_offset()
        )  # fmt: skip
        self.ops.append(
            TorchOp("aten.as_strided.default", (ValueRef(plain), *layout), (), (number,))
        )
        self.tensors[id(tensor)] = (tensor, number, memory.version)
        return number

    def _memory(self, tensor: Tensor) -> _Memory:
        return self.memories[_storage(tensor)]

    def _number(self, tensor: Tensor, live: bool) -> int:
        number = len(self.values)
        self.values[number] = Value(tuple(tensor.shape), tensor.dtype)
        if live:
            self.live.add(number)
        return number

    def _new(self, tensor: Tensor, *, live: bool, key: Tensor | None = None) -> int:
        key = tensor if key is None else key
        check_tensor(tensor)
        number = self._number(tensor, live)
        memory = self.memories.setdefault(_storage(tensor), _Memory(number, key))
        self.tensors[id(key)] = (key, number, memory.version)
        return number


def check_tensor(tensor: Tensor) -> None:
    """Raise for tensors that programs do not hold.

    Raises:
        UncapturableError: it is sparse, quantised, nested or not on the CPU.
    """
    plain = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_nested)
    if not plain or tensor.device.type != "cpu":
        raise UncapturableError(f"it uses a tensor on {tensor.device} of layout {tensor.layout}")


def _name(func: Any) -> str:
    """Return an operator's name; reshape instead of view, because copies are not recorded."""
    namespace, name = func._schema.name.split("::")
    found = f"{namespace}.{name}.{func._overloadname}"
    return _RESHAPE if found in ("aten.view.default", "aten._unsafe_view.default") else found


_RESHAPE = "aten.reshape.default"


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
