"""Merge recordings of one function at several batch sizes into one program for every batch size."""

from typing import Any

import torch
from torch import Tensor

from boxwood._internal.engine.program import Batch, LinearSize, Program, TorchOp, Value, sizes_at


class OtherProgramError(Exception):
    """Two passes give programs that differ in more than sizes."""


def differ(one: Program, two: Program) -> bool:
    """Say whether two recordings of the same batch differ."""
    try:
        check_merged(one, two, 0)
    except OtherProgramError:
        return True
    return False


def merge_recordings(one: Program, two: Program, batch: int) -> Program:
    """Return the program of every batch, from one recording and another with one example more.

    Args:
        one: recorded at the batch.
        two: recorded with one example more.
        batch: the number of examples of the first.

    Raises:
        OtherProgramError: they differ in more than sizes.
    """
    check_same_constants(one, two)
    ops = tuple(_merged(a, b, batch) for a, b in zip(one.ops, two.ops, strict=True))
    values = {
        number: Value(_merged(value.shape, two.values[number].shape, batch), value.dtype)
        for number, value in one.values.items()
    }
    return Program(ops, values, one.constants, one.inputs, one.outputs, batch)


def _merged(one: Any, two: Any, batch: int) -> Any:
    """Return an argument whose sizes are linear in the batch."""
    if type(one) is not type(two):
        raise OtherProgramError("operations take other arguments")
    if isinstance(one, TorchOp):
        if (one.target, one.writes) != (two.target, two.writes):
            raise OtherProgramError(f"{one.name} is {two.name} at another batch")
        args, kwargs = _merged((one.args, one.kwargs), (two.args, two.kwargs), batch)
        return TorchOp(one.target, args, kwargs, one.writes)
    if isinstance(one, tuple):
        if len(one) != len(two):
            raise OtherProgramError("operations take more or fewer arguments")
        return tuple(_merged(a, b, batch) for a, b in zip(one, two, strict=True))
    if one == two or one is two or (one != one and two != two):
        return one
    if type(one) is int:
        per = two - one
        return LinearSize(per, one - per * batch)
    raise OtherProgramError(f"an argument is {one!r} and then {two!r}")


def check_same_constants(one: Program, two: Program) -> None:
    """Raise if two recordings have other values, or constants of other values.

    Raises:
        OtherProgramError: they do.
    """
    if (
        len(one.ops) != len(two.ops)
        or (one.inputs, one.outputs) != (two.inputs, two.outputs)
        or one.constants.keys() != two.constants.keys()
        or one.values.keys() != two.values.keys()
    ):
        raise OtherProgramError("there are more or fewer operations")
    for number, constant in one.constants.items():
        other = two.constants[number]
        if not _same_memory(constant, other) and not _same_bits(constant, other):
            raise OtherProgramError("a tensor that no input reaches is another one")


def _same_memory(one: Tensor, two: Tensor) -> bool:
    """Say whether two tensors share memory, without reading it; writing to weights is refused."""
    layouts = [(each.data_ptr(), each.shape, each.stride(), each.dtype) for each in (one, two)]
    return layouts[0] == layouts[1]


def _same_bits(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    return torch.equal(one, two) or bool(
        torch.isclose(one, two, rtol=0, atol=0, equal_nan=True).all()
    )


def check_merged(merged: Program, recorded: Program, batch: int) -> None:
    """Raise if a program for every batch is not what was recorded for one.

    Raises:
        OtherProgramError: it is not.
    """
    check_same_constants(merged, recorded)
    check_arguments(merged, recorded, batch)
    for number, value in merged.values.items():
        other = recorded.values[number]
        if sizes_at(value.shape, batch) != other.shape or value.dtype != other.dtype:
            raise OtherProgramError("a tensor has sizes off the line")


def check_arguments(merged: Program, recorded: Program, batch: Batch) -> None:
    """Raise if operators take other arguments in a recording.

    Raises:
        OtherProgramError: they do.
    """
    for op, seen in zip(merged.ops, recorded.ops, strict=True):
        if not isinstance(op, TorchOp) or not isinstance(seen, TorchOp):
            raise OtherProgramError("operations that are not torch's")
        same = op.target == seen.target and op.writes == seen.writes
        if not same or not _same_arguments(
            sizes_at((op.args, op.kwargs), batch), (seen.args, seen.kwargs)
        ):
            what = "other arguments" if same else f"the place of {seen.name}"
            raise OtherProgramError(f"{op.name} takes {what}")


def _same_arguments(one: Any, two: Any) -> bool:
    if isinstance(one, tuple) and isinstance(two, tuple):
        return len(one) == len(two) and all(map(_same_arguments, one, two))
    return type(one) is type(two) and (one is two or one == two or (one != one and two != two))
