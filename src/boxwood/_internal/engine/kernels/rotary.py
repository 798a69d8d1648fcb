"""Rotary positions on columns: each feature of a head, and its partner, times a factor per token."""

from dataclasses import dataclass

import numpy as np

from boxwood._internal.engine.kernels import frame
from boxwood._internal.engine.kernels.contract import Code, Kernel, Pointer
from boxwood._internal.engine.layouts import Array, Planes, columns, lines
from boxwood._internal.engine.llvm.build import module
from boxwood._internal.engine.targets import Target
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class Rotary:
    """``y[d] = x[d] · near[d] + x[partner[d]] · far[d]`` for each token; what follows is copied.

    Args:
        features: features of a token.
        tokens: tokens per image.
        heads: heads at the start of the features that are rotated.
        partners: for each feature of a head, the number of the other one in it.
        sequences: of this number of tokens, one after the other in each plane.
    """

    features: int
    tokens: int
    heads: int
    partners: tuple[int, ...]
    sequences: int = 1

    @property
    def source(self) -> Planes:
        """Layout of x."""
        return columns(self.features, self.sequences * self.tokens)

    @property
    def target(self) -> Planes:
        """Layout of y."""
        return columns(self.features, self.sequences * self.tokens)


def reference(problem: Rotary, x: Array, table: Array) -> Array:
    """What the kernel computes, in float64, of values [images, features, 1, tokens].

    Args:
        problem: the rotation.
        x: what is rotated.
        table: near and far, [2, tokens, features of a head].
    """
    size = len(problem.partners)
    near, far = np.tile(table.astype(np.float64).transpose(0, 2, 1), problem.sequences)
    whole = x.astype(np.float64)
    heads = whole[:, : problem.heads * size].reshape(len(x), problem.heads, size, -1)
    rotated = heads * near + heads[:, :, list(problem.partners)] * far
    whole[:, : problem.heads * size] = rotated.reshape(len(x), -1, 1, x.shape[-1])
    return whole.astype(np.float32)


NUMBERS = ("features", "rotated", "size", "image", "plane", "line_end", "pitch")


def build(problem: Rotary, table: Array, target: Target) -> Kernel:
    """Make the kernel.

    Args:
        problem: the rotation.
        table: near and far, [2, tokens, features of a head]; there may be more tokens.
        target: the family that runs it.

    Raises:
        InvalidInput: the table's shape is not the problem's, or a partner is not in the head.
    """
    layout, size = problem.source, len(problem.partners)
    enough = table.ndim == 3 and table.shape[1] >= problem.tokens
    table = table[:, : problem.tokens] if enough else table
    if table.shape != (2, problem.tokens, size) or problem.heads * size > problem.features:
        raise InvalidInput(
            f"Expected factors of shape {(2, problem.tokens, size)} for heads within "
            f"{problem.features} features, got {table.shape} and {problem.heads} heads; give near "
            f"and far of each token and feature."
        )
    if not all(0 <= partner < size for partner in problem.partners):
        raise InvalidInput(
            f"Expected partners within {size} features, got {problem.partners}; count them from 0."
        )
    end = lines(layout.span)
    factors = np.zeros((2, size, end), np.float32)
    factors[..., : layout.width] = np.tile(table.transpose(0, 2, 1), problem.sequences)
    entry = f"rotary_{target.lanes}"
    numbers = (
        problem.features, problem.heads * size, size, 4 * layout.image, 4 * layout.plane, 4 * end,
        4 * size * end,
    )  # fmt: skip
    return Kernel(
        Code(entry, lambda: emit(entry, target)),
        (*numbers, Pointer(0), Pointer(1)),
        (factors.reshape(-1), np.array(problem.partners, np.int32)),
        units=problem.features,
    )


def emit(entry: str, target: Target) -> str:
    """The text of the kernel: a range of planes for each thread."""
    f, a = frame.begin(entry, NUMBERS, ("factors", "partners"))
    kind, size = target.vector, 4 * target.lanes
    with frame.units(f, f.mul(a["images"], a["features"])) as unit:
        image, feature = f.div(unit, a["features"]), f.rem(unit, a["features"])
        x = f.offset(a["source"], f.mul(image, a["image"]))
        place = f.mul(feature, a["plane"])
        own = f.offset(x, place)
        y = f.offset(f.offset(a["target"], f.mul(image, a["image"])), place)
        rotated = f.compare("slt", feature, a["rotated"])
        with f.when(rotated):
            within = f.rem(feature, a["size"])
            partner = f.load_signed("i32", a["partners"], within)
            other = f.add(f.sub(feature, within), partner)
            far = f.offset(x, f.mul(other, a["plane"]))
            factor = f.offset(a["factors"], f.mul(within, a["line_end"]))
            with f.loop(0, a["line_end"], size) as at:
                scale = f.load(kind, f.offset(f.offset(factor, a["pitch"]), at), size)
                second = f.binary("fmul", kind, f.load(kind, f.offset(far, at), size), scale)
                scale = f.load(kind, f.offset(factor, at), size)
                first = f.load(kind, f.offset(own, at), size)
                f.store(kind, f.fma(kind, first, scale, second), f.offset(y, at), size)
        with f.otherwise(rotated), f.loop(0, a["line_end"], size) as at:
            f.store(kind, f.load(kind, f.offset(own, at), size), f.offset(y, at), size)
        frame.zero(f, target, y, a["line_end"], a["plane"])
    return module([f])
