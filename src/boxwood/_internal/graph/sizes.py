"""Sizes that remember where they came from.

A network's code computes the sizes that it views tensors in: from other tensors' shapes, from
attributes such as ``self.num_heads``, from plain numbers. After surgery the first follow by
themselves, the second must be given new values and the last cannot change. A `Size` is an int that
carries the expression it was made by, so that all three can be kept apart.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import add, eq, floordiv, ge, gt, le, lshift, lt, mod, mul, ne, neg, rshift, sub
from typing import Any, Protocol, Self


@dataclass(frozen=True)
class OfShape:
    """The size of one axis of one value of the trace."""

    value: int
    axis: int


@dataclass(frozen=True)
class OfAttribute:
    """An int held by a module, or by an object that modules hold.

    Args:
        path: attribute names, item numbers and keys, from the model to the int.
    """

    path: tuple[str | int, ...]


Leaf = OfShape | OfAttribute
Expression = Leaf | int | tuple[Callable[..., int], tuple["Expression", ...]]


class Listener(Protocol):
    """Is called with what code does with sizes, as long as it listens."""

    listening: bool

    def on_number(self, size: "Size") -> None:
        """A size was used as a number: divided, raised to a power, multiplied with a tensor."""
        ...

    def on_equal(self, first: "Size", second: "Size") -> None:
        """Two sizes were compared and found equal."""
        ...

    def on_compared(self, comparison: Expression, outcome: bool) -> None:
        """A size was compared, so that what the code does next may depend on it."""
        ...


class Size(int):
    """An int with the expression that gave it."""

    expression: Expression
    listener: "Listener | None"

    def __new__(
        cls, value: int, expression: Expression, listener: "Listener | None" = None
    ) -> Self:
        """Make one; the listener hears what code does with it other than asking for sizes."""
        made = int.__new__(cls, value)
        made.expression = expression
        made.listener = listener
        return made

    @property
    def remembers(self) -> bool:
        """Whether the trace that made this size goes on; afterwards it is an int like others.

        Code may store sizes (in a table of its own, in a cache) and find them in a later run.
        """
        return self.listener is None or self.listener.listening

    def as_number(self) -> int:
        """Use the size as a plain number, from which no code can find back to its expression."""
        if self.listener is not None and self.listener.listening:
            self.listener.on_number(self)
        return int.__index__(self)

    def __eq__(self, other: object) -> bool:
        same: bool = _compared(eq, self, other)
        self._note_equal(other, same is True)
        return same

    def __ne__(self, other: object) -> bool:
        differs: bool = _compared(ne, self, other)
        self._note_equal(other, differs is False)
        return differs

    def _note_equal(self, other: object, same: bool) -> None:
        if same and isinstance(other, Size) and self.listener is not None and self.remembers:
            self.listener.on_equal(self, other)

    def __lt__(self, other: Any) -> Any:
        return _compared(lt, self, other)

    def __le__(self, other: Any) -> Any:
        return _compared(le, self, other)

    def __gt__(self, other: Any) -> Any:
        return _compared(gt, self, other)

    def __ge__(self, other: Any) -> Any:
        return _compared(ge, self, other)

    __hash__ = int.__hash__

    def __deepcopy__(self, memo: Any) -> "Size":
        return self

    def __reduce__(self) -> Any:
        return int, (_plain(self),)

    def __int__(self) -> int:
        return self.as_number()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **settings: Any) -> Any:
        plain = (each.as_number() if isinstance(each, Size) else each for each in inputs)
        return getattr(ufunc, method)(*plain, **settings)

    def __float__(self) -> float:
        return float(self.as_number())

    def __truediv__(self, other: Any) -> Any:
        return self.as_number() / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self.as_number()

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        return pow(self.as_number(), other, modulo)

    def __rpow__(self, other: Any, modulo: Any = None) -> Any:
        return pow(other, self.as_number(), modulo)

    def __add__(self, other: Any) -> Any:
        return _made(add, self, other)

    def __radd__(self, other: Any) -> Any:
        return _made(add, other, self)

    def __sub__(self, other: Any) -> Any:
        return _made(sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _made(sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return _made(mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _made(mul, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _made(floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _made(floordiv, other, self)

    def __mod__(self, other: Any) -> Any:
        return _made(mod, self, other)

    def __rmod__(self, other: Any) -> Any:
        return _made(mod, other, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __lshift__(self, other: Any) -> Any:
        return _made(lshift, self, other)

    def __rshift__(self, other: Any) -> Any:
        return _made(rshift, self, other)

    def __neg__(self) -> Any:
        return _made(neg, self)

    def __pos__(self) -> "Size":
        return self

    def __abs__(self) -> Any:
        return self if _plain(self) >= 0 else -self

    def __round__(self, digits: Any = None) -> "Size":
        return self

    def __trunc__(self) -> "Size":
        return self

    def __floor__(self) -> "Size":
        return self

    def __ceil__(self) -> "Size":
        return self


class Shape(tuple[int, ...]):
    """A shape whose sizes remember; ``torch.Size`` would turn them into plain ints."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Shape(found) if isinstance(index, slice) else found

    def __add__(self, other: Any) -> "Shape":
        return Shape((*self, *other))

    def __radd__(self, other: Any) -> "Shape":
        return Shape((*other, *self))

    def numel(self) -> int:
        """Multiply the sizes, as ``torch.Size.numel`` does."""
        product: int = 1
        for size in self:
            product = size * product
        return product


def expression_of(size: int) -> Expression:
    """Take the expression of a size; a plain int is its own."""
    return size.expression if isinstance(size, Size) else int(size)


def leaves(expression: Expression) -> Iterator[Leaf]:
    """Go through the shapes and attributes that an expression is made of."""
    if isinstance(expression, tuple):
        for part in expression[1]:
            yield from leaves(part)
    elif not isinstance(expression, int):
        yield expression


def evaluate(
    expression: Expression, values: Mapping[Leaf, int], *, exact: bool = False
) -> int | None:
    """Compute an expression from new values of its leaves; None where it cannot be computed.

    With ``exact`` neither can what divides with a remainder.
    """
    if isinstance(expression, int):
        return expression
    if not isinstance(expression, tuple):
        return values[expression]
    operation, parts = expression
    known = [evaluate(part, values, exact=exact) for part in parts]
    if any(part is None for part in known):
        return None
    try:
        if exact and operation is floordiv and mod(*known):
            return None
        return operation(*known)
    except ZeroDivisionError:
        return None


def _plain(each: Any) -> Any:
    """Take the value of a size silently."""
    return int.__index__(each) if isinstance(each, Size) else each


def _expression_of(each: Any) -> Expression:
    return expression_of(each) if isinstance(each, Size) and each.remembers else _plain(each)


def _compared(operation: Callable[..., Any], size: Size, other: Any) -> Any:
    if not isinstance(other, int):
        return getattr(int, f"__{operation.__name__}__")(size, other)
    outcome = operation(_plain(size), _plain(other))
    if size.listener is not None and size.remembers:
        comparison = (operation, (_expression_of(size), _expression_of(other)))
        size.listener.on_compared(comparison, outcome)
    return outcome


def _made(operation: Callable[..., int], *operands: Any) -> Any:
    sizes = [each for each in operands if isinstance(each, Size) and each.remembers]
    if sizes and all(isinstance(each, int) for each in operands):
        value = operation(*map(_plain, operands))
        return Size(value, (operation, tuple(map(_expression_of, operands))), sizes[0].listener)
    return operation(*(each.as_number() if isinstance(each, Size) else each for each in operands))
