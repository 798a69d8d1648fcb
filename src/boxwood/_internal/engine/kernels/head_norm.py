"""Root-mean-square normalisation of each head's features on columns; the features after the heads are copied."""

from dataclasses import dataclass

import numpy as np

from boxwood._internal.engine.kernels import frame
from boxwood._internal.engine.kernels.contract import Code, Kernel, Pointer
from boxwood._internal.engine.kernels.normalisation import SUMS, sum_of_terms
from boxwood._internal.engine.layouts import Array, Planes, columns, lines, position_mask
from boxwood._internal.engine.llvm.build import constant, module
from boxwood._internal.engine.targets import Target
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class HeadNorm:
    """``y = x / √(mean of squares + ε) · scale`` over the features of each head of each token.

    Args:
        features: features of a token, a multiple of those of a head.
        tokens: tokens per image.
        heads: heads at the start of the features.
        size: features of a head.
        epsilon: added to the mean square.
    """

    features: int
    tokens: int
    heads: int
    size: int
    epsilon: float

    @property
    def source(self) -> Planes:
        """Layout of x."""
        return columns(self.features, self.tokens)

    @property
    def target(self) -> Planes:
        """Layout of y."""
        return columns(self.features, self.tokens)


def reference(problem: HeadNorm, x: Array, scales: Array) -> Array:
    """What the kernel computes, in float64, of values [images, features, 1, tokens].

    Args:
        problem: the normalisation.
        x: what is normalised.
        scales: [heads, features of a head].
    """
    whole = x.astype(np.float64)
    end = problem.heads * problem.size
    heads = whole[:, :end].reshape(len(x), problem.heads, problem.size, -1)
    root = np.sqrt((heads**2).mean(2, keepdims=True) + problem.epsilon)
    whole[:, :end] = (heads / root * scales[:, :, None]).reshape(len(x), end, 1, -1)
    return whole.astype(np.float32)


NUMBERS = ("groups", "heads", "size", "image", "plane", "vectors", "line_end", "epsilon_bits")


def build(problem: HeadNorm, scales: Array, target: Target) -> Kernel:
    """Make the kernel.

    Args:
        problem: the normalisation.
        scales: [heads, features of a head].
        target: the family that runs it.

    Raises:
        InvalidInput: scales are not one per feature of each head, or the heads do not divide the
            features.
    """
    groups, rest = divmod(problem.features, problem.size)
    if scales.shape != (problem.heads, problem.size) or rest or problem.heads > groups:
        raise InvalidInput(
            f"Expected scales of shape {(problem.heads, problem.size)} for heads within "
            f"{problem.features} features, got {scales.shape}; give one scale for each feature of "
            f"each head."
        )
    layout = problem.source
    end = lines(layout.span)
    vectors = end // target.lanes
    epsilon = int(np.float32(problem.epsilon).view(np.int32))
    entry = f"head_norm_{target.lanes}"
    numbers = (
        groups, problem.heads, problem.size, 4 * layout.image, 4 * layout.plane, vectors, 4 * end,
        epsilon,
    )  # fmt: skip
    return Kernel(
        Code(entry, lambda: emit(entry, target)),
        (*numbers, Pointer(0), Pointer(1)),
        (
            np.ascontiguousarray(scales, np.float32).reshape(-1),
            position_mask(layout, target.lanes),
        ),
        units=groups * vectors,
    )


def emit(entry: str, target: Target) -> str:
    """The text: a range of (image, head, vector of tokens) for each thread."""
    f, a = frame.begin(entry, NUMBERS, ("scales", "mask"))
    kind, size = target.vector, 4 * target.lanes
    bits = f.value(f"trunc i64 {a['epsilon_bits']} to i32")
    epsilon = f.splat(kind, f.value(f"bitcast i32 {bits} to float"))
    count = f.splat(kind, f.value(f"uitofp i64 {a['size']} to float"))
    sums = [f.variable(kind) for _ in range(SUMS)]
    each = f.mul(a["groups"], a["vectors"])
    with frame.units(f, f.mul(a["images"], each)) as unit:
        image, inner = f.div(unit, each), f.rem(unit, each)
        group, vector = f.div(inner, a["vectors"]), f.rem(inner, a["vectors"])
        first = f.mul(group, a["size"])
        base = f.add(f.mul(image, a["image"]), f.mul(first, a["plane"]))
        place = f.add(base, f.mul(vector, size))
        x, y = f.offset(a["source"], place), f.offset(a["target"], place)

        def value(feature: str, x: str = x) -> str:
            return f.load(kind, f.offset(x, f.mul(feature, a["plane"])), size)

        def square(feature: str) -> str:
            x = value(feature)
            return f.binary("fmul", kind, x, x)

        normalised = f.compare("slt", group, a["heads"])
        last = f.compare("eq", vector, f.sub(a["vectors"], 1))
        mask = f.offset(a["mask"], f.mul(vector, max(target.lanes, 8) // 8))
        keep = frame.mask(f, target, mask)
        with f.when(normalised):
            squares = sum_of_terms(f, kind, sums, a["size"], square)
            mean = f.binary("fadd", kind, f.binary("fdiv", kind, squares, count), epsilon)
            root = f.intrinsic("sqrt", kind, mean)
            inverse = f.binary("fdiv", kind, constant(kind, 1.0), root)
            with f.loop(0, a["size"]) as feature:
                at = f.add(first, feature)
                scale = f.splat(kind, f.load("float", f.offset(a["scales"], at, "float")))
                result = f.binary(
                    "fmul", kind, f.binary("fmul", kind, value(feature), inverse), scale
                )
                result = f.select(keep, kind, result, "zeroinitializer")
                f.store(kind, result, f.offset(y, f.mul(feature, a["plane"])), size)
        with f.otherwise(normalised), f.loop(0, a["size"]) as feature:
            f.store(kind, value(feature), f.offset(y, f.mul(feature, a["plane"])), size)
        with f.when(last), f.loop(0, a["size"]) as feature:
            plane = f.offset(f.offset(a["target"], base), f.mul(feature, a["plane"]))
            frame.zero(f, target, plane, a["line_end"], a["plane"])
    return module([f])
