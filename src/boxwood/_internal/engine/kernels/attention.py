"""Attention over the tokens of columns: scores, softmax and mixing without turning them into rows.

For each head and each few vectors of queries, every key's scores stay in the first cache::

    for key in keys:     scores[key] = scale · Σ_d  k[d, key] · q[d, queries]  + mask[key, queries]
    weights = softmax over keys, lane by lane
    for d in features:   y[d, queries] = Σ_key  v[d, key] · weights[key]

Causal attention ends each tile's keys at its last query.
"""

import math
from dataclasses import dataclass

import numpy as np

from boxwood._internal.engine.kernels.attention_text import Mask, Specialisation, emit
from boxwood._internal.engine.kernels.contract import Code, Kernel, Pointer
from boxwood._internal.engine.kernels.packing import dense_tile
from boxwood._internal.engine.layouts import Array, Planes, columns, lines, position_mask, vector
from boxwood._internal.engine.targets import Target

__all__ = ["Attention", "Mask", "build", "reference"]


@dataclass(frozen=True)
class Attention:
    """``y = softmax(scale · qᵀk + mask) v`` for each head; queries that may see no key give zeros.

    The first part of one buffer's features are the queries of all heads, then come keys, then
    values, which several heads may share.

    Args:
        heads: heads of queries, each with features of its own.
        size: features of a head.
        tokens: tokens per image.
        scale: factor of the scores; 1/√size when None.
        key_heads: heads of keys and values; as many as of queries when 0.
        causal: whether queries see themselves and earlier tokens only.
        mask: what the second input is.
        sequences: of this number of tokens, one after the other in each plane.
        own: whether each sequence has its own mask, after that of the sequence before.
    """

    heads: int
    size: int
    tokens: int
    scale: float | None = None
    key_heads: int = 0
    causal: bool = False
    mask: Mask = Mask.NONE
    sequences: int = 1
    own: bool = False

    @property
    def shared(self) -> int:
        """How many heads share keys and values."""
        return self.heads // (self.key_heads or self.heads)

    @property
    def source(self) -> Planes:
        """Layout of queries, keys and values."""
        heads = self.heads + 2 * (self.key_heads or self.heads)
        return columns(heads * self.size, self.sequences * self.tokens)

    @property
    def target(self) -> Planes:
        """Layout of y."""
        return columns(self.heads * self.size, self.sequences * self.tokens)

    @property
    def second(self) -> Planes:
        """Layout of the mask, [keys, queries]; the vectors of sequences are images of it."""
        if self.mask is Mask.KEYS:
            return vector(self.tokens)
        if self.mask is Mask.SEQUENCES:
            return columns(self.tokens, self.sequences)
        heads = self.heads if self.mask is Mask.HEADS else 1
        return columns(self.tokens, self.tokens * heads * (self.sequences if self.own else 1))

    @property
    def mask_step(self) -> int:
        """Floats of the mask from sequence to sequence."""
        if not self.own:
            return 0
        heads = self.heads if self.mask is Mask.HEADS else 1
        steps = {Mask.KEYS: self.second.image, Mask.SEQUENCES: 1}
        return steps.get(self.mask, self.tokens * heads)

    @property
    def factor(self) -> float:
        """The scale."""
        return 1 / math.sqrt(self.size) if self.scale is None else self.scale


def reference(problem: Attention, x: Array, mask: Array | None = None) -> Array:
    """What the kernel computes, in float64, of values [images, features, 1, tokens].

    Args:
        problem: the attention.
        x: queries, keys and values.
        mask: [keys], [keys, queries] or [keys, heads, queries]; of each sequence, if it has its own.
    """
    tokens, size = problem.tokens, problem.size
    images, sequences = len(x), problem.sequences
    x = np.moveaxis(x.reshape(images, -1, sequences, tokens), 2, 1).reshape(
        images * sequences, -1, tokens
    )
    parts = x.astype(np.float64).reshape(len(x), -1, size, tokens)
    groups = problem.heads // problem.shared
    query, key, value = np.split(parts, [problem.heads, problem.heads + groups], axis=1)
    key, value = (np.repeat(part, problem.shared, axis=1) for part in (key, value))
    scores = problem.factor * np.einsum("nhdk,nhdq->nhkq", key, query)
    if mask is not None:
        masks = mask if problem.own else mask[None]
        queries = tokens if masks.ndim > 2 else 1
        wide = masks.astype(np.float64).reshape(len(masks), tokens, -1, queries)
        scores += np.tile(wide.transpose(0, 2, 1, 3), (len(x) // len(masks), 1, 1, 1))
    if problem.causal:
        scores = np.where(np.tri(tokens, dtype=bool).T, scores, -np.inf)
    most = scores.max(2, keepdims=True)
    power = np.exp(scores - np.where(np.isinf(most), 0, most))
    total = power.sum(2, keepdims=True)
    weights = power / np.where(total == 0, 1, total)
    y = np.einsum("nhdk,nhkq->nhdq", value, weights)
    y = np.moveaxis(y.reshape(images, sequences, -1, tokens), 1, 2)
    return np.asarray(y.reshape(images, -1, 1, sequences * tokens), np.float32)


def build(problem: Attention, target: Target) -> Kernel:
    """Make the kernel."""
    source, out, mask = problem.source, problem.target, problem.second
    width, _ = dense_tile(target)
    end = lines(problem.tokens)
    vectors = end // target.lanes
    wide = vectors // width
    scratch = 4 * lines(problem.tokens * width * target.lanes)
    key_heads = problem.heads // problem.shared
    numbers = {
        "heads": problem.heads,
        "shared": problem.shared,
        "size": problem.size,
        "tokens": problem.tokens,
        "sequences": problem.sequences,
        "source_image": 4 * source.image,
        "target_image": 4 * out.image,
        "plane": 4 * source.plane,
        "keys": 4 * source.plane * problem.heads * problem.size,
        "values": 4 * source.plane * (problem.heads + key_heads) * problem.size,
        "vectors": vectors,
        "wide": wide,
        "tiles": wide + vectors % width,
        "line_end": 4 * lines(out.span),
        "scale_bits": int(np.float32(problem.factor).view(np.int32)),
        "scratch_bytes": scratch,
        "mask_head": 4 * problem.tokens if problem.mask is Mask.HEADS else 0,
        "mask_key": 4 * mask.plane,
        "mask_sequence": 4 * problem.mask_step,
    }
    shape = Specialisation(problem.causal, problem.mask, problem.sequences > 1, problem.own)
    return Kernel(
        Code(shape.entry(target), lambda: emit(shape, target)),
        (*(numbers[name] for name in shape.numbers), Pointer(0)),
        (position_mask(columns(1, problem.tokens), target.lanes),),
        scratch=scratch,
        units=problem.sequences * problem.heads * numbers["tiles"],
    )
