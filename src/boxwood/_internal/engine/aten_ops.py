"""Torch operators by name: found, checked and run."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.engine.program import (
    Batch,
    Program,
    TorchOp,
    ValueRef,
    is_fixed,
    leaves_of,
    sizes_at,
)
from boxwood.errors import InvalidInput

_NAMESPACES = ("aten", "torchvision")


@cache
def operator(target: str) -> Any:
    """Return the torch operator of a qualified name.

    A program may come from a file, so only functional operators of tensors are found.

    Raises:
        InvalidInput: no such operator, or one that writes into its arguments or reads files.

    Example:
        >>> operator("aten.relu.default")(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    namespace, _, rest = target.partition(".")
    name, _, overload = rest.partition(".")
    found = None
    if namespace in _NAMESPACES:
        packet = getattr(getattr(torch.ops, namespace), name, None)
        found = getattr(packet, overload, None)
    if not isinstance(found, torch._ops.OpOverload):
        raise InvalidInput(
            f"Expected the name of a torch operator, got {target!r}; use the torch version (and "
            f"torchvision, if it is one of its operators) that the program was compiled with."
        )
    reads_files = any(a.name in ("filename", "file_name") for a in found._schema.arguments)
    if found._schema.is_mutable or reads_files:
        raise InvalidInput(
            f"Expected an operator that leaves its arguments alone, got {target!r}; compile the "
            f"model again, and do not trust the file."
        )
    return found


def run_operator(op: TorchOp, tensors: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
    """Run one operator whose arguments are the same for every batch."""
    result = operator(op.target)(
        *_filled(op.args, tensors), **{name: _filled(part, tensors) for name, part in op.kwargs}
    )
    return tuple(tensors_of(result))


def tensors_of(result: Any) -> list[Tensor]:
    """Return the tensors of an operator's result in order."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in tensors_of(part)]


def is_constant(op: TorchOp, program: Program) -> bool:
    """Say whether an operator gives the same tensors in every call with every batch."""
    return depends_on_batch_alone(op, program.constants.keys()) and is_fixed((op.args, op.kwargs))


def depends_on_batch_alone(op: TorchOp, known: Any) -> bool:
    """Say whether an operator gives the same tensors in every call with one batch."""
    return not is_random(op.target) and all(value in known for value in op.reads)


@cache
def is_random(target: str) -> bool:
    """Say whether an operator draws random numbers."""
    return torch.Tag.nondeterministic_seeded in operator(target).tags


def generators(program: Program) -> set[torch.Generator]:
    """Return the generators that a program's operators draw from, except torch's default one."""
    calls = [(op.args, op.kwargs) for op in program.ops if isinstance(op, TorchOp)]
    return {leaf for call in calls for leaf in leaves_of(call) if isinstance(leaf, torch.Generator)}


def constants_at(program: Program, batch: Batch) -> dict[int, Tensor]:
    """Return a program's constants, and what its operators make of them and of sizes alone."""
    found = dict(program.constants)
    with torch.no_grad():
        for op in program.ops:
            if isinstance(op, TorchOp) and depends_on_batch_alone(op, found):
                found.update(zip(op.writes, run_operator(at_batch(op, batch), found), strict=True))
    return found


_VIEWS = frozenset(
    ("reshape", "flatten", "unflatten", "contiguous", "chunk", "split", "movedim", "swapaxes",
     "swapdims", "narrow")
)  # fmt: skip


@cache
def is_view(target: str) -> bool:
    """Say whether an operator's result is a view of its first argument.

    Some of these copy where strides leave no other choice; the values are the same.
    """
    schema = operator(target)._schema
    looks = bool(schema.returns) and all(result.alias_info for result in schema.returns)
    return (looks or target.split(".")[1] in _VIEWS) and not target.endswith(".dtype")


def at_batch(op: TorchOp, batch: Batch) -> TorchOp:
    """Return an operator with its sizes worked out for one batch."""
    return TorchOp(op.target, sizes_at(op.args, batch), sizes_at(op.kwargs, batch), op.writes)


@cache
def may_alias(target: str) -> bool:
    """Say whether an operator's result may share memory with its arguments.

    Operators that are composed of others do not say so; they count as those that may.
    """
    found = operator(target)
    composed = torch._C._dispatch_has_kernel_for_dispatch_key(
        found.name(), "CompositeImplicitAutograd"
    )
    return composed or any(result.alias_info for result in found._schema.returns)


def _filled(argument: Any, tensors: Mapping[int, Tensor]) -> Any:
    if type(argument) is ValueRef:
        return tensors[argument.value]
    if type(argument) is tuple:
        return [_filled(part, tensors) for part in argument]
    return argument
