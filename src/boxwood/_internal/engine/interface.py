"""Flatten a network's arguments into a list of tensors, and restore its output from such a list."""

import enum
import inspect
import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from boxwood._internal.engine.dynamic_sizes import DynamicRange, Sizes
from boxwood._internal.engine.placement import Shape
from boxwood._internal.engine.program import Batch, Program, Value, sizes_at
from boxwood._internal.engine.recording import UncapturableError
from boxwood.errors import InvalidInput

Parameters = tuple[tuple[str, int], ...]  # name and inspect's kind


@dataclass(frozen=True)
class Interface:
    """The shape of a network's calls, learnt from one of them.

    Args:
        parameters: names and kinds of what ``forward`` takes.
        argument_nesting: the arguments' nesting, as torch writes it down.
        fixed_arguments: the leaves that are not tensors, by position; every call has to repeat them.
        output_nesting: the output's nesting.
        plain_outputs: the output's leaves that are not tensors, by position.
        same_as: for each tensor of a call, the first one that is the same object.
    """

    parameters: Parameters
    argument_nesting: pytree.TreeSpec
    fixed_arguments: tuple[tuple[int, Any], ...]
    output_nesting: pytree.TreeSpec
    plain_outputs: tuple[tuple[int, Any], ...]
    same_as: tuple[int, ...]

    def tensors(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Return the tensors of a call.

        Raises:
            InvalidInput: the call has other arguments than the example had.
        """
        if (
            not kwargs
            and len(args) == self._positional_count
            and all(type(each) is Tensor for each in args)
        ):
            return list(args)  # the same as below, which a small network would take longer for
        leaves, argument_nesting = pytree.tree_flatten(_bound(self.parameters, args, kwargs))
        if argument_nesting != self.argument_nesting:
            raise InvalidInput(
                f"Expected arguments like the example's ({_sketch(self.argument_nesting)}), got "
                f"{_sketch(argument_nesting)}; call it as the example was, or compile it with such an example."
            )
        for position, value in self.fixed_arguments:
            if not _is_same(leaves[position], value):
                raise InvalidInput(
                    f"Expected the argument {value!r} of the example, got {leaves[position]!r}; "
                    f"only tensors may change between calls: compile the model again with that "
                    f"argument."
                )
        skip = {position for position, _ in self.fixed_arguments}
        found = [leaf for position, leaf in enumerate(leaves) if position not in skip]
        for leaf in found:
            if not isinstance(leaf, Tensor):
                raise InvalidInput(
                    f"Expected a tensor, got {type(leaf).__name__}; give what the example gave."
                )
        for index, first in enumerate(self.same_as):
            if found[index] is not found[first]:
                raise InvalidInput(
                    f"Expected tensors {first} and {index} of the call to be the same tensor, "
                    f"as in the example, got two; compile the model with two tensors."
                )
        return found

    def output(self, tensors: Sequence[Tensor]) -> Any:
        """Return tensors in the nesting of the network's output."""
        if not self.plain_outputs and self.output_nesting.is_leaf():
            return tensors[0]
        leaves: list[Any] = list(tensors)
        for position, value in self.plain_outputs:
            leaves.insert(position, value)
        return pytree.tree_unflatten(leaves, self.output_nesting)

    @cached_property
    def _positional_count(self) -> int:
        """The number of different positional tensors that are a whole call; -1 for other calls."""
        count = len(self.same_as)
        first = self.parameters[:count]
        nothing_else = (
            not self.fixed_arguments
            and self.same_as == tuple(range(count))
            and all(kind in _BY_POSITION for _, kind in first)
            and pytree.tree_structure({name: 0 for name, _ in first}) == self.argument_nesting
        )
        return count if nothing_else else -1


def learn_interface(
    model: nn.Module, example: Any
) -> tuple[list[Tensor], Callable[..., list[Tensor]], Callable[[], Interface]]:
    """Return an example's tensors, the model as a function of them, and how to get its interface.

    Args:
        model: any module.
        example: a tensor, a tuple of positional arguments, or a mapping of named ones.

    The interface is known once the function has run.
    """
    args, kwargs = arguments_of(example)
    parameters = _parameters(model)
    leaves, argument_nesting = pytree.tree_flatten(_bound(parameters, args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    fixed_arguments = tuple(
        (i, leaf) for i, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)
    )
    for _, leaf in fixed_arguments:
        _check_plain(leaf, "takes")
    same_as = tuple(next(i for i, each in enumerate(tensors) if each is one) for one in tensors)
    outcome: list[Any] = []

    def function(*inputs: Tensor) -> list[Tensor]:
        filled: list[Any] = list(inputs)
        for position, value in fixed_arguments:
            filled.insert(position, value)
        bound = inspect.BoundArguments(
            _signature(parameters), pytree.tree_unflatten(filled, argument_nesting)
        )
        found, output_nesting = pytree.tree_flatten(model(*bound.args, **bound.kwargs))
        plain_outputs = tuple(
            (i, leaf) for i, leaf in enumerate(found) if not isinstance(leaf, Tensor)
        )
        for _, leaf in plain_outputs:
            _check_plain(leaf, "returns")
        outcome[:] = [output_nesting, plain_outputs]
        return [leaf for leaf in found if isinstance(leaf, Tensor)]

    def interface() -> Interface:
        return Interface(
            parameters, argument_nesting, fixed_arguments, outcome[0], outcome[1], same_as
        )

    return tensors, function, interface


def arguments_of(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call by position and by name.

    Args:
        example: a tensor, a tuple of positional arguments, or a mapping of named ones.
    """
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise InvalidInput(
        f"Expected a tensor, a tuple of arguments or a mapping of named ones as the example, "
        f"got {type(example).__name__}; give what the model is called with."
    )


def named_tensors(model: nn.Module, example: Any) -> dict[str, tuple[int, Shape]]:
    """Return the number and the shape of each argument of an example that is a tensor, by name."""
    bound = _bound(_parameters(model), *arguments_of(example))
    found, count = {}, 0
    for name, argument in bound.items():
        if isinstance(argument, Tensor):
            found[name] = (count, tuple(argument.shape))
        count += sum(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(argument))
    return found


def check_inputs(program: Program, inputs: Sequence[Tensor]) -> Batch:
    """Return the sizes of a call that the program's sizes follow: its batch, or those in its ranges.

    Raises:
        InvalidInput: a tensor has another dtype, shape or device than the program takes.
    """
    batch = _chosen(program, inputs) if program.ranges else program.batch or 0
    for index, (tensor, number) in enumerate(zip(inputs, program.inputs, strict=True)):
        name = f"tensor {index} of the call"
        value = program.values[number]
        if tensor.layout is not torch.strided or tensor.is_nested:
            raise InvalidInput(
                f"Expected {name} to be dense, got one of layout {tensor.layout}; convert it with "
                f"to_dense(), or compile the model with such an example."
            )
        if tensor.dtype != value.dtype or tensor.device.type != "cpu":
            raise InvalidInput(
                f"Expected {name} to be {value.dtype} on cpu, got {tensor.dtype} on "
                f"{tensor.device}; convert it, or compile the model with such an example."
            )
        if program.batch is not None and number == program.inputs[0] and tensor.ndim:
            batch = tensor.shape[0]
        if tuple(tensor.shape) != sizes_at(value.shape, batch) or (program.batch and batch == 0):
            limit = program.batches.limit if program.batch is None else ""
            raise InvalidInput(
                f"Expected {name} of shape {_shape(program, value)}, got {tuple(tensor.shape)}; "
                f"give that shape, or compile the model with such an example"
                f"{f' ({limit})' if limit else ''}, or with dynamic=, for other sizes of its axes."
            )
    if isinstance(batch, tuple):
        return batch
    against = program.batches.against(batch) if program.batch is not None else ""
    if against:
        raise InvalidInput(
            f"Expected a batch that the network was compiled for, got {batch}: {against}; compile "
            f"it with an example of that batch."
        )
    return batch


def _chosen(program: Program, inputs: Sequence[Tensor]) -> Sizes:
    """Return the sizes that a call chooses, one for each range.

    Raises:
        InvalidInput: one that is out of its range, or at which the network may do something else.
    """
    found = []
    for index, each in enumerate(program.ranges):
        number, axis = each.places[0]
        shape = inputs[number].shape
        size = shape[axis] if axis < len(shape) else each.example  # another rank is refused later
        if not each.allows(size):
            raise InvalidInput(
                f"Expected {each}, got {size}; give a size within, or compile the model with a "
                f"wider range in dynamic."
            )
        against = program.limits[index].against(each.count(size))
        if against:
            raise InvalidInput(
                f"Expected a size at which the network does the same, got {size} as {each.name}: "
                f"{against.replace('batch', _counted(each))}; compile the model with such an example."
            )
        found.append(size)
    return tuple(found)


def _counted(each: DynamicRange) -> str:
    return "it" if each.step == 1 else f"it // {each.step}"


def to_json(interface: Interface) -> dict[str, Any]:
    """Write an interface down.

    Raises:
        InvalidInput: its nesting or its fixed arguments have no form in a file.
    """
    try:
        found = {
            "parameters": interface.parameters,
            "given": pytree.treespec_dumps(interface.argument_nesting),
            "fixed": interface.fixed_arguments,
            "returned": pytree.treespec_dumps(interface.output_nesting),
            "plain": interface.plain_outputs,
            "firsts": interface.same_as,
        }
        json.dumps(found)
    except (NotImplementedError, TypeError) as error:
        raise InvalidInput(
            f"Expected arguments and outputs made of tensors, numbers, strings, tuples, lists and "
            f"dicts, got something else ({error}); wrap the model in one that uses only these."
        ) from error
    return found


def from_json(found: Mapping[str, Any]) -> Interface:
    """Read what `to_json` wrote."""
    return Interface(
        tuple((str(name), int(kind)) for name, kind in found["parameters"]),
        pytree.treespec_loads(found["given"]),
        tuple((position, value) for position, value in found["fixed"]),
        pytree.treespec_loads(found["returned"]),
        tuple((position, value) for position, value in found["plain"]),
        tuple(found["firsts"]),
    )


_PLAIN = (
    type(None), bool, int, float, complex, str, bytes, slice, range, type(...), type, enum.Enum,
    types.FunctionType, types.BuiltinFunctionType,
    torch.dtype, torch.device, torch.layout, torch.memory_format,
)  # fmt: skip


_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _check_plain(leaf: Any, what: str) -> None:
    """Raise for objects that may hold tensors, or that may change without the program's knowledge."""
    if not isinstance(leaf, _PLAIN):
        raise UncapturableError(
            f"it {what} a {type(leaf).__name__}, which may hold tensors that cannot be seen"
        )


def _is_same(one: Any, two: Any) -> bool:
    return type(one) is type(two) and (one == two or (one != one and two != two))


def check_leaves(interface: Interface, program: Program) -> None:
    """Raise if an interface has other inputs or outputs than a program.

    Raises:
        InvalidInput: so it is; the file was not written by `to_json`.
    """
    for spec, others, tensors in (
        (interface.argument_nesting, interface.fixed_arguments, program.inputs),
        (interface.output_nesting, interface.plain_outputs, program.outputs),
    ):
        places = [position for position, _ in others]
        if spec.num_leaves != len(others) + len(tensors) or places != sorted(set(places)):
            raise _no_interface("leaves")
        if any(type(each) is not int or not 0 <= each < spec.num_leaves for each in places):
            raise _no_interface("places")
    _signature(interface.parameters)
    same_as = interface.same_as
    if len(same_as) != len(program.inputs) or any(
        type(first) is not int or not 0 <= first <= index for index, first in enumerate(same_as)
    ):
        raise _no_interface("equal tensors")


def _no_interface(what: str) -> InvalidInput:
    return InvalidInput(
        f"Expected calls and results like the program's, got other {what} in the file; compile "
        f"the model again."
    )


def _parameters(model: nn.Module) -> Parameters:
    found = inspect.signature(model.forward).parameters.values()
    return tuple((parameter.name, int(parameter.kind)) for parameter in found)


def _signature(parameters: Parameters) -> inspect.Signature:
    return inspect.Signature(
        [inspect.Parameter(name, inspect._ParameterKind(kind)) for name, kind in parameters]
    )


def _bound(
    parameters: Parameters, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Name every argument, so that calls by name and by position are the same."""
    try:
        return dict(_signature(parameters).bind_partial(*args, **kwargs).arguments)
    except TypeError as error:
        names = ", ".join(name for name, _ in parameters)
        raise InvalidInput(
            f"Expected arguments for the parameters ({names}), got others ({error}); "
            f"call it as the model is called."
        ) from error


def _sketch(spec: pytree.TreeSpec) -> str:
    return str(pytree.tree_unflatten(["·"] * spec.num_leaves, spec))


def _shape(program: Program, value: Value) -> str:
    sizes = [str(size) if isinstance(size, int) else "batch" for size in value.shape]
    for each in program.ranges:
        for number, axis in each.places:
            if program.values[program.inputs[number]] is value:
                sizes[axis] = f"{each.low} to {each.high}"
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
