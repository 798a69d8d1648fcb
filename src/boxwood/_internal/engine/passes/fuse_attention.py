"""Scaled dot-product attention between projections, as one operation on their tokens.

Between a projection and the attention, torch turns features into heads by a chain of views, which
differs from model to model. What a chain does is seen by sending the numbers 0, 1, 2, … through
it: if they arrive where heads of tokens would, the chain was that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.engine import aten_ops
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.ops import Attend, NativeOp, Project
from boxwood._internal.engine.program import (
    Op,
    Program,
    TorchOp,
    Value,
    ValueRef,
    readers_of,
    sizes_at,
    without_unused,
)

_ATTENTION = "scaled_dot_product_attention"

Indices = dict[int, Tensor]


def fuse_attention(program: Program) -> Program:
    """Return the program with one operation from the projections to the tokens after attention.

    Projections of one source become one, so that queries, keys and values lie together. Masks,
    causal attention and fewer heads of keys stay torch's.
    """
    found = [op for op in program.ops if isinstance(op, TorchOp) and op.name == _ATTENTION]
    for op in found:
        position = program.ops.index(op)  # earlier ones moved it
        program = _fused(program, position, op) or program
    return without_unused(program)


@dataclass(frozen=True)
class _Heads:
    """The sizes of attention in one batch."""

    batch: int
    heads: int
    tokens: int
    size: int

    def features(self, flat: Tensor, *, batch_first: bool) -> Tensor:
        """Turn [batch, heads, tokens, size] into tokens of features."""
        axes = (0, 2, 1, 3) if batch_first else (2, 0, 1, 3)
        return flat.permute(*axes).flatten(2)


def _fused(program: Program, position: int, op: TorchOp) -> Program | None:
    scale = _plain_scale(op)
    if scale is None:
        return None
    batches = (program.batch, program.batch + 1) if program.batch else (0,)
    match = None
    for batch_first in (True, False):  # with one example both may fit, with two only one does
        found = {_match(program, position, op, batch, batch_first) for batch in batches}
        match = match or (found.pop() if len(found) == 1 else None)
    if match is None:
        return None
    ops: list[Op] = list(program.ops)
    constants, values, names = dict(program.constants), dict(program.values), dict(program.names)
    makers = {value: p for p, each in enumerate(ops) for value in each.writes}
    source = match.sources[0]
    if len(match.sources) == 3:
        first = ops[makers[source]]
        merged = _joined([ops[makers[value]] for value in match.sources], program)
        if merged is None or not isinstance(first, NativeOp):
            return None
        weight, bias = merged
        number = program.next_value()
        shape = values[source].shape
        values[number] = Value((*shape[:-1], len(weight)), weight.dtype)
        constants[number + 1], constants[number + 2] = weight, bias
        for added in (number + 1, number + 2):
            values[added] = Value(tuple(constants[added].shape), constants[added].dtype)
        names[number + 1] = names.get(first.weight or -1, "") + ", …"
        last = max(makers[value] for value in match.sources)
        source = number
        extra: Op = replace(first, out=number, weight=number + 1, bias=number + 2)
    kind = Attend(match.heads, match.size, scale, match.batch_first)
    ops[makers[match.out]] = NativeOp(kind, (source,), match.out)
    if len(match.sources) == 3:
        ops.insert(last + 1, extra)
    return replace(program, ops=tuple(ops), constants=constants, values=values, names=names)


@dataclass(frozen=True)
class _Match:
    """The attention that was recognised: its projections, its result, and the sizes of its heads."""

    sources: tuple[int, ...]
    out: int
    heads: int
    size: int
    batch_first: bool


def _match(
    program: Program, position: int, op: TorchOp, batch: int, batch_first: bool
) -> _Match | None:
    query, key, value = (part.value for part in op.args[:3])
    shapes = {number: sizes_at(each.shape, batch) for number, each in program.values.items()}
    if len({shapes[number] for number in (query, key, value)}) != 1 or len(shapes[query]) != 4:
        return None
    heads = _Heads(*_sizes(shapes[query]))
    origins = [_origin(program, position, number) for number in (query, key, value)]
    if any(origin is None for origin in origins):
        return None
    sources = tuple(dict.fromkeys(origin for origin in origins if origin is not None))
    if len(sources) not in (1, 3) or any(len(shapes[source]) != 3 for source in sources):
        return None
    parts = 3 // len(sources)
    seen = [
        _sent(program, position, source, shapes, batch).get(number)
        for source, number in zip(origins, (query, key, value), strict=True)
        if source is not None
    ]
    wanted = _expected(heads, parts, batch_first=batch_first)
    for have, want in zip(seen, wanted, strict=True):
        if have is None or not torch.equal(have, want):
            return None
    out = _first_after(program, position, op.writes[0], heads, shapes, batch, batch_first)
    return None if out is None else _Match(sources, out, heads.heads, heads.size, batch_first)


def _sizes(shape: Sequence[int]) -> tuple[int, int, int, int]:
    batch, heads, tokens, size = shape
    return batch, heads, tokens, size


def _expected(heads: _Heads, parts: int, *, batch_first: bool) -> list[Tensor]:
    """Where entries of queries, keys and values come from in their projections."""
    outer = (heads.batch, heads.tokens) if batch_first else (heads.tokens, heads.batch)
    width = heads.heads * heads.size
    found = []
    for part in range(3):
        whole = torch.arange(outer[0] * outer[1] * parts * width).reshape(*outer, -1)
        mine = whole[..., part * width : (part + 1) * width] if parts == 3 else whole
        split = mine.unflatten(-1, (heads.heads, heads.size))
        found.append(split.permute(0, 2, 1, 3) if batch_first else split.permute(1, 2, 0, 3))
    return found


def _origin(program: Program, position: int, number: int) -> int | None:
    """Follow views back to the projection that they look at."""
    makers = {value: op for op in program.ops[:position] for value in op.writes}
    while True:
        op = makers.get(number)
        if isinstance(op, NativeOp) and isinstance(op.kind, Project):
            plain = op.kind.activation is Activation.NONE and len(op.sources) == 1
            return number if plain else None
        if not isinstance(op, TorchOp) or not aten_ops.is_view(op.target) or len(op.reads) != 1:
            return None
        number = op.reads[0]


def _sent(
    program: Program, position: int, source: int, shapes: Mapping[int, Any], batch: int
) -> Indices:
    """Send the numbers of a value's entries through the views of it."""
    found = {source: torch.arange(torch.Size(shapes[source]).numel()).reshape(shapes[source])}
    return _through(program.ops[:position], found, batch)


def _through(ops: Sequence[Op], found: Indices, batch: int) -> Indices:
    for op in ops:
        known = isinstance(op, TorchOp) and op.reads and all(value in found for value in op.reads)
        if isinstance(op, TorchOp) and known and aten_ops.is_view(op.target):
            seen = aten_ops.run_operator(aten_ops.at_batch(op, batch), found)
            found.update(zip(op.writes, seen, strict=True))
    return found


def _first_after(
    program: Program, position: int, result: int, heads: _Heads, shapes: Mapping[int, Any],
    batch: int, batch_first: bool,
) -> int | None:  # fmt: skip
    """Return the first value after attention that holds tokens of features, if it alone is read."""
    entries = torch.arange(torch.Size(shapes[result]).numel()).reshape(shapes[result])
    wanted = heads.features(entries, batch_first=batch_first)
    read_by = readers_of(program)
    found = _through(program.ops[position + 1 :], {result: entries}, batch)
    for number, indices in found.items():
        as_tokens = number != result and indices.shape[-1] == wanted.shape[-1]
        if as_tokens and torch.equal(indices.reshape(-1), wanted.reshape(-1)):
            return number
        if len(read_by[number]) != 1:
            return None
    return None


def _plain_scale(op: TorchOp) -> float | None:
    """Return the scale, 0 for torch's own; None if the attention has a mask or is causal."""
    kwargs = dict(op.kwargs)
    rest = dict(zip(("attn_mask", "dropout_p", "is_causal"), op.args[3:], strict=False))
    rest |= kwargs
    if rest.get("attn_mask") is not None or rest.get("dropout_p") or rest.get("is_causal"):
        return None
    if rest.get("enable_gqa") or any(type(part) is not ValueRef for part in op.args[:3]):
        return None
    return float(rest.get("scale") or 0.0)


def _joined(makers: Sequence[Op], program: Program) -> tuple[Tensor, Tensor] | None:
    """Return the weights and biases of projections of one source, one after the other."""
    weights, biases = [], []
    for op in makers:
        if not isinstance(op, NativeOp) or op.sources != makers[0].reads[:1] or op.weight is None:
            return None
        weight = program.constants[op.weight]
        weights.append(weight)
        bias = None if op.bias is None else program.constants[op.bias]
        biases.append(torch.zeros(len(weight)) if bias is None else bias)
    return torch.cat(weights), torch.cat(biases)
