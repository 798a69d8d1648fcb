"""Layer and root-mean-square normalisation over the features of columns, without turning them into rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from boxwood._internal.engine.kernels import frame
from boxwood._internal.engine.kernels.contract import Code, Kernel, Pointer
from boxwood._internal.engine.layouts import Array, Planes, columns, lines, position_mask
from boxwood._internal.engine.llvm.build import Builder, constant, module
from boxwood._internal.engine.targets import Target
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class LayerNorm:
    """``y = (x − mean) / √(variance + ε) · weight + bias`` over the features of each token.

    Args:
        features: features of a token.
        tokens: tokens per image.
        epsilon: added to the variance.
        centred: whether the mean is subtracted; if not, the variance is the mean of squares.
    """

    features: int
    tokens: int
    epsilon: float = 1e-5
    centred: bool = True

    @property
    def source(self) -> Planes:
        """Layout of x."""
        return columns(self.features, self.tokens)

    @property
    def target(self) -> Planes:
        """Layout of y."""
        return columns(self.features, self.tokens)


def reference(problem: LayerNorm, x: Array, weight: Array, bias: Array) -> Array:
    """What the kernel computes, in float64, of values [images, features, 1, tokens]."""
    wide = x.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True) if problem.centred else wide
    scale = np.sqrt((centred**2).mean(1, keepdims=True) + problem.epsilon)
    affine = centred / scale * weight[:, None, None] + bias[:, None, None]
    return np.asarray(affine, np.float32)


NUMBERS = ("features", "image", "plane", "vectors", "line_end", "epsilon_bits")
SUMS = 4
"""Partial sums, so that one addition does not wait for the one before."""


def build(problem: LayerNorm, weight: Array, bias: Array, target: Target) -> Kernel:
    """Make the kernel.

    Args:
        problem: the normalisation.
        weight: [features], the scale.
        bias: [features], the shift.
        target: the family that runs it.

    Raises:
        InvalidInput: scale or shift are not one per feature.
    """
    if weight.shape != (problem.features,) or bias.shape != (problem.features,):
        raise InvalidInput(
            f"Expected scale and shift of shape {(problem.features,)}, got {weight.shape} and "
            f"{bias.shape}; give one of each per feature."
        )
    layout = problem.source
    end = lines(layout.span)
    epsilon = int(np.float32(problem.epsilon).view(np.int32))
    entry = f"{'layer' if problem.centred else 'rms'}_norm_{target.lanes}"
    steps = (4 * layout.image, 4 * layout.plane, end // target.lanes, 4 * end)
    constants = (
        np.asarray(weight, np.float32),
        np.asarray(bias, np.float32),
        position_mask(layout, target.lanes),
    )
    return Kernel(
        Code(entry, lambda: emit(entry, problem.centred, target)),
        (problem.features, *steps, epsilon, *(Pointer(index) for index in range(3))),
        constants,
        units=end // target.lanes,
    )


def emit(entry: str, centred: bool, target: Target) -> str:
    """The text: a range of vectors of tokens for each thread, a pass over the features per sum."""
    f, a = frame.begin(entry, NUMBERS, ("weight", "bias", "mask"))
    kind, size = target.vector, 4 * target.lanes
    bits = f.value(f"trunc i64 {a['epsilon_bits']} to i32")
    epsilon = f.splat(kind, f.value(f"bitcast i32 {bits} to float"))
    count = f.splat(kind, f.value(f"uitofp i64 {a['features']} to float"))
    sums = [f.variable(kind) for _ in range(SUMS)]
    with frame.units(f, f.mul(a["images"], a["vectors"])) as unit:
        image, vector = f.div(unit, a["vectors"]), f.rem(unit, a["vectors"])
        place = f.add(f.mul(image, a["image"]), f.mul(vector, size))
        x, y = f.offset(a["source"], place), f.offset(a["target"], place)

        def value(feature: str, x: str = x) -> str:
            return f.load(kind, f.offset(x, f.mul(feature, a["plane"])), size)

        mean = "zeroinitializer"
        if centred:
            mean = f.binary("fdiv", kind, sum_of_terms(f, kind, sums, a["features"], value), count)

        def moved(feature: str, value: Callable[[str], str] = value, mean: str = mean) -> str:
            return f.binary("fsub", kind, value(feature), mean) if centred else value(feature)

        def square(feature: str, moved: Callable[[str], str] = moved) -> str:
            x = moved(feature)
            return f.binary("fmul", kind, x, x)

        squares = sum_of_terms(f, kind, sums, a["features"], square)
        variance = f.binary("fdiv", kind, squares, count)
        root = f.intrinsic("sqrt", kind, f.binary("fadd", kind, variance, epsilon))
        inverse = f.binary("fdiv", kind, constant(kind, 1.0), root)
        mask = f.offset(a["mask"], f.mul(vector, max(target.lanes, 8) // 8))
        keep = frame.mask(f, target, mask)
        last = f.compare("eq", vector, f.sub(a["vectors"], 1))
        with f.loop(0, a["features"]) as feature:
            scale = f.splat(kind, f.load("float", f.offset(a["weight"], feature, "float")))
            shift = f.splat(kind, f.load("float", f.offset(a["bias"], feature, "float")))
            unit_ = f.binary("fmul", kind, moved(feature), inverse)
            result = f.select(keep, kind, f.fma(kind, unit_, scale, shift), "zeroinitializer")
            plane = f.mul(feature, a["plane"])
            f.store(kind, result, f.offset(y, plane), size)
            with f.when(last):
                base = f.offset(f.offset(a["target"], f.mul(image, a["image"])), plane)
                frame.zero(f, target, base, a["line_end"], a["plane"])
    return module([f])


def sum_of_terms(
    f: Builder, kind: str, sums: Sequence[str], count: str, term: Callable[[str], str]
) -> str:
    """The sum of a term over all features, in interleaved parts."""
    for sum_ in sums:
        f.store(kind, "zeroinitializer", sum_)
    whole = f.sub(count, f.rem(count, len(sums)))
    with f.loop(0, whole, len(sums)) as start:
        for place, sum_ in enumerate(sums):
            value = term(f.add(start, place))
            f.store(kind, f.binary("fadd", kind, f.load(kind, sum_), value), sum_)
    with f.loop(whole, count) as feature:
        value = term(feature)
        f.store(kind, f.binary("fadd", kind, f.load(kind, sums[0]), value), sums[0])
    parts = [f.load(kind, sum_) for sum_ in sums]
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [f.binary("fadd", kind, left, right) for left, right in pairs]
    return parts[0]
