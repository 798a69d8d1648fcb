"""Matrix of bytes times one vector of bytes: steps of recurrent nets.

A row's non-zero quads are taken eight at a time: their words of the vector are put side by side, as
the weights are already, so that one product adds eight quads whatever their columns. Sums are
exact; what follows is float32, as in `int8_rows`.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine import weight_streams
from boxwood._internal.engine.kernels import frame, int8_build
from boxwood._internal.engine.kernels.contract import Code, Kernel, Pointer
from boxwood._internal.engine.kernels.int8_build import COLUMNS, Int8Packing
from boxwood._internal.engine.kernels.int8_conv import MOST_PRODUCTS, Weight
from boxwood._internal.engine.kernels.packing import ConvPacking
from boxwood._internal.engine.kernels.quads import QUAD, Bytes, DotProducts, quad_count, to_words
from boxwood._internal.engine.layouts import FLOATS_PER_LINE, Array, Planes, vector
from boxwood._internal.engine.llvm.build import Builder, module
from boxwood._internal.engine.targets import Dots, Target
from boxwood._internal.engine.weight_streams import RECORD, StreamParts
from boxwood.errors import InvalidInput

TOGETHER = 8
"""Quads of one product; four where a register has no more."""


@dataclass(frozen=True)
class Int8MatVec:
    """``y = scale · Σ weight · q + offset + residual`` of vectors of bytes, in float32.

    Args:
        inputs: length of q.
        outputs: length of y.
        residual: whether a second vector of floats is added.
    """

    inputs: int
    outputs: int
    residual: bool = False

    def __post_init__(self) -> None:
        if self.inputs > MOST_PRODUCTS:
            raise InvalidInput(
                f"Expected at most {MOST_PRODUCTS} inputs, got {self.inputs}; compute this "
                f"layer in float32."
            )

    @property
    def source(self) -> Planes:
        """Layout of the words of q."""
        return vector(quad_count(self.inputs))

    @property
    def target(self) -> Planes:
        """Layout of y and of the residual."""
        return vector(self.outputs)


def reference(
    x: Bytes, weight: Weight, constants: Array, residual: Array | None = None
) -> NDArray[np.float32]:
    """What the kernel computes, bit for bit, of bytes [images, inputs]."""
    sums = x.astype(np.int64) @ weight.astype(np.int64).T
    y = sums.astype(np.int32).astype(np.float32) * constants[0] + constants[1]
    return np.asarray(y if residual is None else y + residual, np.float32)


NUMBERS = (
    "chunks",
    "blocks",
    "rows",
    "chunk_rows",
    "source_image",
    "target_image",
    "scratch_bytes",
)
ADDRESSES = ("records", "headers", "indices", "values", "scales", "offsets", "starts")


@dataclass(frozen=True)
class Specialisation:
    """Everything that the kernel's text depends on, other than the target."""

    residual: bool
    wide: bool

    def entry(self, target: Target) -> str:
        """The symbol."""
        flags = f"{'_residual' if self.residual else ''}{'_wide' if self.wide else ''}"
        return f"int8_matvec_{target.dots.name.lower()}_{target.lanes}{flags}"


def build(
    problem: Int8MatVec,
    weight: Weight | StreamParts,
    constants: Array,
    target: Target,
    *,
    packing: Int8Packing | None = None,
    threads: int = 1,
) -> Kernel:
    """Pack the weight for a kernel of the target.

    Args:
        problem: the product.
        weight: [outputs, inputs], or what a file holds of it.
        constants: [2, outputs]: what one unit of a row's sum is worth, and what is added.
        target: the family that runs it.
        packing: how, if a file holds it so.
        threads: threads that share the work.
    """
    if packing is None:
        if isinstance(weight, StreamParts):
            raise TypeError("a packed weight says how it is packed")
        columns = quad_count(problem.inputs)
        block = -(-columns // -(-columns // COLUMNS))
        chunks = 4 * threads if threads > 1 else 1
        packing = Int8Packing(ConvPacking(1, block, chunks=chunks), wide=False)
    given = (
        weight.values.view(np.int8).reshape(-1, QUAD) if isinstance(weight, StreamParts) else weight
    )
    wide = target.dots is Dots.PAIRS and int8_build.exceeds_pairs(given)
    packing = replace(packing, wide=wide, distances=False)
    settings = {
        "block": min(packing.conv.block, COLUMNS), "chunks": packing.conv.chunks,
        "multiple": FLOATS_PER_LINE,
    }  # fmt: skip
    shape = (problem.outputs, quad_count(problem.inputs))
    if isinstance(weight, StreamParts):
        stream = weight_streams.from_parts(
            replace(weight, indices=weight.indices.astype(np.uint16)), shape, height=1, **settings
        )
    else:
        stream = weight_streams.from_dense(to_words(weight), height=1, **settings)
    stream = int8_build.narrow(stream)
    blocks = stream.records.shape[1]
    scratch = -(-4 * stream.chunk // 64) * 64 if blocks > 1 else 0
    images = (4 * problem.source.image, 4 * problem.target.image)
    padded = np.zeros((2, problem.target.image), np.float32)
    padded[:, : problem.outputs] = constants
    held = (
        stream.records.ravel(), stream.headers, stream.indices, stream.values.ravel(), *padded,
        int8_build.starts(stream, target),
    )  # fmt: skip
    text = Specialisation(problem.residual, wide)
    return Kernel(
        Code(text.entry(target), lambda: emit(text, target)),
        (
            *(stream.chunks, blocks, problem.outputs, stream.chunk, *images, scratch),
            *(Pointer(index) for index in range(len(held))),
        ),
        held,
        scratch=scratch,
        units=stream.chunks,
        note="quads",
        packing=packing,
    )


def emit(shape: Specialisation, target: Target) -> str:
    """The text of the kernel: a range of chunks for each thread."""
    f, a = frame.begin(shape.entry(target), NUMBERS, ADDRESSES)
    few = replace(target, lanes=min(TOGETHER, target.lanes))
    scratch = f.offset(a["scratch"], f.mul("%thread", a["scratch_bytes"]))
    last_block = f.sub(a["blocks"], 1)
    index, value, total = f.variable("ptr"), f.variable("ptr"), f.variable("i32")
    sums = f.variable(few.words)
    with frame.units(f, f.mul(a["images"], a["chunks"])) as unit:
        image, chunk = f.div(unit, a["chunks"]), f.rem(unit, a["chunks"])
        x = f.offset(a["source"], f.mul(image, a["source_image"]))
        out = f.mul(image, a["target_image"])
        records = f.offset(a["records"], f.mul(f.mul(chunk, a["blocks"]), RECORD.itemsize))
        with f.loop(0, a["blocks"]) as block:
            r = frame.record(f, f.offset(records, f.mul(block, RECORD.itemsize)))
            f.store("ptr", f.offset(a["indices"], r["indices"]), index)
            f.store("ptr", f.offset(a["values"], r["values"]), value)
            own = f.offset(x, f.mul(r["first"], 4))
            first, last = f.compare("eq", block, 0), f.compare("eq", block, last_block)
            with f.loop(0, r["count"]) as h:
                header = f.offset(f.offset(a["headers"], r["headers"]), f.mul(h, 4))
                count, row = f.load_unsigned("i16", header), f.load_unsigned("i16", header, 1)
                number = f.add(r["row"], row)
                f.store(few.words, "zeroinitializer", sums)
                _quads(f, few, shape, own, count, index, value, sums)
                f.store("i32", _added(f, few, f.load(few.words, sums)), total)
                start = f.load("i32", f.offset(a["starts"], number, "i32")) if (
                    target.dots is Dots.SIGNED
                ) else "0"  # fmt: skip
                partial = f.offset(scratch, row, "i32")
                with f.when(first):
                    f.store("i32", f.value(f"add i32 {f.load('i32', total)}, {start}"), total)
                with f.otherwise(first):
                    old = f.load("i32", partial)
                    f.store("i32", f.value(f"add i32 {f.load('i32', total)}, {old}"), total)
                with f.otherwise(last):
                    f.store("i32", f.load("i32", total), partial)
                with f.when(last):
                    y = f.value(f"sitofp i32 {f.load('i32', total)} to float")
                    scale = f.load("float", f.offset(a["scales"], number, "float"))
                    offset = f.load("float", f.offset(a["offsets"], number, "float"))
                    y = f.binary("fadd", "float", f.binary("fmul", "float", y, scale), offset)
                    place = f.add(out, f.mul(number, 4))
                    if shape.residual:
                        other = f.load("float", f.offset(a["second"], place))
                        y = f.binary("fadd", "float", y, other)
                    f.store("float", y, f.offset(a["target"], place))
        is_last = f.compare("eq", chunk, f.sub(a["chunks"], 1))
        with f.when(is_last), f.loop(f.mul(a["rows"], 4), a["target_image"], 4) as at:
            f.store("float", "0.0", f.offset(a["target"], f.add(out, at)))
    return module([f])


def _quads(
    f: Builder, few: Target, shape: Specialisation, x: str, count: str, index: str, value: str,
    sums: str,
) -> None:  # fmt: skip
    """Add a row's quads: whole registers of them, then one by one."""
    dots = DotProducts(f, few, shape.wide)
    done = f.sub(count, f.rem(count, few.lanes))
    for start, stop, step in (("0", done, few.lanes), (done, count, 1)):
        with f.loop(start, stop, step):
            at, weights = f.load("ptr", index), f.load("ptr", value)
            words, factor = "zeroinitializer", ""
            for lane in range(step):
                word = f.load("i32", f.offset(x, f.mul(f.load_unsigned("i8", at, lane), 4)), 4)
                words = f.value(f"insertelement {few.words} {words}, i32 {word}, i32 {lane}")
            if step > 1:
                factor = f.load(few.words, weights, 4)
            else:
                one = f.load("i32", weights, 4)
                factor = f.value(f"insertelement {few.words} zeroinitializer, i32 {one}, i32 0")
            f.store(few.words, dots.add(f.load(few.words, sums), words, dots.factor(factor)), sums)
            f.store("ptr", f.offset(at, step), index)
            f.store("ptr", f.offset(weights, 4 * step), value)


def _added(f: Builder, few: Target, sums: str) -> str:
    parts = [f.value(f"extractelement {few.words} {sums}, i32 {n}") for n in range(few.lanes)]
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [f.value(f"add i32 {one}, {two}") for one, two in pairs]
    return parts[0]
