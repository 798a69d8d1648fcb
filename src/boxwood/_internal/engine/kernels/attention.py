"""Attention over the tokens of columns: scores, softmax and mixing without turning them into rows.

For each head and each few vectors of queries, every key's scores stay in the first cache::

    for key in keys:     scores[key] = scale · Σ_d  k[d, key] · q[d, queries]
    weights = softmax over keys, lane by lane
    for d in features:   y[d, queries] = Σ_key  v[d, key] · weights[key]
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from boxwood._internal.engine.kernels import activations, frame
from boxwood._internal.engine.kernels.contract import Code, Kernel, Pointer
from boxwood._internal.engine.kernels.packing import dense_tile
from boxwood._internal.engine.layouts import Array, Planes, columns, lines, position_mask
from boxwood._internal.engine.llvm.build import Builder, constant, lanes_of, module
from boxwood._internal.engine.targets import Target


@dataclass(frozen=True)
class Attention:
    """``y = softmax(scale · qᵀk) v`` for each head, with no mask.

    Queries, keys and values are the first, second and third part of one buffer's features.

    Args:
        heads: heads, each with features of its own.
        size: features of a head.
        tokens: tokens per image.
        scale: factor of the scores; 1/√size when None.
    """

    heads: int
    size: int
    tokens: int
    scale: float | None = None

    @property
    def source(self) -> Planes:
        """Layout of queries, keys and values."""
        return columns(3 * self.heads * self.size, self.tokens)

    @property
    def target(self) -> Planes:
        """Layout of y."""
        return columns(self.heads * self.size, self.tokens)

    @property
    def factor(self) -> float:
        """The scale."""
        return 1 / math.sqrt(self.size) if self.scale is None else self.scale


def reference(problem: Attention, x: Array) -> Array:
    """What the kernel computes, in float64, of values [images, features, 1, tokens]."""
    shape = (len(x), 3, problem.heads, problem.size, problem.tokens)
    query, key, value = x.astype(np.float64).reshape(shape).swapaxes(0, 1)
    scores = problem.factor * np.einsum("nhdk,nhdq->nhkq", key, query)
    power = np.exp(scores - scores.max(2, keepdims=True))
    weights = power / power.sum(2, keepdims=True)
    y = np.einsum("nhdk,nhkq->nhdq", value, weights)
    return np.asarray(y.reshape(len(x), -1, 1, problem.tokens), np.float32)


NUMBERS = (
    "heads",
    "size",
    "tokens",
    "source_image",
    "target_image",
    "plane",
    "vectors",  # of queries
    "wide",  # tiles of all registers; the rest are single vectors
    "tiles",
    "line_end",
    "scale_bits",
    "scratch_bytes",
)


def build(problem: Attention, target: Target) -> Kernel:
    """Make the kernel."""
    source, out = problem.source, problem.target
    width, _ = dense_tile(target)
    end = lines(out.span)
    vectors = end // target.lanes
    wide = vectors // width
    scratch = 4 * lines(problem.tokens * width * target.lanes)
    numbers = {
        "heads": problem.heads,
        "size": problem.size,
        "tokens": problem.tokens,
        "source_image": 4 * source.image,
        "target_image": 4 * out.image,
        "plane": 4 * source.plane,
        "vectors": vectors,
        "wide": wide,
        "tiles": wide + vectors % width,
        "line_end": 4 * end,
        "scale_bits": int(np.float32(problem.factor).view(np.int32)),
        "scratch_bytes": scratch,
    }
    entry = f"attention_{target.lanes}"
    return Kernel(
        Code(entry, lambda: emit(entry, target)),
        (*(numbers[name] for name in NUMBERS), Pointer(0)),
        (position_mask(out, target.lanes),),
        scratch=scratch,
        units=problem.heads * numbers["tiles"],
    )


_PARAMETERS = (
    ("ptr", "%query"),
    ("ptr", "%key"),
    ("ptr", "%value"),
    ("ptr", "%out"),
    ("ptr", "%scores"),
    ("ptr", "%mask"),
    ("i64", "%plane"),
    ("i64", "%size"),
    ("i64", "%tokens"),
    ("float", "%scale"),
)


def emit(entry: str, target: Target) -> str:
    """The text of the kernel: a range of (image, head, tile of queries) for each thread."""
    width, _ = dense_tile(target)
    f, a = frame.begin(entry, NUMBERS, ("mask",))
    size = 4 * target.lanes
    scratch = f.offset(a["scratch"], f.mul("%thread", a["scratch_bytes"]))
    bits = f.value(f"trunc i64 {a['scale_bits']} to i32")
    scale = f.value(f"bitcast i32 {bits} to float")
    per_image = f.mul(a["heads"], a["tiles"])
    part = f.mul(f.mul(a["heads"], a["size"]), a["plane"])
    with frame.units(f, f.mul(a["images"], per_image)) as unit:
        image, rest = f.div(unit, per_image), f.rem(unit, per_image)
        head, tile = f.div(rest, a["tiles"]), f.rem(rest, a["tiles"])
        # Wide tiles come first; each later one is a single vector.
        narrow = f.compare("sge", tile, a["wide"])
        later = f.sub(tile, f.minimum(tile, a["wide"]))
        vector = f.add(f.mul(f.minimum(tile, a["wide"]), width), later)
        planes = f.mul(f.mul(head, a["size"]), a["plane"])
        x = f.offset(a["source"], f.add(f.mul(image, a["source_image"]), planes))
        y = f.offset(a["target"], f.add(f.mul(image, a["target_image"]), planes))
        position = f.mul(vector, size)
        values = (
            f.offset(x, position),
            f.offset(x, part),
            f.offset(x, f.add(part, part)),
            f.offset(y, position),
            scratch,
            f.offset(a["mask"], f.mul(vector, max(target.lanes, 8) // 8)),
            a["plane"],
            a["size"],
            a["tokens"],
            scale,
        )
        for registers, condition in ((width, f.otherwise), (1, f.when)):
            with condition(narrow):
                frame.call(f, f"{entry}.tile{registers}", _PARAMETERS, values)
        last = f.compare("eq", tile, f.sub(a["tiles"], 1))
        with f.when(last), f.loop(0, a["size"]) as feature:
            base = f.offset(y, f.mul(feature, a["plane"]))
            frame.zero(f, target, base, a["line_end"], a["plane"])
    tiles = [_tile(f"{entry}.tile{registers}", registers, target) for registers in (width, 1)]
    return module([*tiles, f])


def _tile(name: str, width: int, target: Target) -> Builder:
    """All keys for a few vectors of queries of one head."""
    f = Builder(name, _PARAMETERS, internal=True)
    kind, size = target.vector, 4 * target.lanes
    row = width * size
    scale = f.splat(kind, "%scale")
    most = [f.variable(kind, constant(kind, -math.inf)) for _ in range(width)]
    for key, lanes in _blocks(f, "%tokens", target):

        def queries(d: str) -> str:
            return f.offset("%query", f.mul(d, "%plane"))

        def keys(d: str, lane: int, key: str = key) -> str:
            at = f.offset("%key", f.mul(d, "%plane"))
            return f.offset(f.offset(at, key, "float"), 4 * lane)

        for lane, sums in enumerate(_products(f, kind, lanes, width, "%size", queries, keys)):
            for v, sum_ in enumerate(sums):
                score = f.binary("fmul", kind, sum_, scale)
                to = f.offset("%scores", f.mul(f.add(key, lane), row))
                f.store(kind, score, f.offset(to, v * size), size)
                old = f.load(kind, most[v])
                more = f.value(f"fcmp ogt {kind} {score}, {old}")
                f.store(kind, f.select(more, kind, score, old), most[v])
    totals = [f.variable(kind, "zeroinitializer") for _ in range(width)]
    with f.loop(0, "%tokens") as key:
        at = f.offset("%scores", f.mul(key, row))
        for v in range(width):
            place = f.offset(at, v * size)
            less = f.binary("fsub", kind, f.load(kind, place, size), f.load(kind, most[v]))
            power = activations.exponential(f, kind, less)
            f.store(kind, power, place, size)
            f.store(kind, f.binary("fadd", kind, f.load(kind, totals[v]), power), totals[v])
    one = constant(kind, 1.0)
    inverse = [f.binary("fdiv", kind, one, f.load(kind, total)) for total in totals]
    keeps = [
        frame.mask(f, target, f.offset("%mask", v * max(target.lanes, 8) // 8))
        for v in range(width)
    ]
    for feature, lanes in _blocks(f, "%size", target):

        def weights(key: str) -> str:
            return f.offset("%scores", f.mul(key, row))

        def values(key: str, lane: int, feature: str = feature) -> str:
            at = f.offset("%value", f.mul(f.add(feature, lane), "%plane"))
            return f.offset(at, key, "float")

        for lane, sums in enumerate(_products(f, kind, lanes, width, "%tokens", weights, values)):
            to = f.offset("%out", f.mul(f.add(feature, lane), "%plane"))
            for v, sum_ in enumerate(sums):
                y = f.binary("fmul", kind, sum_, inverse[v])
                y = f.select(keeps[v], kind, y, "zeroinitializer")
                f.store(kind, y, f.offset(to, v * size), size)
    return f


def _blocks(f: Builder, count: str, target: Target) -> Iterator[tuple[str, int]]:
    """Loop over full blocks of rows of a dense tile, then over single rows."""
    _, height = dense_tile(target)
    whole = f.sub(count, f.rem(count, height))
    with f.loop(0, whole, height) as row:
        yield row, height
    with f.loop(whole, count) as row:
        yield row, 1


def _products(
    f: Builder,
    kind: str,
    rows: int,
    width: int,
    count: str,
    vectors: Callable[[str], str],
    scalars: Callable[[str, int], str],
) -> list[list[str]]:
    """``Σ_i scalar(i, row) · vector(i)`` for some rows: the tile of a dense matrix product."""
    size = 4 * lanes_of(kind)
    sums = [[f.variable(kind) for _ in range(width)] for _ in range(rows)]
    for row in sums:
        for sum_ in row:
            f.store(kind, "zeroinitializer", sum_)
    with f.loop(0, count) as i:
        base = vectors(i)
        loaded = [f.load(kind, f.offset(base, v * size), size) for v in range(width)]
        for lane, row in enumerate(sums):
            scalar = f.splat(kind, f.load("float", scalars(i, lane)))
            for v, sum_ in enumerate(row):
                f.store(kind, f.fma(kind, scalar, loaded[v], f.load(kind, sum_)), sum_)
    return [[f.load(kind, sum_) for sum_ in row] for row in sums]
