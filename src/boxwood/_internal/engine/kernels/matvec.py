"""Matrix times one vector: linear layers at batch 1 and steps of recurrent nets."""

from dataclasses import dataclass

import numpy as np

from boxwood._internal.engine import weight_streams
from boxwood._internal.engine.kernels import activations, bit_packing, bitmask, frame
from boxwood._internal.engine.kernels.contract import Activation, Code, Kernel, Pointer
from boxwood._internal.engine.kernels.packing import prefers_bits, usual_height
from boxwood._internal.engine.layouts import FLOATS_PER_LINE, Array, Planes, vector
from boxwood._internal.engine.llvm.build import Builder, module
from boxwood._internal.engine.targets import Target
from boxwood._internal.engine.weight_streams import RECORD
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class MatVec:
    """``y = activation(weight · x + bias + residual)`` for vectors x, one per image.

    Args:
        inputs: length of x.
        outputs: length of y.
        activation: what is applied last.
        residual: whether a second vector is added before the activation.
    """

    inputs: int
    outputs: int
    activation: Activation = Activation.NONE
    residual: bool = False

    @property
    def source(self) -> Planes:
        """Layout of x."""
        return vector(self.inputs)

    @property
    def target(self) -> Planes:
        """Layout of y and of the residual."""
        return vector(self.outputs)


def reference(
    problem: MatVec, x: Array, weight: Array, bias: Array | None, residual: Array | None = None
) -> Array:
    """What the kernel computes, in float64, of values [images, inputs]."""
    y = x.astype(np.float64) @ weight.astype(np.float64).T
    if bias is not None:
        y += bias
    if residual is not None:
        y += residual
    return activations.reference(problem.activation, y).astype(np.float32)


@dataclass(frozen=True)
class MatVecPacking:
    """How a matrix is packed.

    Args:
        height: rows per row block.
        chunks: shares of rows.
    """

    height: int
    chunks: int


NUMBERS = ("chunks", "rows", "chunk_rows", "source_image", "target_image")
ADDRESSES = ("records", "headers", "indices", "values", "bias")
"""Own arguments of the kernel: numbers, then addresses."""

SUMS = 4
"""Partial sums per row block, so that one addition does not wait for the one before."""


@dataclass(frozen=True)
class Specialisation:
    """Everything that the kernel's text depends on, other than the target."""

    height: int
    activation: Activation
    residual: bool

    def entry(self, target: Target) -> str:
        """The symbol."""
        suffix = "_residual" if self.residual else ""
        return f"matvec_{target.lanes}x{self.height}_{self.activation.name.lower()}{suffix}"


def build(
    problem: MatVec,
    weight: Array | weight_streams.StreamParts | bit_packing.BitMaskParts,
    bias: Array | None,
    target: Target,
    *,
    height: int | None = None,
    threads: int = 1,
    packing: MatVecPacking | bit_packing.BitMaskPacking | None = None,
) -> Kernel:
    """Pack the weight for a kernel of the target.

    Args:
        problem: the product.
        weight: [outputs, inputs]; zeros are skipped. Or what a file holds of it.
        bias: [outputs], or None for zeros.
        target: the family that runs it.
        height: rows per row block: 1 for single zeros, 8 or 16 for zeros that all rows of a block have;
            when None, what costs least of these and of a bit for each entry.
        threads: threads that share the work.
        packing: how the weight is packed, if a file holds it so.

    Returns:
        The kernel.

    Raises:
        InvalidInput: the weight's shape is not the problem's, or has more than 65535 columns.
    """
    if isinstance(weight, np.ndarray) and weight.shape != (problem.outputs, problem.inputs):
        raise InvalidInput(
            f"Expected a weight of shape {(problem.outputs, problem.inputs)}, got {weight.shape}; "
            "give [outputs, inputs]."
        )
    if bias is not None and bias.shape != (problem.outputs,):
        raise InvalidInput(
            f"Expected a bias of shape {(problem.outputs,)}, got {bias.shape}; give one per output."
        )
    if isinstance(weight, np.ndarray):
        weight = np.asarray(weight, np.float32)
        if packing is None:
            packing = _usual_packing(weight, target, height, threads)
    if isinstance(packing, bit_packing.BitMaskPacking):
        if isinstance(weight, weight_streams.StreamParts):
            raise TypeError("a weight is packed in another way than it says")
        return _by_bits(problem, weight, bias, packing)
    if packing is None or isinstance(weight, bit_packing.BitMaskParts):
        raise TypeError("a packed weight says how")
    height = packing.height
    settings = {
        "height": height, "block": problem.inputs, "chunks": packing.chunks,
        "multiple": max(1, FLOATS_PER_LINE // height),
    }  # fmt: skip
    if isinstance(weight, weight_streams.StreamParts):
        stream = weight_streams.from_parts(weight, (problem.outputs, problem.inputs), **settings)
    else:
        stream = weight_streams.from_dense(weight, **settings)
    padded = np.zeros(problem.target.image, np.float32)
    padded[: problem.outputs] = 0 if bias is None else bias
    constants = (
        stream.records.ravel(),
        stream.headers,
        stream.indices,
        stream.values.ravel(),
        padded,
    )
    shape = Specialisation(height, problem.activation, problem.residual)
    images = (4 * problem.source.image, 4 * problem.target.image)
    return Kernel(
        Code(shape.entry(target), lambda: emit(shape, target)),
        (
            stream.chunks,
            problem.outputs,
            stream.chunk * height,
            *images,
            *(Pointer(index) for index in range(len(constants))),
        ),
        constants,
        units=stream.chunks,
        note=f"{height}×1 blocks" if height > 1 else "single weights",
        packing=packing,
    )


def _usual_packing(
    weight: Array, target: Target, height: int | None, threads: int
) -> MatVecPacking | bit_packing.BitMaskPacking:
    if height is None and bitmask.is_supported(target):
        bits = bit_packing.usual_packing(weight, threads)
        if prefers_bits(weight, bits.values.nbytes, target):
            return bits
    height = height or usual_height(weight, target)
    return MatVecPacking(height, 4 * threads if threads > 1 else 1)


def _by_bits(
    problem: MatVec,
    weight: Array | bit_packing.BitMaskParts,
    bias: Array | None,
    packing: bit_packing.BitMaskPacking,
) -> Kernel:
    source, target = problem.source.image, problem.target.image
    return bitmask.build(
        (problem.outputs, problem.inputs), weight, bias,
        bitmask.Strides(source, target, target - problem.outputs), packing,
        activation=problem.activation, residual=problem.residual,
    )  # fmt: skip


def emit(shape: Specialisation, target: Target) -> str:
    """The text of the kernel: a range of (chunk of rows, image) for each thread."""
    f, a = frame.begin(shape.entry(target), NUMBERS, ADDRESSES)
    with frame.units(f, f.mul(a["images"], a["chunks"])) as unit:
        image, chunk = f.rem(unit, a["images"]), f.div(unit, a["images"])
        r = frame.record(f, f.offset(a["records"], f.mul(chunk, RECORD.itemsize)))
        out = f.mul(image, a["target_image"])
        target_ = f.offset(a["target"], out)
        _rows(
            f,
            shape,
            a,
            r,
            f.offset(a["source"], f.mul(image, a["source_image"])),
            target_,
            f.offset(a["second"], out),
        )
        _finish(f, shape, target, a, r["row"], target_)
    return module([f])


def _rows(
    f: Builder,
    shape: Specialisation,
    a: dict[str, str],
    r: dict[str, str],
    source: str,
    out: str,
    residual: str,
) -> None:
    """Sums of all row blocks of one chunk."""
    kind = "float" if shape.height == 1 else f"<{shape.height} x float>"
    index = f.variable("ptr", f.offset(a["indices"], r["indices"]))
    value = f.variable("ptr", f.offset(a["values"], r["values"]))
    headers = f.offset(a["headers"], r["headers"])
    sums = [f.variable(kind) for _ in range(SUMS)]
    with f.loop(0, r["count"]) as h:
        header = f.offset(headers, f.mul(h, 4))
        count = f.load_unsigned("i16", header)
        row = f.add(r["row"], f.mul(f.load_unsigned("i16", header, 1), shape.height))
        first = f.load(kind, f.offset(a["bias"], row, "float"), 4)
        if shape.residual:
            first = f.binary("fadd", kind, first, f.load(kind, f.offset(residual, row, "float"), 4))
        f.store(kind, first, sums[0])
        for sum_ in sums[1:]:
            f.store(kind, "zeroinitializer" if shape.height > 1 else "0.0", sum_)
        at, weights = f.load("ptr", index), f.load("ptr", value)

        def add(place: str, sum_: str, at: str = at, weights: str = weights) -> None:
            column = f.load_unsigned("i16", at, place)
            x = f.splat(kind, f.load("float", f.offset(source, column, "float")))
            weight = f.load(kind, f.offset(weights, f.mul(place, 4 * shape.height)), 4)
            f.store(kind, f.fma(kind, weight, x, f.load(kind, sum_)), sum_)

        whole = f.sub(count, f.rem(count, SUMS))
        with f.loop(0, whole, SUMS) as j:
            for number, sum_ in enumerate(sums):
                add(f.add(j, number), sum_)
        with f.loop(whole, count) as j:
            add(j, sums[0])
        f.store("ptr", f.offset(at, f.mul(count, 2)), index)
        f.store("ptr", f.offset(weights, f.mul(count, 4 * shape.height)), value)
        totals = [f.load(kind, sum_) for sum_ in sums]
        while len(totals) > 1:
            totals = [
                f.binary("fadd", kind, left, right)
                for left, right in zip(totals[::2], totals[1::2], strict=True)
            ]
        f.store(kind, totals[0], f.offset(out, row, "float"), 4)


def _finish(
    f: Builder, shape: Specialisation, target: Target, a: dict[str, str], row: str, out: str
) -> None:
    """The activation, and zeros after the last row."""
    kind, lanes = target.vector, target.lanes
    lane = "<" + ", ".join(f"i64 {number}" for number in range(lanes)) + ">"
    end = f.minimum(f.add(row, a["chunk_rows"]), a["rows"])
    after = f.mul(f.div(f.add(end, FLOATS_PER_LINE - 1), FLOATS_PER_LINE), FLOATS_PER_LINE)
    integers = f"<{lanes} x i64>"
    with f.loop(row, after, lanes) as at:
        place = f.offset(out, at, "float")
        result = activations.emit(f, kind, shape.activation, f.load(kind, place, 4))
        left = f.sub(a["rows"], at)
        one = f.value(f"insertelement {integers} poison, i64 {left}, i32 0")
        all_ = f.value(
            f"shufflevector {integers} {one}, {integers} poison, <{lanes} x i32> zeroinitializer"
        )
        valid = f.value(f"icmp slt {integers} {lane}, {all_}")
        f.store(kind, f.select(valid, kind, result, "zeroinitializer"), place, 4)
