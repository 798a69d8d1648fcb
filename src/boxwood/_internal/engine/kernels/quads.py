"""Quantised activations: bytes of four channels in each 32-bit word.

A plane of words takes the place of four planes of floats, so that every layout, halo, gutter, tile
and gathering of floats holds for words unchanged. A byte q is ``scale · (q − zero)``;
gutters and halos hold the byte of 0, as padding does.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine.llvm.build import Builder, constant, lanes_of
from boxwood._internal.engine.targets import Dots, Target

QUAD = 4
"""Channels of a word."""

ROUNDING = float(2**23)
"""Added to a number from 0 to 255, its last bits are the number rounded, halves to even."""

Bytes = NDArray[np.uint8]
Words = NDArray[np.int32]


@dataclass(frozen=True)
class Quantisation:
    """What bytes mean: ``scale · (q − zero)``.

    Args:
        scale: above 0.
        zero: the byte of 0, from 0 to 255.
    """

    scale: float
    zero: int

    @property
    def word(self) -> int:
        """Four times the byte of 0, as a signed word."""
        return int(np.array(self.zero * 0x01010101, np.uint32).view(np.int32))


def quad_count(channels: int) -> int:
    """Words that hold one value of each channel.

    Example:
        >>> quad_count(3), quad_count(8)
        (1, 2)
    """
    return math.ceil(channels / QUAD)


def to_words(values: NDArray[np.integer], fill: int = 0) -> Words:
    """Pack bytes [outer, channels, ...] into words [outer, quads, ...].

    Args:
        values: bytes with or without sign.
        fill: what channels are that are missing from the last quad.

    Example:
        >>> to_words(np.array([[1, 2, 3]], np.uint8)).tolist()
        [[197121]]
    """
    outer, channels = values.shape[:2]
    full = np.full((outer, quad_count(channels) * QUAD, *values.shape[2:]), fill, values.dtype)
    full[:, :channels] = values
    by_quad = full.reshape(outer, -1, QUAD, *values.shape[2:])
    return np.ascontiguousarray(np.moveaxis(by_quad, 2, -1)).view(np.int32)[..., 0]


def to_bytes(words: Words, channels: int) -> Bytes:
    """Unpack what `to_words` packed."""
    parts = np.ascontiguousarray(words)[..., None].view(np.uint8)
    full = np.moveaxis(parts, -1, 2)
    found: Bytes = full.reshape(len(words), -1, *words.shape[2:])[:, :channels]
    return found


def quantised(x: NDArray[np.float32], to: Quantisation) -> Bytes:
    """What the kernels make of floats, bit for bit; NaN becomes 0."""
    scaled = x * np.float32(1 / to.scale) + np.float32(to.zero)
    return np.asarray(np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)), np.uint8)


def splat(f: Builder, kind: str, scalar: str) -> str:
    """A 32-bit integer in every lane."""
    first = f.value(f"insertelement {kind} poison, i32 {scalar}, i32 0")
    lanes = lanes_of(kind)
    return f.value(f"shufflevector {kind} {first}, {kind} poison, <{lanes} x i32> zeroinitializer")


def words(kind: str, number: int) -> str:
    """A constant integer in every lane."""
    return "<" + ", ".join(f"i32 {number}" for _ in range(lanes_of(kind))) + ">"


def byte_of(f: Builder, target: Target, word: str, shift: str) -> str:
    """One byte of each word as a float.

    Args:
        f: the function being written.
        target: the family.
        word: the words.
        shift: by how many bits it lies left of the last, in every lane.
    """
    kind = target.words
    byte = f.binary("and", kind, f.binary("lshr", kind, word, shift), words(kind, 255))
    return f.value(f"sitofp {kind} {byte} to {target.vector}")


def rounded(f: Builder, target: Target, y: str, low: str, high: str) -> str:
    """Floats as whole numbers from ``low`` to ``high``, which are within 0 and 255; NaN as ``low``."""
    kind = target.vector
    above = f.value(f"fcmp ogt {kind} {y}, {low}")
    y = f.select(above, kind, y, low)
    below = f.value(f"fcmp olt {kind} {y}, {high}")
    y = f.select(below, kind, y, high)
    shifted = f.binary("fadd", kind, y, constant(kind, ROUNDING))
    bits = f.value(f"bitcast {kind} {shifted} to {target.words}")
    return f.binary("and", target.words, bits, words(target.words, 255))


def fill(f: Builder, target: Target, base: str, start: str, stop: str, word: str) -> None:
    """Write one vector of words from byte ``start`` to byte ``stop``, both on vectors."""
    size = 4 * target.lanes
    with f.loop(start, stop, size) as place:
        f.store(target.words, word, f.offset(base, place), size)


@dataclass(frozen=True)
class DotProducts:
    """Emits sums of four products of bytes: activations without a sign, weights with one.

    Args:
        f: the function being written.
        target: the family.
        wide: products of neighbours may exceed 16 bits, so that they are added in 32.
    """

    f: Builder
    target: Target
    wide: bool

    def factor(self, weights: str) -> tuple[str, ...]:
        """Prepare a word of weights that is in every lane."""
        if not self.wide:
            return (weights,)
        shorts = f"<{2 * self.target.lanes} x i16>"
        both = self._cast(weights, self.target.words, shorts)
        eight = self._shorts(8)
        low = self.f.binary("shl", shorts, both, eight)
        return self.f.binary("ashr", shorts, low, eight), self.f.binary("ashr", shorts, both, eight)

    def add(self, sums: str, x: str, factor: tuple[str, ...]) -> str:
        """Return the sums with the products of a word of activations added.

        Args:
            sums: 32-bit sums.
            x: words of activations.
            factor: what `factor` made.
        """
        f, kind, lanes = self.f, self.target.words, self.target.lanes
        if self.target.dots is Dots.VNNI:
            return f.intrinsic_of(
                f"x86.avx512.vpdpbusd.{32 * lanes}", kind, (kind,) * 3, (sums, x, *factor)
            )
        if self.target.dots is Dots.SIGNED:
            chars = f"<{4 * lanes} x i8>"
            signed = f.binary("xor", kind, x, words(kind, -0x7F7F7F80))
            signs = (sums, self._cast(signed, kind, chars), self._cast(factor[0], kind, chars))
            name = f"aarch64.neon.sdot.v{lanes}i32.v{4 * lanes}i8"
            return f.intrinsic_of(name, kind, (kind, chars, chars), signs)
        shorts, chars = f"<{2 * lanes} x i16>", f"<{4 * lanes} x i8>"
        if self.wide:
            both = self._cast(x, kind, shorts)
            low = f.binary("and", shorts, both, self._shorts(255))
            high = f.binary("lshr", shorts, both, self._shorts(8))
            for part, weights in zip((low, high), factor, strict=True):
                sums = f.binary("add", kind, sums, self._added_pairs(part, weights))
            return sums
        name = "x86.avx512.pmaddubs.w.512" if lanes == 16 else "x86.avx2.pmadd.ub.sw"
        given = (self._cast(x, kind, chars), self._cast(factor[0], kind, chars))
        pairs = f.intrinsic_of(name, shorts, (chars, chars), given)
        return f.binary("add", kind, sums, self._added_pairs(pairs, self._shorts(1)))

    def _added_pairs(self, x: str, weights: str) -> str:
        name = "x86.avx512.pmaddw.d.512" if self.target.lanes == 16 else "x86.avx2.pmadd.wd"
        shorts = f"<{2 * self.target.lanes} x i16>"
        return self.f.intrinsic_of(name, self.target.words, (shorts, shorts), (x, weights))

    def _cast(self, value: str, kind: str, to: str) -> str:
        return self.f.value(f"bitcast {kind} {value} to {to}")

    def _shorts(self, number: int) -> str:
        return "<" + ", ".join(f"i16 {number}" for _ in range(2 * self.target.lanes)) + ">"
