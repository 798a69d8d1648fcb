"""Matrix times a few vectors, the weight as a bit for each entry and the entries that are not zero.

What it computes, for every chunk of rows and up to four images at a time::

    for four rows:
        for 16 columns:
            x = the images' values of these columns
            for each row:
                weights = the next entries, spread to where the row's 16 bits are ones
                sums[row] += weights · x
        output[four rows] = activation(sums across lanes + bias + residual)

An entry that is zero costs a bit of memory and no more time than another. A product with one
vector uses each weight once, so that bytes decide: entries that are all numbers of bfloat16 or
float16 are kept as such, which changes no result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from boxwood._internal.engine.kernels import activations, frame
from boxwood._internal.engine.kernels.bit_packing import (
    COLUMNS,
    ROWS,
    BitMaskPacking,
    BitMaskParts,
    ValueType,
    groups_of,
    pack,
)
from boxwood._internal.engine.kernels.contract import Activation, Code, Kernel, Pointer
from boxwood._internal.engine.layouts import Array
from boxwood._internal.engine.llvm.build import Builder, module
from boxwood._internal.engine.targets import Target
from boxwood.errors import CheckpointError

IMAGES = 4
"""Images that share each spreading of weights."""

_SPILL = 64
"""Bytes after the last entry that are read and not used."""


def is_supported(target: Target) -> bool:
    """Say whether a family can spread entries over a vector by a mask: AVX-512 can."""
    return target.lanes == COLUMNS


NUMBERS = (
    "chunks",
    "tall",  # groups of rows
    "chunk",  # of them in a full chunk
    "rows",
    "blocks",  # groups of columns before the last
    "tail",  # bits: which columns of the last group there are
    "source_image",  # bytes from image to image
    "target_image",
    "padding",  # floats after the last row that become zeros
)
ADDRESSES = ("starts", "masks", "values", "bias")
"""Own arguments of the kernel: numbers, then addresses."""


@dataclass(frozen=True)
class Specialisation:
    """Everything that the kernel's text depends on, other than the target."""

    values: ValueType
    activation: Activation
    residual: bool

    @property
    def entry(self) -> str:
        """The symbol."""
        suffix = "_residual" if self.residual else ""
        return f"bitmask_{self.values.value}_{self.activation.name.lower()}{suffix}"


@dataclass(frozen=True)
class Strides:
    """How far apart images lie, in floats.

    Args:
        source: from an image's values to the next one's.
        target: of the results.
        padding: floats after an image's results that the kernel sets to zero.
    """

    source: int
    target: int
    padding: int = 0


def build(
    shape: tuple[int, int],
    weight: Array | BitMaskParts,
    bias: Array | None,
    strides: Strides,
    packing: BitMaskPacking,
    *,
    activation: Activation = Activation.NONE,
    residual: bool = False,
) -> Kernel:
    """Make the kernel.

    Args:
        shape: outputs and inputs.
        weight: [outputs, inputs], or what a file holds of it.
        bias: [outputs], or None for zeros.
        strides: between images.
        packing: how the weight is packed.
        activation: what is applied last.
        residual: whether a second vector is added before.

    Raises:
        CheckpointError: the parts are not those of a matrix of this shape; a kernel would read
            outside.
    """
    rows, columns = shape
    tall, wide = groups_of(shape)
    parts = weight if isinstance(weight, BitMaskParts) else pack(weight, packing.values)
    counts = np.bitwise_count(parts.masks).astype(np.int64)
    spill = _SPILL // packing.values.nbytes
    values = parts.values
    if not isinstance(weight, BitMaskParts):
        values = np.concatenate([values, np.zeros(spill, values.dtype)])
    if parts.masks.size != tall * wide * ROWS or values.size != counts.sum() + spill:
        raise CheckpointError(
            f"Expected the packed weight of a kernel of {rows} × {columns} in the file, got "
            f"{parts.masks.size} masks and {values.size} values; compile the model again."
        )
    chunk = -(-tall // min(packing.chunks, tall))
    chunks = -(-tall // chunk)
    of_groups = counts.reshape(tall, -1).sum(1)
    starts = packing.values.nbytes * (np.cumsum(of_groups) - of_groups)[::chunk]
    padded = np.zeros(tall * ROWS, np.float32)
    padded[:rows] = 0 if bias is None else bias
    text = Specialisation(packing.values, activation, residual)
    tail = (1 << (columns - (wide - 1) * COLUMNS)) - 1
    return Kernel(
        Code(text.entry, lambda: emit(text)),
        (
            chunks, tall, chunk, rows, wide - 1, tail,
            4 * strides.source, 4 * strides.target, strides.padding,
            *(Pointer(index) for index in range(len(ADDRESSES))),
        ),
        (starts.astype(np.int64), parts.masks, values, padded),
        units=chunks,
        note=f"bits and {packing.values.value} entries",
        packing=packing,
    )  # fmt: skip


_VECTOR = f"<{COLUMNS} x float>"
_FOUR = f"<{ROWS} x float>"

_PARAMETERS = (
    ("ptr", "%x"),
    ("i64", "%source_image"),
    ("ptr", "%masks"),
    ("ptr", "%values"),
    ("ptr", "%bias"),
    ("ptr", "%y"),
    ("ptr", "%residual"),
    ("i64", "%target_image"),
    ("i64", "%groups"),
    ("i64", "%rows"),
    ("i64", "%blocks"),
    ("i64", "%tail"),
    ("i64", "%last_image"),
)


def emit(shape: Specialisation) -> str:
    """The text of the kernel: a range of (chunk of rows, few images) for each thread."""
    f, a = frame.begin(shape.entry, NUMBERS, ADDRESSES)
    parts = f.div(f.add(a["images"], IMAGES - 1), IMAGES)
    with frame.units(f, f.mul(parts, a["chunks"])) as unit:
        part, chunk = f.rem(unit, parts), f.div(unit, parts)
        image = f.mul(part, IMAGES)
        count = f.minimum(IMAGES, f.sub(a["images"], image))
        alone = f.compare("eq", count, 1)
        group = f.mul(chunk, a["chunk"])
        row = f.mul(group, ROWS)
        words = f.mul(f.mul(group, f.add(a["blocks"], 1)), 2 * ROWS)
        out = f.add(f.mul(image, a["target_image"]), f.mul(row, 4))
        start = f.load("i64", f.offset(a["starts"], f.mul(chunk, 8)))
        values = (
            f.offset(a["source"], f.mul(image, a["source_image"])),
            a["source_image"],
            f.offset(a["masks"], words),
            f.offset(a["values"], start),
            f.offset(a["bias"], row, "float"),
            f.offset(a["target"], out),
            f.offset(a["second"], out),
            a["target_image"],
            f.minimum(a["chunk"], f.sub(a["tall"], group)),
            f.sub(a["rows"], row),
            a["blocks"],
            a["tail"],
            f.sub(count, 1),
        )
        with f.otherwise(alone):
            frame.call(f, f"{shape.entry}.{IMAGES}", _PARAMETERS, values)
        with f.when(alone):
            frame.call(f, f"{shape.entry}.1", _PARAMETERS, values)
        last = f.compare("eq", chunk, f.sub(a["chunks"], 1))
        with f.when(last), f.loop(0, count) as each:
            place = f.mul(f.add(image, each), a["target_image"])
            end = f.offset(f.offset(a["target"], place), a["rows"], "float")
            with f.loop(0, a["padding"]) as number:
                f.store("float", "0.0", f.offset(end, number, "float"))
    return module([_rows(f"{shape.entry}.{n}", n, shape) for n in (1, IMAGES)] + [f])


def _rows(name: str, images: int, shape: Specialisation) -> Builder:
    """All rows of a chunk, for a few images."""
    f = Builder(name, _PARAMETERS, internal=True)
    word, value = f.variable("ptr", "%masks"), f.variable("ptr", "%values")
    sums = [[f.variable(_VECTOR) for _ in range(ROWS)] for _ in range(images)]
    # Images after the last one repeat it, which writes the same values twice.
    places = [f.minimum("%last_image", n) for n in range(images)]
    inputs = [f.offset("%x", f.mul("%source_image", place)) for place in places]
    outputs = [f.mul("%target_image", place) for place in places]
    narrow = f.value("trunc i64 %tail to i16")
    tail = f.value(f"bitcast i16 {narrow} to <{COLUMNS} x i1>")
    with f.loop(0, "%groups") as group:
        for sum_ in (each for row in sums for each in row):
            f.store(_VECTOR, "zeroinitializer", sum_, 64)
        with f.loop(0, "%blocks") as block:
            loaded = [f.load(_VECTOR, f.offset(x, block, _VECTOR), 4) for x in inputs]
            _block(f, shape.values, word, value, sums, loaded)
        f.declare(f"declare {_VECTOR} @llvm.masked.load.v16f32.p0(ptr, i32, <16 x i1>, {_VECTOR})")
        last = [
            f.value(
                f"call {_VECTOR} @llvm.masked.load.v16f32.p0(ptr {at}, i32 4, <16 x i1> {tail}, "
                f"{_VECTOR} zeroinitializer)"
            )
            for at in (f.offset(x, "%blocks", _VECTOR) for x in inputs)
        ]
        _block(f, shape.values, word, value, sums, last)
        row = f.mul(group, ROWS)
        bias = f.load(_FOUR, f.offset("%bias", row, "float"), 4)
        left = f.sub("%rows", row)
        full = f.compare("sge", left, ROWS)
        totals = [f.binary("fadd", _FOUR, _across(f, each), bias) for each in sums]
        at = [f.add(output, f.mul(row, 4)) for output in outputs]
        with f.when(full):
            _finish(f, shape, _FOUR, totals, at)
        with f.otherwise(full), f.loop(0, left) as lane:
            singles = [f.value(f"extractelement {_FOUR} {each}, i64 {lane}") for each in totals]
            _finish(f, shape, "float", singles, [f.add(each, f.mul(lane, 4)) for each in at])
    return f


def _block(
    f: Builder,
    values: ValueType,
    word: str,
    value: str,
    sums: Sequence[Sequence[str]],
    inputs: Sequence[str],
) -> None:
    """Add 16 columns of four rows."""
    at, bits = f.load("ptr", value), f.load("i64", f.load("ptr", word), 2)
    f.store("ptr", f.offset(f.load("ptr", word), 2 * ROWS), word)
    f.declare("declare i64 @llvm.ctpop.i64(i64)")
    f.declare(
        f"declare {_VECTOR} @llvm.x86.avx512.mask.expand.v16f32({_VECTOR}, {_VECTOR}, <16 x i1>)"
    )
    for row in range(ROWS):
        narrow = f.value(f"trunc i64 {f.value(f'lshr i64 {bits}, {COLUMNS * row}')} to i16")
        mask = f.value(f"bitcast i16 {narrow} to <{COLUMNS} x i1>")
        weights = f.value(
            f"call {_VECTOR} @llvm.x86.avx512.mask.expand.v16f32({_VECTOR} "
            f"{_entries(f, values, at)}, {_VECTOR} zeroinitializer, <16 x i1> {mask})"
        )
        for image, x in enumerate(inputs):
            sum_ = sums[image][row]
            f.store(_VECTOR, f.fma(_VECTOR, weights, x, f.load(_VECTOR, sum_, 64)), sum_, 64)
        count = f.value(f"call i64 @llvm.ctpop.i64(i64 {f.value(f'zext i16 {narrow} to i64')})")
        at = f.offset(at, f.mul(count, values.nbytes))
    f.store("ptr", at, value)


def _entries(f: Builder, values: ValueType, at: str) -> str:
    """The next 16 entries as float32."""
    match values:
        case ValueType.FLOAT32:
            # Volatile, so that LLVM does not make the load an operand of the instruction that
            # spreads it: that form takes three times as long on Zen 5.
            return f.value(f"load volatile {_VECTOR}, ptr {at}, align 4")
        case ValueType.BFLOAT16:
            wide = f.value(f"zext <16 x i16> {f.load('<16 x i16>', at, 2)} to <16 x i32>")
            high = "<" + ", ".join(["i32 16"] * COLUMNS) + ">"
            shifted = f.value(f"shl <16 x i32> {wide}, {high}")
            return f.value(f"bitcast <16 x i32> {shifted} to {_VECTOR}")
        case ValueType.FLOAT16:
            return f.value(f"fpext <16 x half> {f.load('<16 x half>', at, 2)} to {_VECTOR}")


def _across(f: Builder, sums: Sequence[str]) -> str:
    """The sums over the lanes of four vectors, always in the same order."""
    parts = [f.load(_VECTOR, sum_, 64) for sum_ in sums]
    lanes = COLUMNS
    while lanes > ROWS:
        half = lanes // 2
        kind, lower = f"<{lanes} x float>", f"<{half} x float>"
        low, high = (
            ", ".join(f"i32 {lane}" for lane in range(first, first + half)) for first in (0, half)
        )
        pick = f"shufflevector {kind} {{0}}, {kind} poison, <{half} x i32> <{{1}}>"
        parts = [
            f.binary(
                "fadd", lower, f.value(pick.format(part, low)), f.value(pick.format(part, high))
            )
            for part in parts
        ]
        lanes = half
    # Pairs of neighbouring lanes, then pairs of pairs: [a, b, c, d] of each becomes its sum.
    while len(parts) > 1:
        parts = [_pairs(f, one, two) for one, two in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _pairs(f: Builder, one: str, two: str) -> str:
    """The sums of neighbouring lanes of two vectors of four."""
    pick = f"shufflevector {_FOUR} {one}, {_FOUR} {two}, <4 x i32> <i32 {{}}, i32 {{}}, i32 {{}}, i32 {{}}>"
    even, odd = f.value(pick.format(0, 2, 4, 6)), f.value(pick.format(1, 3, 5, 7))
    return f.binary("fadd", _FOUR, even, odd)


def _finish(
    f: Builder, shape: Specialisation, kind: str, totals: Sequence[str], places: Sequence[str]
) -> None:
    """Residual, activation, and the store, of all images.

    Residuals are read before anything is written: they may lie where results go, and the last image
    may be there several times.
    """
    if shape.residual:
        residuals = [f.load(kind, f.offset("%residual", place), 4) for place in places]
        totals = [
            f.binary("fadd", kind, total, each)
            for total, each in zip(totals, residuals, strict=True)
        ]
    for total, place in zip(totals, places, strict=True):
        result = activations.emit(f, kind, shape.activation, total)
        f.store(kind, result, f.offset("%y", place), 4)
