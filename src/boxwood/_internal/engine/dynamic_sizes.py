"""Sizes that depend on several sizes of a network's inputs, and the ranges of those sizes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

from boxwood.errors import InvalidInput

MOST = 3
"""Sizes that may vary on their own: each one more doubles the recordings."""

Sizes = tuple[int, ...]
"""A number for each range of a program."""


@dataclass(frozen=True)
class DynamicSize:
    """An integer that is a sum of products of sizes: ``Σ factor · Π sizes[i] / divisor``.

    Args:
        terms: factor, and the sizes that it multiplies, by their ranges' positions.
        divisor: of the sum.

    Example:
        >>> pixels = DynamicSize(((1, (0, 1)), (2, ())), divisor=2)  # (height · width + 2) / 2
        >>> pixels.at((4, 6))
        13
    """

    terms: tuple[tuple[int, tuple[int, ...]], ...]
    divisor: int = 1

    def at(self, sizes: Sizes) -> int:
        """Work the integer out; what does not divide is cut off."""
        total = sum(factor * math.prod(sizes[i] for i in which) for factor, which in self.terms)
        return total // self.divisor


@dataclass(frozen=True)
class SeenSize:
    """An integer of which only what was seen is known: what a strided convolution leaves.

    Args:
        seen: sizes of the inputs, and the integer there.
    """

    seen: tuple[tuple[Sizes, int], ...]

    def at(self, sizes: Sizes) -> int:
        """Return what was seen.

        Raises:
            KeyError: nothing was seen there.
        """
        return dict(self.seen)[sizes]


@dataclass(frozen=True)
class DynamicRange:
    """One size that calls may choose.

    Args:
        name: for people.
        low: its least value.
        high: its greatest.
        step: between values.
        places: the inputs' tensors and axes that have it.
        example: its value in the example.
    """

    name: str
    low: int
    high: int
    step: int
    places: tuple[tuple[int, int], ...]
    example: int

    def allows(self, size: int) -> bool:
        """Say whether a call may have this value."""
        return self.low <= size <= self.high and (size - self.low) % self.step == 0

    def count(self, size: int) -> int:
        """Number a value by steps, in which the code's conditions are written; by itself without steps."""
        return size // self.step

    @property
    def another(self) -> int:
        """A value next to the example's."""
        more = self.example + self.step
        return more if more <= self.high else self.example - self.step

    def __str__(self) -> str:
        steps = f" in steps of {self.step}" if self.step > 1 else ""
        return f"{self.name} of {self.low} to {self.high}{steps}"


def read_ranges(
    dynamic: Mapping[str, Mapping[int, Sequence[int]]],
    tensors: Mapping[str, tuple[int, tuple[int, ...]]],
) -> tuple[DynamicRange, ...]:
    """Return the ranges that a caller asks for.

    Axes of different tensors that have one size in the example, and one range, are one size.

    Args:
        dynamic: axes of arguments, and least and greatest size of each; a third number is a step.
        tensors: number and shape of each argument that is a tensor, by name.

    Raises:
        InvalidInput: no such argument or axis, or a range that leaves out the example.

    Example:
        >>> (found,) = read_ranges({"x": {1: (1, 512)}}, {"x": (0, (1, 128))})
        >>> str(found), found.places
        ('x axis 1 of 1 to 512', ((0, 1),))
    """
    found: list[DynamicRange] = []
    for name, axes in dynamic.items():
        if name not in tensors:
            raise InvalidInput(
                f"Expected names of tensors that the model takes ({', '.join(tensors) or 'none'}), "
                f"got {name!r} in dynamic; give one of these, and an example that has it."
            )
        number, shape = tensors[name]
        for axis, limits in axes.items():
            each = _range(name, axis, limits, number, shape)
            if each.low == each.high:
                continue
            same = next((i for i, other in enumerate(found) if _is_same(other, each)), None)
            if same is None:
                found.append(each)
            else:
                places = (*found[same].places, *each.places)
                found[same] = _with_places(found[same], places)
    if len(found) > MOST:
        raise InvalidInput(
            f"Expected at most {MOST} sizes that vary on their own, got {len(found)}; fix some."
        )
    return tuple(found)


def check_ranges(ranges: Sequence[DynamicRange], shapes: Sequence[Sequence[Any]]) -> None:
    """Raise for ranges from a file that no caller can have asked for.

    Raises:
        InvalidInput: so it is.
    """
    for each in ranges:
        there = all(
            0 <= number < len(shapes) and 0 <= axis < len(shapes[number])
            for number, axis in each.places
        )
        whole = 1 <= each.low <= each.high and each.step >= 1 and each.allows(each.example)
        if not there or not each.places or not whole:
            raise InvalidInput(
                f"Expected ranges of sizes of the inputs in the file, got {each}; compile the "
                f"model again."
            )


def _range(name: str, axis: Any, limits: Any, number: int, shape: tuple[int, ...]) -> DynamicRange:
    if type(axis) is not int or not -len(shape) <= axis < len(shape):
        raise InvalidInput(
            f"Expected an axis of {name}, which has shape {shape}, got {axis!r} in dynamic; "
            f"count its axes from 0."
        )
    numbers = tuple(limits) if isinstance(limits, Sequence) else ()
    low, high, step = (*numbers, 1)[:3] if len(numbers) in (2, 3) else (0, 0, 1)
    size = shape[axis]
    whole = all(type(each) is int and each >= 1 for each in (low, high, step))
    if not whole or not low <= size <= high or (size - low) % step or (high - low) % step:
        raise InvalidInput(
            f"Expected the least and the greatest size of axis {axis} of {name}, at least 1 and "
            f"around the example's {size}, and optionally a step, got {limits!r}; give (1, "
            f"{size}), "
            f"say, or another example."
        )
    axis %= len(shape)
    return DynamicRange(f"{name} axis {axis}", low, high, step, ((number, axis),), size)


def _is_same(one: DynamicRange, two: DynamicRange) -> bool:
    """Say whether axes of different tensors are one size."""
    alike = (one.low, one.high, one.step, one.example) == (two.low, two.high, two.step, two.example)
    return alike and two.places[0][0] not in {tensor for tensor, _ in one.places}


def _with_places(each: DynamicRange, places: tuple[tuple[int, int], ...]) -> DynamicRange:
    return DynamicRange(each.name, each.low, each.high, each.step, places, each.example)


def usual_sizes(ranges: Sequence[DynamicRange]) -> list[Sizes]:
    """Return sizes whose plans need most of the kernels that any plan needs.

    Kernels are made for the number of vector registers of a tile, and for whether they are full:
    one size is taken through all of them, of several the ends.

    Example:
        >>> len(usual_sizes([DynamicRange("x", 1, 512, 1, (), 128)]))
        16
    """
    if len(ranges) == 1:
        (each,) = ranges
        tokens = [n for full in range(16, 129, 16) for n in (full - 3, full)]
        found: list[Sizes] = [(n,) for n in tokens if each.allows(n)]
        return found or [(each.low,), (each.high,)]
    return [tuple(each.low for each in ranges), tuple(each.high for each in ranges)]


def corners(ranges: Sequence[DynamicRange]) -> list[Sizes]:
    """Return the example's sizes, and each choice of some of them that is moved to the next value.

    Example:
        >>> corners([DynamicRange("x", 1, 9, 2, (), 3)])
        [(3,), (5,)]
    """
    return [
        tuple(each.another if i in moved else each.example for i, each in enumerate(ranges))
        for moved in _subsets(len(ranges))
    ]


def fitted(points: Sequence[Sizes], seen: Sequence[int]) -> int | DynamicSize:
    """Return the sum of products that gives what was seen at all corners.

    Args:
        points: `corners`.
        seen: an integer at each.

    Example:
        >>> fitted([(3,), (5,)], [7, 11])
        DynamicSize(terms=((1, ()), (2, (0,))), divisor=1)
        >>> fitted([(3,), (5,)], [7, 7])
        7
    """
    if len(set(seen)) == 1:
        return seen[0]
    subsets = list(_subsets(len(points[0])))
    # The differences between corners, divided by steps, are factors of Π (size - example).
    factors = dict.fromkeys(subsets, Fraction(0))
    for subset in subsets:
        difference = Fraction(0)
        for inner in subsets:
            if set(inner) <= set(subset):
                sign = (-1) ** (len(subset) - len(inner))
                difference += sign * seen[subsets.index(inner)]
        here, there = points[0], points[subsets.index(subset)]
        difference /= math.prod(there[i] - here[i] for i in subset)
        for inner in subsets:
            if set(inner) <= set(subset):
                rest = set(subset) - set(inner)
                factors[inner] += difference * math.prod(-here[i] for i in rest)
    divisor = math.lcm(*(factor.denominator for factor in factors.values()))
    terms = tuple((int(factor * divisor), which) for which, factor in factors.items() if factor)
    return DynamicSize(terms, divisor)


def _subsets(count: int) -> list[tuple[int, ...]]:
    return [which for size in range(count + 1) for which in combinations(range(count), size)]
