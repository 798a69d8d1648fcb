"""Recognise attention between projections, by what its operators do to the numbers 0, 1, 2, …."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood._internal.engine import aten_ops
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.ops import NativeOp, Normalise, Project
from boxwood._internal.engine.passes.entry_terms import Terms, origin_of, terms_of
from boxwood._internal.engine.passes.rotations import Rotation, rotation_of
from boxwood._internal.engine.program import Batch, Op, Program, TorchOp, readers_of, sizes_at


@dataclass(frozen=True, eq=False)
class AttentionMatch:
    """The attention that was recognised: its projections, its result, and its heads."""

    sources: tuple[int, ...]
    out: int
    heads: int
    key_heads: int
    size: int
    batch_first: bool
    factor: float
    rotation: Rotation
    norms: tuple[NativeOp, ...]  # of the heads of queries and of keys, if these have them

    def equals(self, other: "AttentionMatch") -> bool:
        """Say whether two are the same, at two batches."""
        mine, theirs = (
            (
                each.sources, each.out, each.heads, each.key_heads, each.batch_first, each.factor,
                each.norms,
            )
            for each in (self, other)
        )  # fmt: skip
        return mine == theirs and self.rotation.equals(other.rotation)


def match_attention(
    program: Program, makers: Mapping[int, Op], constants: Mapping[int, Tensor], op: TorchOp,
    batch: Batch, batch_first: bool,
) -> AttentionMatch | None:  # fmt: skip
    """Return the attention that an operator is part of, at one batch; None if a kernel has no such one.

    Args:
        program: with the operator.
        makers: the operation that writes each value.
        constants: tensors by number, with those that follow from the sizes.
        op: scaled dot-product attention.
        batch: for which sizes are worked out.
        batch_first: whether tokens are [batch, tokens], else [tokens, batch].
    """
    query, key, value = (part.value for part in op.args[:3])
    shapes = {
        number: sizes_at(program.values[number].shape, batch) for number in (query, key, value)
    }
    if any(len(shape) != 4 for shape in shapes.values()) or shapes[key] != shapes[value]:
        return None
    examples, heads, tokens, size = shapes[query]
    if (shapes[key][0], *shapes[key][2:]) != (examples, tokens, size) or heads % shapes[key][1]:
        return None
    origins = [_origin(program, makers, constants, number, batch) for number in (query, key, value)]
    known = [origin for origin in origins if origin is not None]
    if len(known) < 3 or not _same_norms([origin.norm for origin in known]):
        return None
    sources = tuple(dict.fromkeys(origin.source for origin in known))
    widths = [sizes_at(program.values[source].shape, batch) for source in sources]
    if len(sources) not in (1, 3) or any(len(width) != 3 for width in widths):
        return None
    key_heads = _key_heads(heads, size, shapes[key][1], [width[-1] for width in widths])
    if key_heads is None:
        return None
    sizes = _Heads(examples, heads, tokens, size, key_heads)
    terms = [origin.terms for origin in known]
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
    norms = tuple(origin.norm for origin in known if origin.norm is not None)
    return AttentionMatch(sources, out, heads, key_heads, size, batch_first, factor, turned, norms)


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


@dataclass(frozen=True, eq=False)
class _Origin:
    """The projection that queries, keys or values come from.

    Args:
        source: what it makes.
        terms: entries of it that they are; None if they are something else.
        norm: what normalises each head on the way.
    """

    source: int
    terms: Terms | None
    norm: NativeOp | None = None


def _origin(
    program: Program, makers: Mapping[int, Op], constants: Mapping[int, Tensor], number: int,
    batch: Batch,
) -> _Origin | None:  # fmt: skip
    found = origin_of(makers, number, constants)
    maker = makers.get(found) if found is not None else None
    if found is None or maker is None:
        return None
    terms = terms_of(program, makers, constants, found, number, batch)
    if not isinstance(maker, NativeOp) or not isinstance(maker.kind, Normalise):
        return _Origin(found, terms) if _is_plain(maker) else None
    source = origin_of(makers, maker.sources[0], constants)
    if source is None or not _is_plain(makers.get(source)) or maker.kind.centred:
        return None
    before = terms_of(program, makers, constants, source, maker.sources[0], batch)
    entries = None if before is None else before.plain
    if terms is None or entries is None or entries.ndim != 4:
        return None
    size = entries.shape[-1]
    # A norm is of a head if its features are those of one head, in order.
    first = entries[..., :1]
    if not torch.equal(entries, first + torch.arange(size)) or bool((first % size).any()):
        return None
    flat = entries.reshape(-1)
    return _Origin(source, Terms(tuple(flat[each] for each in terms.entries), terms.factors), maker)


def _same_norms(norms: Sequence[NativeOp | None]) -> bool:
    """Say whether queries and keys are normalised alike, or neither, and values not at all."""
    query, key, value = norms
    if value is not None or (query is None) is not (key is None):
        return False
    return query is None or key is None or epsilon_of(query) == epsilon_of(key)


def epsilon_of(norm: NativeOp) -> float:
    """Return what a norm adds to its mean of squares."""
    return norm.kind.epsilon if isinstance(norm.kind, Normalise) else 0.0


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
