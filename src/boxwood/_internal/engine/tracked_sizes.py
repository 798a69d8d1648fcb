"""Sizes that depend on the batch size, tracked through a network's Python code.

A pass at one batch shows one size of each axis. Code that reads sizes may do something else at
another batch: ``if len(x) > 16``, ``min(n, 4)``, ``x.view(n // 2, -1)``. In a pass that is followed,
each size that depends on the batch is an int that knows on which line, ``per · batch + plus``, it
lies. Sums and multiples of sizes are again such ints; comparisons, quotients and products of two
sizes become conditions of the program. What leaves the integers cannot be followed, and is noted.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from boxwood._internal.engine.program import (
    COMPARISONS,
    COMPUTED,
    BatchSize,
    LinearSize,
    Size,
    SizeCondition,
    SizeOperator,
    Value,
    sizes_at,
)


class SizeTracker:
    """Collects how a network's code uses sizes during one pass.

    Args:
        values: the program's, by the numbers that the pass gives its tensors.
        batch: that of the program; lines go through it and the next one.
        now: that of the pass.
    """

    def __init__(self, values: Mapping[int, Value], batch: int, now: int) -> None:
        self._values, self._batch, self._now = values, batch, now
        self._conditions: dict[SizeCondition, None] = {}
        self._lost: dict[str, None] = {}
        self.tracking = True

    @property
    def conditions(self) -> tuple[SizeCondition, ...]:
        """The conditions under which the code does the same."""
        return tuple(self._conditions)

    @property
    def lost(self) -> tuple[str, ...]:
        """What was done with sizes that cannot be followed."""
        return tuple(self._lost)

    def read(self, function: Any, number: int, result: Any, args: Any, kwargs: Any) -> Any:
        """Return a function's result with the tensor's sizes tracked.

        Args:
            function: any of torch's.
            number: of the tensor that is its first argument.
            result: what it gave.
            args: its positional arguments.
            kwargs: its named arguments.
        """
        if number not in self._values:
            return result
        shape = self._values[number].shape
        if isinstance(result, torch.Size):
            known = len(shape) == len(result)  # under vmap, code sees other axes
            return torch.Size(map(self._tracked, shape, result)) if known else result
        if function is Tensor.size and isinstance(result, int):
            axis = args[1] if len(args) > 1 else (kwargs or {})["dim"]
            return self._tracked(shape[axis], result)
        if function in (Tensor.numel, Tensor.nelement):
            product: int = 1
            for size, now in zip(shape, args[0].shape, strict=True):
                product = product * self._tracked(size, now)
            return product
        if function is Tensor.__len__ and type(shape[0]) is LinearSize:
            self.lose("len()")
        return result

    def lose(self, what: str) -> None:
        """Note that a size cannot be followed any further."""
        self._lost[what] = None

    def compute(self, what: SizeOperator, left: Any, right: Any, now: int) -> int:
        """Note that code relies on a computation with sizes, and return the tracked result.

        Args:
            what: the computation.
            left: first operand.
            right: second operand.
            now: what it gives in this pass.
        """
        lines = _linear_size(left), _linear_size(right)
        if what in COMPARISONS:
            self._require(SizeCondition(what, *lines, found=int(now)))
            return now
        here, next_ = (
            COMPUTED[what](*sizes_at(lines, batch)) for batch in (self._batch, self._batch + 1)
        )
        line = _linear_size_of(next_ - here, here - (next_ - here) * self._batch)
        self._require(SizeCondition(what, *lines, found=line))
        return self._tracked(line, now)

    def _require(self, condition: SizeCondition) -> None:
        # What holds for all sizes at which the program is recorded says nothing by itself, but
        # a comparison of a line with itself holds always.
        if condition.left != condition.right or condition.operator not in COMPARISONS:
            self._conditions[condition] = None

    def _tracked(self, size: Size, now: int) -> int:
        if type(size) is LinearSize and size.per and sizes_at(size, self._now) == now:
            return TrackedSize(now, size, self)
        return now


class TrackedSize(int):
    """A size that depends on the batch, in a pass that tracks sizes."""

    line: LinearSize
    tracker: SizeTracker

    def __new__(cls, value: int, line: LinearSize, tracker: SizeTracker) -> Self:
        """Make a size that is a linear function of the batch."""
        made = int.__new__(cls, value)
        made.line, made.tracker = line, tracker
        return made

    def __hash__(self) -> int:
        if self.tracker.tracking:
            raise TypeError("unhashable size: a table by the batch cannot be followed")
        return int.__hash__(self)

    def __reduce__(self) -> Any:
        return int, (int.__int__(self),)

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __add__(self, other: Any) -> Any:
        return _sum(self, other, 1, operator.add)

    def __radd__(self, other: Any) -> Any:
        return _sum(self, other, 1, operator.add)

    def __sub__(self, other: Any) -> Any:
        return _sum(self, other, -1, operator.sub)

    def __rsub__(self, other: Any) -> Any:
        return -_sum(self, other, -1, operator.sub)

    def __neg__(self) -> Any:
        return self * -1

    def __pos__(self) -> Any:
        return self

    def __mul__(self, other: Any) -> Any:
        if type(other) is int and self.tracker.tracking:
            line = LinearSize(self.line.per * other, self.line.plus * other)
            return self.tracker._tracked(line, _plain(self) * other)
        return _computed(SizeOperator.TIMES, self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        return _computed(SizeOperator.FLOOR, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _computed(SizeOperator.FLOOR, other, self)

    def __mod__(self, other: Any) -> Any:
        return _computed(SizeOperator.REST, self, other)

    def __rmod__(self, other: Any) -> Any:
        return _computed(SizeOperator.REST, other, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __eq__(self, other: object) -> Any:
        return _computed(SizeOperator.EQUAL, self, other)

    def __ne__(self, other: object) -> Any:
        return _computed(SizeOperator.UNEQUAL, self, other)

    def __lt__(self, other: Any) -> Any:
        return _computed(SizeOperator.LESS, self, other)

    def __le__(self, other: Any) -> Any:
        return _computed(SizeOperator.AT_MOST, self, other)

    def __gt__(self, other: Any) -> Any:
        return _computed(SizeOperator.MORE, self, other)

    def __ge__(self, other: Any) -> Any:
        return _computed(SizeOperator.AT_LEAST, self, other)

    def __bool__(self) -> bool:
        return bool(self != 0)

    def __abs__(self) -> Any:
        return self if self >= 0 else -self


def _untracked(name: str) -> Callable[..., Any]:
    """Return a method of int whose result is not tracked."""
    method = getattr(int, name)

    def called(self: TrackedSize, *others: Any) -> Any:
        if self.tracker.tracking:
            self.tracker.lose(name.strip("_") + "()")
        return method(_plain(self), *(_plain(each) for each in others))

    return called


for _each in (
    "truediv", "rtruediv", "pow", "rpow", "int", "float", "round", "trunc", "ceil", "floor",
    "lshift", "rlshift", "rshift", "rrshift", "and", "rand", "or", "ror", "xor", "rxor", "invert",
):  # fmt: skip
    setattr(TrackedSize, f"__{_each}__", _untracked(f"__{_each}__"))


def _sum(first: TrackedSize, other: Any, sign: int, plainly: Callable[[Any, Any], Any]) -> Any:
    if not isinstance(other, int) or not first.tracker.tracking:
        return _with_other_types(plainly, first, other)
    one, two = first.line, _linear_size(other)
    per, plus = (two.per, two.plus) if isinstance(two, LinearSize) else (0, two)
    line = LinearSize(one.per + sign * per, one.plus + sign * plus)
    return first.tracker._tracked(line, plainly(_plain(first), _plain(other)))


def _computed(what: SizeOperator, left: Any, right: Any) -> Any:
    plainly = COMPUTED[what]
    size = left if isinstance(left, TrackedSize) else right
    if not (isinstance(left, int) and isinstance(right, int)) or not size.tracker.tracking:
        return _with_other_types(plainly, left, right)
    now = plainly(_plain(left), _plain(right))
    return size.tracker.compute(what, left, right, now)


def _with_other_types(plainly: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """Compute with another type than sizes: a tensor, a float, a list."""
    size, other = (left, right) if isinstance(left, TrackedSize) else (right, left)
    if isinstance(other, float) and size.tracker.tracking:
        size.tracker.lose("arithmetic with a float")
    if isinstance(other, list | tuple | str) and size.tracker.tracking:
        size.tracker.lose("repetition of a list")
    return plainly(_plain(left), _plain(right))


def _plain(number: Any) -> Any:
    return int.__add__(number, 0) if isinstance(number, TrackedSize) else number


def _linear_size(size: int) -> BatchSize:
    return size.line if isinstance(size, TrackedSize) else int(size)


def _linear_size_of(per: int, plus: int) -> BatchSize:
    return LinearSize(per, plus) if per else plus
