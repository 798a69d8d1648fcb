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
from boxwood._internal.engine.ops import (
    Attend,
    NativeOp,
    NormaliseHeads,
    Rotate,
)
from boxwood._internal.engine.passes.attention_matches import (
    AttentionMatch,
    epsilon_of,
    match_attention,
)
from boxwood._internal.engine.passes.repeated_attention import moved, surroundings
from boxwood._internal.engine.program import (
    Batch,
    Op,
    Program,
    TorchOp,
    Value,
    ValueRef,
    readers_of,
    without_unused,
)

Known = Mapping[Batch, Mapping[int, Tensor]]
"""Tensors that follow from sizes alone, for some of them."""

_ATTENTION = "scaled_dot_product_attention"


def fuse_attention(program: Program) -> Program:
    """Return the program with one operation from the projections to the tokens after attention.

    Projections of one source become one, so that queries, keys and values lie together; heads of
    keys and values may be fewer. Norms of each head of queries and keys, and rotary positions,
    become operations of their own, masks a second source.
    """
    found = [op for op in program.ops if isinstance(op, TorchOp) and op.name == _ATTENTION]
    known = {batch: aten_ops.constants_at(program, batch) for batch in program.samples if found}
    masks: dict[int, int] = {}  # of numbers, by those of truth values
    makers: dict[int, Op] = {value: each for each in program.ops for value in each.writes}
    readers = readers_of(program)
    matches: dict[str, tuple[AttentionMatch | None, tuple[int, ...]]] = {}
    before = program
    for op in found:
        settings = _settings(op)
        if settings is None:
            continue
        constants = next(iter(known.values()))
        text, values = surroundings(before, makers, readers, constants, op)
        if text not in matches:
            matches[text] = _match(before, makers, op, known), values
        match, there = matches[text]
        if match is not None:
            position = program.ops.index(op)  # earlier ones moved it
            match = moved(match, there, values, makers)
            program = _written(program, match, settings, position, masks) or program
    return without_unused(program)


@dataclass(frozen=True)
class _Settings:
    """What an attention is called with in addition to queries, keys and values."""

    scale: float  # 0 for torch's own
    causal: bool
    mask: int | None


def _match(
    program: Program, makers: Mapping[int, Op], op: TorchOp, known: Known
) -> AttentionMatch | None:
    """Return the attention that an operator is part of, if it is the same one at all batches."""
    for batch_first in (True, False):  # with one example both may fit, with two only one does
        found: list[AttentionMatch] = []
        for batch, constants in known.items():
            match = match_attention(program, makers, constants, op, batch, batch_first)
            if match is None or not match.equals((found or [match])[0]):
                break
            found.append(match)
        else:
            return max(found, key=lambda each: each.rotation.table.numel())
    return None


def _written(
    program: Program,
    match: AttentionMatch,
    settings: _Settings,
    position: int,
    masks: dict[int, int],
) -> Program | None:
    """Return the program with the operations that were recognised."""
    writer = _Writer(program)
    source = writer.joined(match.sources)
    if source is None:
        return None
    if match.norms:
        scales = torch.cat(
            [
                program.constants[norm.weight or 0].expand(heads, -1)
                for norm, heads in zip(match.norms, (match.heads, match.key_heads), strict=True)
            ]
        )
        kind_of = NormaliseHeads(len(scales), epsilon_of(match.norms[0]))
        number = writer.value(writer.values[source])
        table = writer.same_constant(scales)
        writer.added.append(NativeOp(kind_of, (source,), number, weight=table))
        source = number
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
