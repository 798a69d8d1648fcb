"""A captured network: a frozen list of operations on numbered values.

Legend for the sizes in shapes and arguments: an `int`, or a `LinearSize`, which is worked out when
the batch is known. Every value is written once, before it is read; `check_program` holds each pass to that.
"""

import enum
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from boxwood._internal.engine.constants import Constants
from boxwood._internal.engine.dynamic_sizes import (
    DynamicRange,
    DynamicSize,
    SeenSize,
    Sizes,
    corners,
)
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class LinearSize:
    """The integer ``per · batch + plus``.

    Example:
        >>> sizes_at(LinearSize(per=4, plus=1), batch=3)
        13
    """

    per: int
    plus: int

    def at(self, batch: int) -> int:
        """Work the integer out."""
        return self.per * batch + self.plus


BatchSize = int | LinearSize
Size = BatchSize | DynamicSize | SeenSize
Batch = int | Sizes
"""What sizes follow: the leading size of the inputs, or those that a caller chose to vary."""


class SizeOperator(enum.Enum):
    """Operations of Python code on two sizes whose result is not linear in the batch."""

    TIMES = "*"
    FLOOR = "//"
    REST = "%"
    EQUAL = "=="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="


COMPUTED: Mapping[SizeOperator, Callable[[int, int], int]] = {
    SizeOperator.TIMES: operator.mul,
    SizeOperator.FLOOR: operator.floordiv,
    SizeOperator.REST: operator.mod,
    SizeOperator.EQUAL: operator.eq,
    SizeOperator.UNEQUAL: operator.ne,
    SizeOperator.LESS: operator.lt,
    SizeOperator.AT_MOST: operator.le,
    SizeOperator.MORE: operator.gt,
    SizeOperator.AT_LEAST: operator.ge,
}
COMPARISONS = frozenset(SizeOperator) - {SizeOperator.TIMES, SizeOperator.FLOOR, SizeOperator.REST}


@dataclass(frozen=True)
class SizeCondition:
    """A result that a network's code computed from sizes, and that the program relies on.

    Args:
        operator: what was computed.
        left: its first operand.
        right: its second operand.
        found: the result in the program; 0 or 1 of a comparison.

    Example:
        >>> small = SizeCondition(SizeOperator.AT_MOST, LinearSize(per=1, plus=0), 16, found=1)
        >>> small.holds(8), small.holds(20), str(small)
        (True, False, 'batch <= 16 is true')
    """

    operator: SizeOperator
    left: BatchSize
    right: BatchSize
    found: BatchSize

    def holds(self, batch: int) -> bool:
        """Say whether the code computes the same result at this batch."""
        left, right, found = sizes_at((self.left, self.right, self.found), batch)
        if right == 0 and self.operator in (SizeOperator.FLOOR, SizeOperator.REST):
            return False
        return bool(COMPUTED[self.operator](left, right) == found)

    def __str__(self) -> str:
        compared = self.operator in COMPARISONS
        found = ("false", "true")[bool(self.found)] if compared else _written(self.found)
        return f"{_written(self.left)} {self.operator.value} {_written(self.right)} is {found}"


def _written(size: BatchSize) -> str:
    if isinstance(size, int):
        return str(size)
    batch = "batch" if size.per == 1 else f"{size.per}·batch"
    return batch if size.plus == 0 else f"({batch} {size.plus:+d})"


@dataclass(frozen=True)
class ValidBatches:
    """The batch sizes for which a program is right.

    Args:
        seen: those at which the network was recorded as this program.
        conditions: of any other size, if its code chooses by sizes.
        limit: why only those seen can be trusted; empty where the conditions decide.
    """

    seen: tuple[int, ...] = ()
    conditions: tuple[SizeCondition, ...] = ()
    limit: str = ""

    def against(self, batch: int) -> str:
        """Return why the program is wrong for a batch; empty if it is right."""
        if batch in self.seen:
            return ""
        if self.limit:
            return f"{self.limit}, so that only {', '.join(map(str, self.seen))} are known"
        broken = next((each for each in self.conditions if not each.holds(batch)), None)
        return "" if broken is None else f"it was compiled where {broken}"


@dataclass(frozen=True)
class ValueRef:
    """An argument that is a value, by its number."""

    value: int


@dataclass(frozen=True)
class Value:
    """What is known of a value before the program runs.

    Args:
        shape: as torch shows it.
        dtype: the element type.
    """

    shape: tuple[Size, ...]
    dtype: torch.dtype


class Op(Protocol):
    """One operation: a frozen dataclass that says what it reads and writes."""

    @property
    def reads(self) -> tuple[int, ...]:
        """Numbers of the values that it needs."""
        ...

    @property
    def writes(self) -> tuple[int, ...]:
        """Numbers of the values that it makes."""
        ...

    def with_reads(self, same: Mapping[int, int]) -> "Op":
        """Return this op reading other values, where ``same`` names others."""
        ...


@dataclass(frozen=True)
class TorchOp:
    """A call of one of torch's operators.

    Args:
        target: its qualified name, as in ``aten.conv2d.default``.
        args: positional arguments: constants, `ValueRef`, `LinearSize`, and tuples of these.
        kwargs: named arguments, likewise.
        writes: the tensors that it returns, in order.
        why: why it is left to torch, for `explain`.
    """

    target: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    writes: tuple[int, ...]
    why: str = field(default="", compare=False)

    @cached_property
    def reads(self) -> tuple[int, ...]:
        """Numbers of the values among the arguments."""
        return tuple(
            leaf.value for leaf in leaves_of((self.args, self.kwargs)) if type(leaf) is ValueRef
        )

    def with_reads(self, same: Mapping[int, int]) -> "TorchOp":
        """Return this op reading other values."""
        args, kwargs = substituted((self.args, self.kwargs), same)
        return replace(self, args=args, kwargs=kwargs)

    @property
    def name(self) -> str:
        """The operator without namespace and overload, as in ``conv2d``."""
        return self.target.split(".")[1]


@dataclass(frozen=True)
class Program:
    """Operations in order, with the types of all values and the tensors of the constant ones.

    Args:
        ops: in an order in which they can run.
        values: by number; constants among them.
        constants: tensors by number.
        inputs: numbers of the values that the caller hands over.
        outputs: numbers of the values that go back, in the order of the output's leaves.
        batch: the leading size of the example if other sizes may be called, else None.
        names: of constants that are a network's parameters or buffers, or come from one.
        batches: what leading sizes may be called.
        ranges: the sizes that calls may choose, if those are not the batch.
        limits: what each of these also has to keep to.
    """

    ops: tuple[Op, ...]
    values: Mapping[int, Value]
    constants: Mapping[int, Tensor]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    batch: int | None
    names: Mapping[int, str] = field(default_factory=dict)
    batches: ValidBatches = ValidBatches()
    ranges: tuple[DynamicRange, ...] = ()
    limits: tuple[ValidBatches, ...] = ()

    @property
    def example(self) -> Batch:
        """The sizes of the example."""
        return tuple(each.example for each in self.ranges) if self.ranges else self.batch or 0

    @property
    def samples(self) -> tuple[Batch, ...]:
        """Sizes at which shapes are looked at, to see what follows them."""
        if self.ranges:
            found = corners(self.ranges)
            return found[0], found[-1], tuple(each.high for each in self.ranges)
        return (self.batch, self.batch + 1) if self.batch else (0,)

    def next_value(self) -> int:
        """Return a number that no value has."""
        return max(self.values, default=-1) + 1


def leaves_of(argument: Any) -> Iterator[Any]:
    """Walk an argument's constants and references.

    Example:
        >>> list(leaves_of((1, (ValueRef(2), "same"))))
        [1, ValueRef(value=2), 'same']
    """
    if isinstance(argument, tuple):
        for part in argument:
            yield from leaves_of(part)
    else:
        yield argument


def sizes_at(argument: Any, batch: Batch) -> Any:
    """Work out every size in an argument for one batch."""
    if isinstance(argument, LinearSize | DynamicSize | SeenSize):
        return argument.at(batch)  # type: ignore[arg-type]
    if isinstance(argument, tuple):
        return tuple(sizes_at(part, batch) for part in argument)
    return argument


def is_fixed(argument: Any) -> bool:
    """Say whether an argument is the same for every batch."""
    return not any(
        isinstance(leaf, LinearSize | DynamicSize | SeenSize) for leaf in leaves_of(argument)
    )


def renamed(op: Any, same: Mapping[int, int]) -> Any:
    """Return an op with the values that it reads replaced."""
    if not any(value in same for value in op.reads):
        return op
    return op.with_reads(same)


def substituted(argument: Any, same: Mapping[int, int]) -> Any:
    """Return an argument with its references replaced."""
    if type(argument) is ValueRef:
        return ValueRef(same.get(argument.value, argument.value))
    if isinstance(argument, tuple):
        return tuple(substituted(part, same) for part in argument)
    return argument


def readers_of(program: Program) -> dict[int, list[int]]:
    """Return the positions of the ops that read each value, the output counting as ``len(ops)``."""
    found: dict[int, list[int]] = {number: [] for number in program.values}
    for position, op in enumerate(program.ops):
        for value in dict.fromkeys(op.reads):
            found[value].append(position)
    for value in dict.fromkeys(program.outputs):
        found[value].append(len(program.ops))
    return found


def without_unused(program: Program) -> Program:
    """Drop ops whose results are not read, and values and constants that are not used."""
    needed = set(program.outputs)
    kept: list[Op] = []
    for op in reversed(program.ops):
        if needed.intersection(op.writes):
            kept.append(op)
            needed.update(op.reads)
    needed.update(program.inputs)
    needed.update(value for op in kept for value in op.writes)
    return replace(
        program,
        ops=tuple(reversed(kept)),
        values={number: value for number, value in program.values.items() if number in needed},
        constants={number: t for number, t in program.constants.items() if number in needed},
    )


def check_program(program: Program) -> Program:
    """Return the program if it is one; every pass's result goes through here.

    Raises:
        InvalidInput: a value is read before it is written, written twice, or of unknown type.
    """
    written = {*program.inputs, *program.constants}
    for position, op in enumerate(program.ops):
        for value in op.reads:
            if value not in written:
                raise _broken(f"value {value} written before op {position} reads it", op)
        for value in op.writes:
            if value in written:
                raise _broken(f"value {value} written once, by one op", op)
            if value not in program.values:
                raise _broken(f"a type for value {value}", op)
            written.add(value)
    for value in program.outputs:
        if value not in written:
            raise _broken(f"output {value} written", program.outputs)
    constants = Constants(program.constants)
    for number in constants:
        declared, kind = program.values[number], constants.kind(number)
        if (declared.shape, declared.dtype) != kind:
            raise _broken(f"constant {number} to be {declared}", kind)
    return program


def check_numbers(program: Program) -> None:
    """Raise if a program from a file has something else than numbers where it needs numbers.

    Raises:
        InvalidInput: so it is.
    """
    numbers = [*program.values, *program.constants, *program.inputs, *program.outputs]
    if not all(type(number) is int for number in numbers):
        raise _broken("values that have numbers", numbers)
    if not all(number in program.values for number in (*program.constants, *program.inputs)):
        raise _broken("a type for each constant and input", program.inputs)
    if program.batch is not None and (type(program.batch) is not int or program.batch < 1):
        raise _broken("a batch of at least 1", program.batch)
    if len(set(program.inputs)) < len(program.inputs):
        raise _broken("different inputs", program.inputs)


def _broken(expected: str, got: object) -> InvalidInput:
    return InvalidInput(
        f"Expected {expected}, got {got}; a pass of the engine broke the program: please report it."
    )
