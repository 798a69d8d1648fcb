"""Merge recordings at several input sizes into one program for all of them.

The function is recorded at each corner: at the example's sizes, and with each choice of them moved
to the next value. Arguments of operators that differ are sums of products of sizes. They have to
hold at the ends of all ranges too. For each size by itself, one more recording follows it through
the Python code (`tracked_sizes`), which gives the conditions that the code sets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.engine.dynamic_sizes import (
    DynamicRange,
    DynamicSize,
    SeenSize,
    Sizes,
    corners,
    fitted,
)
from boxwood._internal.engine.merge_recordings import (
    OtherProgramError,
    check_arguments,
    check_same_constants,
)
from boxwood._internal.engine.program import (
    LinearSize,
    Program,
    TorchOp,
    ValidBatches,
    Value,
    sizes_at,
)
from boxwood._internal.engine.recording import recorded_operations
from boxwood._internal.engine.tracked_sizes import SizeTracker
from boxwood.errors import InvalidInput

TensorFunction = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class DynamicCapture:
    """Makes a program for all sizes out of one for the example's.

    Args:
        ranges: sizes that calls may choose.
    """

    ranges: tuple[DynamicRange, ...]

    def __call__(
        self,
        function: TensorFunction,
        inputs: Sequence[Tensor],
        program: Program,
        metadata: Callable[[], object],
    ) -> Program:
        """Record a function at other sizes, and return the program for all of them.

        Raises:
            InvalidInput: it does something else at some of these sizes.
        """
        said = metadata()

        def recorded(sizes: Sizes, tracker: SizeTracker | None = None) -> Program:
            where = _written(self.ranges, sizes)
            try:
                found = recorded_operations(
                    function, lambda: resized(inputs, self.ranges, sizes), tracker
                )
            except Exception as error:
                raise _other(where, f"it cannot be recorded ({_first_line(error)})") from error
            if metadata() != said:
                raise _other(where, "what it returns other than tensors is something else")
            return found

        points = corners(self.ranges)
        seen = [program, *map(recorded, points[1:])]
        try:
            merged = self._merged(seen, points)
        except OtherProgramError as error:
            raise _other(_written(self.ranges, points[-1]), str(error)) from error
        known = dict(zip(points, seen, strict=True))
        for end in self._ends():
            if end not in known:
                known[end] = recorded(end)
            try:
                _check(merged, known[end], end)
            except OtherProgramError as error:
                raise _other(_written(self.ranges, end), str(error)) from error
        limits = tuple(self._limit(index, merged, recorded) for index in range(len(self.ranges)))
        return replace(_with_seen(merged, known), limits=limits)

    def _ends(self) -> list[Sizes]:
        return [
            tuple(each.low for each in self.ranges),
            tuple(each.high for each in self.ranges),
        ]

    def _merged(self, seen: Sequence[Program], points: Sequence[Sizes]) -> Program:
        for other in seen[1:]:
            check_same_constants(seen[0], other)
        seen = [_as_elsewhere(each, seen) for each in seen]
        first = seen[0]
        ops = tuple(
            _merged_op(together, points)
            for together in zip(*(each.ops for each in seen), strict=True)
        )
        values = {
            number: replace(
                value, shape=_merged([each.values[number].shape for each in seen], points)
            )
            for number, value in first.values.items()
        }
        return replace(first, ops=ops, values=values, batch=None, ranges=self.ranges)

    def _limit(self, index: int, merged: Program, recorded: Callable[..., Program]) -> ValidBatches:
        """Follow one size through the code, while the others stay the example's."""
        example = [each.example for each in self.ranges]
        mine = self.ranges[index]
        now = mine.low if mine.low not in (example[index], 1) else mine.high
        if now == example[index]:
            now = mine.another

        def line(size: Any) -> Any:
            if not isinstance(size, DynamicSize):
                return size
            counts = (mine.count(mine.example), mine.count(mine.another))
            seen = (
                size.at((*example[:index], at, *example[index + 1 :]))
                for at in (mine.example, mine.another)
            )
            return _line(counts, tuple(seen))

        values = {
            number: Value(tuple(map(line, value.shape)), value.dtype)
            for number, value in merged.values.items()
        }
        tracker = SizeTracker(values, mine.count(mine.example), mine.count(now))
        try:
            sizes = (*example[:index], now, *example[index + 1 :])
            _check(merged, recorded(sizes, tracker), sizes)
        except OtherProgramError as error:
            raise _other(f"{mine.name} = {now}", str(error)) from error
        finally:
            tracker.tracking = False
        if tracker.lost:
            raise _other(
                f"{mine.name} at some size",
                f"it uses {', '.join(tracker.lost)} of a size, which cannot be followed; write "
                f"x.shape[1] and whole numbers",
            )
        seen: Sizes = (mine.example, now)
        if len(self.ranges) == 1:  # others may be at any size then
            seen = (*seen, mine.another, mine.low, mine.high)
        return ValidBatches(tuple(sorted(set(map(mine.count, seen)))), tracker.conditions)


def _line(at: tuple[int, ...], seen: tuple[int, ...]) -> int | LinearSize:
    """Return the line through two points."""
    per = (seen[1] - seen[0]) // (at[1] - at[0])
    return LinearSize(per, seen[0] - per * at[0]) if per else seen[0]


def resized(inputs: Sequence[Tensor], ranges: Sequence[DynamicRange], sizes: Sizes) -> list[Tensor]:
    """Return tensors whose axes have other sizes: entries are left out at the end, or repeated."""
    found = {id(tensor): tensor.detach().clone() for tensor in inputs}
    for each, size in zip(ranges, sizes, strict=True):
        for number, axis in each.places:
            tensor = found[id(inputs[number])]
            if tensor.shape[axis] != size:
                which = torch.arange(size) % tensor.shape[axis]
                found[id(inputs[number])] = tensor.index_select(axis, which)
    return [found[id(tensor)] for tensor in inputs]


def _merged_op(together: Sequence[Any], points: Sequence[Sizes]) -> TorchOp:
    first = together[0]
    for other in together[1:]:
        if (first.target, first.writes) != (other.target, other.writes):
            raise OtherProgramError(f"{first.name} is {other.name}")
    try:
        args, kwargs = _merged([(each.args, each.kwargs) for each in together], points)
    except OtherProgramError as error:
        raise OtherProgramError(f"{first.name} takes {error}") from error
    return TorchOp(first.target, args, kwargs, first.writes)


def _merged(parts: Sequence[Any], points: Sequence[Sizes]) -> Any:
    first = parts[0]
    if any(type(part) is not type(first) for part in parts):
        raise OtherProgramError("other arguments")
    if isinstance(first, tuple):
        if len({len(part) for part in parts}) > 1:
            raise OtherProgramError("more or fewer arguments")
        return tuple(_merged(each, points) for each in zip(*parts, strict=True))
    if all(part == first or part is first or (part != part and first != first) for part in parts):
        return first
    if type(first) is int:
        return fitted(points, parts)
    listed = " and then ".join(dict.fromkeys(map(repr, parts)))
    raise OtherProgramError(f"{listed}, which no whole number of a size gives")


def _check(merged: Program, recorded: Program, sizes: Sizes) -> None:
    """Raise if operators take something else at these sizes; shapes follow from what they take."""
    check_same_constants(merged, recorded)
    check_arguments(merged, _as_elsewhere(recorded, [merged]), sizes)


def _as_elsewhere(program: Program, others: Sequence[Program]) -> Program:
    """Return a recording with operators as elsewhere, where that makes no difference at its sizes.

    A slice that leaves nothing out is recorded as its source, and attention of one token to itself
    need not be causal.
    """
    ops = list(program.ops)
    for index, op in enumerate(ops):
        for other in others:
            like = other.ops[index]
            if not isinstance(op, TorchOp) or not isinstance(like, TorchOp):
                continue
            if (op.target, like.target) == (_WHOLE, _SLICE) and len(like.args) == 4:
                axis = like.args[1]
                args = (*op.args, axis, 0, program.values[op.reads[0]].shape[axis])
                ops[index] = op = TorchOp(_SLICE, args, (), op.writes)
            if op.target == like.target == _ATTENTION and len(like.args) == 6:
                alone = all(program.values[number].shape[-2] == 1 for number in op.reads[:3])
                if alone and all(part in (None, 0.0) for part in op.args[3:5]):
                    ops[index] = op = replace(op, args=(*op.args[:3], None, 0.0, like.args[5]))
    return replace(program, ops=tuple(ops))


_WHOLE, _SLICE = "aten.alias.default", "aten.slice.Tensor"
_ATTENTION = "aten.scaled_dot_product_attention.default"


def _with_seen(merged: Program, known: dict[Sizes, Program]) -> Program:
    """Return the program with sizes of values that are no sums of products as what was seen."""

    def sized(number: int, axis: int, size: Any) -> Any:
        seen: list[tuple[Sizes, Any]] = [
            (at, each.values[number].shape[axis]) for at, each in known.items()
        ]
        if all(sizes_at(size, at) == now for at, now in seen):
            return size
        return SeenSize(tuple(seen))

    values = {
        number: replace(
            value,
            shape=tuple(sized(number, axis, size) for axis, size in enumerate(value.shape)),
        )
        for number, value in merged.values.items()
    }
    return replace(merged, values=values)


def _written(ranges: Sequence[DynamicRange], sizes: Sizes) -> str:
    return ", ".join(f"{each.name} = {size}" for each, size in zip(ranges, sizes, strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _other(where: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"Expected a network that does the same at all sizes in dynamic, got a difference at "
        f"{where}: "
        f"{why}; give a range without that size, or steps that it keeps to, or compile it for one "
        f"size."
    )
