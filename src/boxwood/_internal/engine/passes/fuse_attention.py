"""Scaled dot-product attention between projections, as one operation on their tokens.

Between a projection and the attention, torch turns features into heads by a chain of views, which
differs from model to model. What a chain does is seen by sending the numbers 0, 1, 2, … through
it: if they arrive where heads of tokens would, the chain was that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from boxwood._internal.engine import aten_ops
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.ops import Attend, NativeOp, Project, Rotate
from boxwood._internal.engine.passes.entry_terms import origin_of, terms_of
from boxwood._internal.engine.passes.rotations import Rotation, rotation_of
from boxwood._internal.engine.program import (
    Batch,
    Op,
    Program,
    TorchOp,
    Value,
    ValueRef,
    readers_of,
    sizes_at,
    without_unused,
)

Known = Mapping[Batch, Mapping[int, Tensor]]
"""Tensors that follow from sizes alone, for some of them."""

_ATTENTION = "scaled_dot_product_attention"


def fuse_attention(program: Program) -> Program:
    """Return the program with one operation from the projections to the tokens after attention.

    Projections of one source become one, so that queries, keys and values lie together; heads of
    keys and values may be fewer. Rotary positions between become an operation of their own, masks
    a second source.
    """
    found = [op for op in program.ops if isinstance(op, TorchOp) and op.name == _ATTENTION]
    known = {batch: aten_ops.constants_at(program, batch) for batch in program.samples if found}
    masks: dict[int, int] = {}  # of numbers, by those of truth values
    for op in found:
        position = program.ops.index(op)  # earlier ones moved it
        program = _fused(program, position, op, known, masks) or program
    return without_unused(program)


@dataclass(frozen=True)
class _Heads:
    """The sizes of attention in one batch."""

    batch: int
    heads: int
    tokens: int
    size: int
    key_heads: int

    def features(self, flat: Tensor, *, batch_first: bool) -> Tensor:
        """Turn [batch, heads, tokens, size] into tokens of features."""
        axes = (0, 2, 1, 3) if batch_first else (2, 0, 1, 3)
        return flat.permute(*axes).flatten(2)


@dataclass(frozen=True)
class _Settings:
    """What an attention is called with in addition to queries, keys and values."""

    scale: float  # 0 for torch's own
    causal: bool
    mask: int | None


@dataclass(frozen=True, eq=False)
class _Match:
    """The attention that was recognised: its projections, its result, and its heads."""

    sources: tuple[int, ...]
    out: int
    heads: int
    key_heads: int
    size: int
    batch_first: bool
    factor: float
    rotation: Rotation

    def equals(self, other: "_Match") -> bool:
        """Say whether two are the same, at two batches."""
        mine, theirs = (
            (each.sources, each.out, each.heads, each.key_heads, each.batch_first, each.factor)
            for each in (self, other)
        )
        return mine == theirs and self.rotation.equals(other.rotation)


def _fused(
    program: Program, position: int, op: TorchOp, known: Known, masks: dict[int, int]
) -> Program | None:
    settings = _settings(op)
    if settings is None:
        return None
    makers: dict[int, Op] = {value: each for each in program.ops for value in each.writes}
    for batch_first in (True, False):  # with one example both may fit, with two only one does
        found: list[_Match] = []
        for batch, constants in known.items():
            match = _match(program, makers, constants, op, batch, batch_first)
            if match is None or not match.equals((found or [match])[0]):
                break
            found.append(match)
        else:
            longest = max(found, key=lambda each: each.rotation.table.numel())
            return _written(program, longest, settings, position, masks)
    return None


def _written(
    program: Program, match: _Match, settings: _Settings, position: int, masks: dict[int, int]
) -> Program | None:
    """Return the program with the operations that were recognised."""
    writer = _Writer(program)
    source = writer.joined(match.sources)
    if source is None:
        return None
    if match.rotation.partners:
        turns = Rotate(match.heads + match.key_heads, match.rotation.partners)
        number = writer.value(writer.values[source])
        table = writer.same_constant(match.rotation.table)
        writer.added.append(NativeOp(turns, (source,), number, weight=table))
        source = number
    mask = () if settings.mask is None else (writer.mask(settings.mask, masks),)
    scale = settings.scale
    if match.factor != 1:
        scale = (scale or 1 / math.sqrt(match.size)) * match.factor
    shared = match.key_heads if match.key_heads != match.heads else 0
    kind = Attend(match.heads, match.size, scale, match.batch_first, shared, settings.causal)
    return writer.program(NativeOp(kind, (source, *mask), match.out), position)


class _Writer:
    """Collects what takes the place of an attention."""

    def __init__(self, program: Program) -> None:
        self.before = program
        self.values = dict(program.values)
        self.constants = dict(program.constants)
        self.names = dict(program.names)
        self.added: list[Op] = []
        self._makers = {value: op for op in program.ops for value in op.writes}
        self._next = program.next_value()

    def value(self, value: Value) -> int:
        number, self._next = self._next, self._next + 1
        self.values[number] = value
        return number

    def constant(self, tensor: Tensor, name: str = "") -> int:
        """Add a constant."""
        number = self.value(Value(tuple(tensor.shape), tensor.dtype))
        self.constants[number] = tensor
        if name:
            self.names[number] = name
        return number

    def same_constant(self, tensor: Tensor) -> int:
        """Add a constant, unless it is there: all layers have the same rotary positions."""
        for number, other in self.constants.items():
            if other.shape == tensor.shape and torch.equal(other, tensor):
                return number
        return self.constant(tensor)

    def joined(self, sources: Sequence[int]) -> int | None:
        """Return the value that holds queries, keys and values."""
        if len(sources) == 1:
            return sources[0]
        first = self._makers[sources[0]]
        merged = _joined([self._makers[value] for value in sources], self.before)
        if merged is None or not isinstance(first, NativeOp):
            return None
        weight, bias = merged
        shape = self.values[sources[0]].shape
        number = self.value(Value((*shape[:-1], len(weight)), weight.dtype))
        name = self.names.get(first.weight or -1, "") + ", …"
        self.added.append(
            replace(
                first,
                out=number,
                weight=self.constant(weight, name),
                bias=None if bias is None else self.constant(bias),
            )
        )
        return number

    def mask(self, mask: int, known: dict[int, int]) -> int:
        """Return a mask of numbers that are added, before it is repeated for all queries and heads."""
        maker = self._makers.get(mask)
        if isinstance(maker, TorchOp) and maker.target == "aten.expand.default":
            narrow = maker.reads[0]
            if len(self.values[narrow].shape) == len(self.values[mask].shape):
                mask = narrow
        value = self.values[mask]
        if value.dtype != torch.bool:
            return mask
        if mask not in known:
            known[mask] = self.value(Value(value.shape, torch.float32))
            args = (ValueRef(mask), 0.0, float("-inf"))
            self.added.append(TorchOp("aten.where.Scalar", args, (), (known[mask],)))
        return known[mask]

    def program(self, attend: NativeOp, position: int) -> Program:
        """Return the program with attention at a position, and nothing else that makes its result."""
        ops = list(self.before.ops)
        ops.remove(self._makers[attend.out])  # a view, after that position
        ops[position:position] = [*self.added, attend]
        return replace(
            self.before, ops=tuple(ops), values=self.values, constants=self.constants,
            names=self.names,
        )  # fmt: skip


def _match(
    program: Program, makers: Mapping[int, Op], constants: Mapping[int, Tensor], op: TorchOp,
    batch: Batch, batch_first: bool,
) -> _Match | None:  # fmt: skip
    query, key, value = (part.value for part in op.args[:3])
    shapes = {
        number: sizes_at(program.values[number].shape, batch) for number in (query, key, value)
    }
    if any(len(shape) != 4 for shape in shapes.values()) or shapes[key] != shapes[value]:
        return None
    examples, heads, tokens, size = shapes[query]
    if (shapes[key][0], *shapes[key][2:]) != (examples, tokens, size) or heads % shapes[key][1]:
        return None
    origins = [origin_of(makers, number, constants) for number in (query, key, value)]
    if any(origin is None or not _is_plain(makers.get(origin)) for origin in origins):
        return None
    known = [origin for origin in origins if origin is not None]
    sources = tuple(dict.fromkeys(known))
    widths = [sizes_at(program.values[source].shape, batch) for source in sources]
    if len(sources) not in (1, 3) or any(len(width) != 3 for width in widths):
        return None
    key_heads = _key_heads(heads, size, shapes[key][1], [width[-1] for width in widths])
    if key_heads is None:
        return None
    sizes = _Heads(examples, heads, tokens, size, key_heads)
    terms = [
        terms_of(program, makers, constants, source, number, batch)
        for source, number in zip(known, (query, key, value), strict=True)
    ]
    wanted = _expected(sizes, len(sources), batch_first=batch_first)
    plain = terms[2].plain if terms[2] is not None else None
    if plain is None or not torch.equal(plain, _repeated(wanted[2], shapes[value][1])):
        return None
    turned, other = (
        rotation_of(each, _repeated(want, shapes[number][1]))
        for each, want, number in zip(terms[:2], wanted[:2], (query, key), strict=True)
    )
    if turned is None or other is None or not turned.equals(other):
        return None
    if turned.partners and not batch_first:
        return None
    out = _first_after(program, op.writes[0], sizes, shapes[query], batch, batch_first)
    if out is None:
        return None
    factor = turned.factor * other.factor
    return _Match(sources, out, heads, key_heads, size, batch_first, factor, turned)


def _key_heads(heads: int, size: int, seen: int, widths: Sequence[int]) -> int | None:
    """Return how many heads of keys there are, before they are repeated for those of queries."""
    if len(widths) == 3:
        count, rest = divmod(widths[1], size)
        fits = widths[0] == heads * size and widths[1] == widths[2]
    else:
        count, rest = divmod(widths[0] - heads * size, 2 * size)
        fits = count > 0
    return count if fits and not rest and count and seen % count == 0 == heads % count else None


def _expected(sizes: _Heads, sources: int, *, batch_first: bool) -> list[Tensor]:
    """Where entries of queries, keys and values come from in their projections."""
    outer = (sizes.batch, sizes.tokens) if batch_first else (sizes.tokens, sizes.batch)
    counts = (sizes.heads, sizes.key_heads, sizes.key_heads)
    found = []
    for part, count in enumerate(counts):
        width = (sum(counts) if sources == 1 else count) * sizes.size
        whole = torch.arange(outer[0] * outer[1] * width).reshape(*outer, -1)
        first = sum(counts[:part]) * sizes.size if sources == 1 else 0
        mine = whole[..., first : first + count * sizes.size]
        split = mine.unflatten(-1, (count, sizes.size))
        found.append(split.permute(0, 2, 1, 3) if batch_first else split.permute(1, 2, 0, 3))
    return found


def _repeated(entries: Tensor, heads: int) -> Tensor:
    return entries.repeat_interleave(heads // entries.shape[1], 1)


def _is_plain(op: Op | None) -> bool:
    """Say whether an operation is a projection and nothing else."""
    if not isinstance(op, NativeOp) or not isinstance(op.kind, Project):
        return False
    return op.kind.activation is Activation.NONE and len(op.sources) == 1


def _first_after(
    program: Program, result: int, sizes: _Heads, shape: Sequence[int], batch: Batch,
    batch_first: bool,
) -> int | None:  # fmt: skip
    """Return the first value after attention that holds tokens of features, if it alone is read."""
    entries = torch.arange(torch.Size(shape).numel()).reshape(tuple(shape))
    wanted = sizes.features(entries, batch_first=batch_first)
    read_by, number = readers_of(program), result
    while len(read_by[number]) == 1 and read_by[number][0] < len(program.ops):
        op = program.ops[read_by[number][0]]
        if not isinstance(op, TorchOp) or not aten_ops.is_view(op.target) or len(op.writes) > 1:
            return None
        (entries,) = aten_ops.run_operator(aten_ops.at_batch(op, batch), {number: entries})
        (number,) = op.writes
        if entries.shape[-1] == wanted.shape[-1] and torch.equal(
            entries.reshape(-1), wanted.reshape(-1)
        ):
            return number
    return None


def _settings(op: TorchOp) -> _Settings | None:
    """Return what else attention does; None for dropout, or what is no tensor."""
    rest = dict(zip(("attn_mask", "dropout_p", "is_causal"), op.args[3:], strict=False))
    rest |= dict(op.kwargs)
    mask = rest.get("attn_mask")
    if rest.get("dropout_p") or any(type(part) is not ValueRef for part in op.args[:3]):
        return None
    number = mask.value if type(mask) is ValueRef else None
    return _Settings(float(rest.get("scale") or 0.0), bool(rest.get("is_causal")), number)


def _joined(makers: Sequence[Op], program: Program) -> tuple[Tensor, Tensor | None] | None:
    """Return the weights and biases of projections of one source, one after the other."""
    weights, biases = [], []
    for op in makers:
        if not isinstance(op, NativeOp) or op.sources != makers[0].reads[:1] or op.weight is None:
            return None
        weight = program.constants[op.weight]
        weights.append(weight)
        biases.append(None if op.bias is None else program.constants[op.bias])
    if all(bias is None for bias in biases):
        return torch.cat(weights), None
    filled = [
        torch.zeros(len(weight)) if bias is None else bias
        for weight, bias in zip(weights, biases, strict=True)
    ]
    return torch.cat(weights), torch.cat(filled)
