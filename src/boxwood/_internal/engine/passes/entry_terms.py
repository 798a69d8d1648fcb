"""What a chain of operators does to the entries of a tensor, as sums of scaled entries.

Views move entries, products with constants scale them, sums add them. What such a chain computes is
seen by sending the numbers 0, 1, 2, … through it: each entry of the result is a few numbers of
entries of the source, and a factor for each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.engine import aten_ops
from boxwood._internal.engine.kernels.elementwise import Operation
from boxwood._internal.engine.ops import NativeOp, Pointwise
from boxwood._internal.engine.program import Batch, Op, Program, TorchOp, ValueRef, sizes_at

_MOST = 4
"""Terms of an entry; rotary positions have two, of which a half may be absent."""


@dataclass(frozen=True)
class Terms:
    """For each entry of a value, entries of a source and their factors.

    Args:
        entries: numbers of entries, each of the value's shape.
        factors: likewise.
    """

    entries: tuple[Tensor, ...]
    factors: tuple[Tensor, ...]

    @property
    def plain(self) -> Tensor | None:
        """The entries, if each is one of the source as it is."""
        if len(self.entries) != 1 or not bool((self.factors[0] == 1).all()):
            return None
        return self.entries[0]


def terms_of(
    program: Program,
    makers: Mapping[int, Op],
    constants: Mapping[int, Tensor],
    source: int,
    value: int,
    batch: Batch,
) -> Terms | None:
    """Return a value's entries as terms of a source's; None if they are something else.

    Args:
        program: of both.
        constants: tensors by number, with those that follow from the sizes.
        makers: the operation that writes each value.
        source: number of the value that terms are of.
        value: number of the value that is a chain of operators further.
        batch: for which sizes are worked out.
    """
    shape = sizes_at(program.values[source].shape, batch)
    numbers = torch.arange(torch.Size(shape).numel()).reshape(shape)
    found: dict[int, Terms | None] = {source: Terms((numbers,), (torch.ones(()).expand(shape),))}

    def of(number: int) -> Terms | None:
        if number not in found:
            op = makers.get(number)
            found[number] = None
            if op is not None and _is_sum(op):
                found[number] = _sum(*map(of, op.reads))
            elif isinstance(op, TorchOp) and len(op.writes) == 1:
                found[number] = _of_op(aten_ops.at_batch(op, batch), of, constants)
            elif isinstance(op, TorchOp) and aten_ops.is_view(op.target):
                _split(aten_ops.at_batch(op, batch), of, found)
        return found[number]

    return of(value)


def _of_op(op: TorchOp, of: Any, constants: Mapping[int, Tensor]) -> Terms | None:
    if _moves(op) and len(op.reads) == 1:
        terms = of(op.reads[0])
        return None if terms is None else _viewed(op, terms)[0]
    name = op.target.removeprefix("aten.")
    if name in ("cat.default", "stack.default"):
        return _joined(op, [of(number) for number in op.reads])
    if name == "neg.default":
        return _scaled(of(op.reads[0]), torch.tensor(-1.0))
    if name == "mul.Tensor":
        return _product(op, of, constants)
    if name in ("add.Tensor", "sub.Tensor") and len(op.reads) == 2 and not op.kwargs:
        one, two = (of(number) for number in op.reads)
        if len(op.args) > 2:
            return None
        return _sum(one, _scaled(two, torch.tensor(-1.0)) if name.startswith("sub") else two)
    return None


def _moves(op: TorchOp) -> bool:
    """Say whether an operator puts entries elsewhere, once or several times, and nothing else."""
    return aten_ops.is_view(op.target) or op.target.removeprefix("aten.") in _COPIES


def _split(op: TorchOp, of: Any, found: dict[int, Terms | None]) -> None:
    """Note the results of a view that has several."""
    terms = of(op.reads[0]) if len(op.reads) == 1 else None
    if terms is not None:
        found.update(zip(op.writes, _viewed(op, terms), strict=True))


def _viewed(op: TorchOp, terms: Terms) -> list[Terms]:
    (source,) = op.reads
    each = [
        [aten_ops.run_operator(op, {source: part}) for part in parts]
        for parts in (terms.entries, terms.factors)
    ]
    return [
        Terms(*(tuple(part[index] for part in parts) for parts in each))
        for index in range(len(op.writes))
    ]


def _joined(op: TorchOp, parts: Sequence[Terms | None]) -> Terms | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    most = max(len(part.entries) for part in known)
    wide = [_wide(part, most) for part in known]
    joined = [
        tuple(
            aten_ops.run_operator(op, dict(zip(op.reads, tensors, strict=True)))[0]
            for tensors in zip(*(getattr(part, name) for part in wide), strict=True)
        )
        for name in ("entries", "factors")
    ]
    return Terms(*joined)


def _wide(terms: Terms, count: int) -> Terms:
    """Add terms without effect, so that there are as many as elsewhere."""
    missing = count - len(terms.entries)
    nothing = torch.zeros_like(terms.factors[0])
    return Terms(
        terms.entries + (terms.entries[0],) * missing, terms.factors + (nothing,) * missing
    )


def _product(op: TorchOp, of: Any, constants: Mapping[int, Tensor]) -> Terms | None:
    number = next((part for part in op.args if type(part) is not ValueRef), None)
    if number is not None:
        scale = torch.tensor(float(number)) if isinstance(number, int | float) else None
        return None if scale is None else _scaled(of(op.reads[0]), scale)
    one, two = op.reads
    if one in constants:
        one, two = two, one
    return _scaled(of(one), constants[two]) if two in constants else None


def _scaled(terms: Terms | None, scale: Tensor) -> Terms | None:
    if terms is None or scale.dtype != torch.float32:
        return None
    factors = tuple(factor * scale for factor in terms.factors)
    shape = factors[0].shape
    return Terms(tuple(entries.expand(shape) for entries in terms.entries), factors)


def _is_sum(op: Op) -> bool:
    """Say whether an operation is a sum of two values that is a kernel's already."""
    return isinstance(op, NativeOp) and op.kind == Pointwise(Operation.ADD)


def _sum(one: Terms | None, two: Terms | None) -> Terms | None:
    if one is None or two is None or one.entries[0].shape != two.entries[0].shape:
        return None
    if len(one.entries) + len(two.entries) > _MOST:
        return None
    return Terms(one.entries + two.entries, one.factors + two.factors)


def origin_of(makers: Mapping[int, Op], number: int, constants: Mapping[int, Tensor]) -> int | None:
    """Follow views, signs, sums and products with constants back to what something else made."""
    seen = set()
    ends = set()
    left = [number]
    while left:
        number = left.pop()
        if number in seen or number in constants:
            continue
        seen.add(number)
        op = makers.get(number)
        if op is not None and is_followed(op):
            left += op.reads
        else:
            ends.add(number)
    return ends.pop() if len(ends) == 1 else None


def is_followed(op: Op) -> bool:
    """Say whether an operation moves, scales or adds entries, so that terms may be seen through it."""
    if isinstance(op, TorchOp):
        return _moves(op) or op.target.removeprefix("aten.") in _FOLLOWED
    return _is_sum(op)


_COPIES = frozenset(("repeat_interleave.self_int", "repeat.default", "flip.default"))
_FOLLOWED = frozenset(
    ("cat.default", "stack.default", "neg.default", "mul.Tensor", "add.Tensor", "sub.Tensor")
)
