"""Pooling: maximum and average over windows, average over whole planes."""

import enum
import math
from dataclasses import dataclass

import numpy as np

from boxwood._internal.engine.kernels import frame, quads
from boxwood._internal.engine.kernels.contract import Code, Kernel, Pointer
from boxwood._internal.engine.layouts import (
    FLOATS_PER_LINE,
    Array,
    Planes,
    lines,
    position_mask,
    vector,
)
from boxwood._internal.engine.llvm.build import Builder, constant, lanes_of, module
from boxwood._internal.engine.targets import Target
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class Pool:
    """Maximum or average over windows, as torch's ``max_pool2d`` and ``avg_pool2d``.

    Args:
        source: layout of x; no halo is needed.
        target: layout of y.
        kernel: rows and columns of a window.
        stride: steps between windows.
        padding: rows and columns that are missing above and left.
        dilation: steps between the values of a window.
        average: average instead of maximum.
        count_padding: the average divides by the window's full size (torch's default).
        gutter: for bytes in quads, the byte of 0; None for floats.
    """

    source: Planes
    target: Planes
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    average: bool = False
    count_padding: bool = True
    gutter: int | None = None


@dataclass(frozen=True)
class GlobalAverage:
    """The mean of each plane, as a vector per image.

    Args:
        source: layout of x.
    """

    source: Planes

    @property
    def target(self) -> Planes:
        """Layout of y."""
        return vector(self.source.channels)


def reference(problem: Pool, x: Array) -> Array:
    """What the kernel computes, in float64, of values [images, channels, height, width]."""
    _, height, width = problem.target.shape
    y = np.zeros((*x.shape[:2], height, width))
    for row in range(height):
        for col in range(width):
            top = row * problem.stride[0] - problem.padding[0]
            left = col * problem.stride[1] - problem.padding[1]
            reach = [
                (size - 1) * step + 1
                for size, step in zip(problem.kernel, problem.dilation, strict=True)
            ]
            window = x[
                ...,
                _first(top, problem.dilation[0]) : max(0, top + reach[0]) : problem.dilation[0],
                _first(left, problem.dilation[1]) : max(0, left + reach[1]) : problem.dilation[1],
            ].astype(np.float64)
            if not problem.average:
                y[..., row, col] = window.max((-2, -1))
                continue
            count = window.shape[-2] * window.shape[-1]
            if problem.count_padding:
                # Windows may hang over the padding of the lower right only by ceil mode, which
                # torch does not count.
                count = 1
                for axis, start in enumerate((top, left)):
                    end = x.shape[2 + axis] + problem.padding[axis]
                    count *= min(start + problem.kernel[axis], end) - start
            y[..., row, col] = window.sum((-2, -1)) / count
    return y.astype(np.float32)


def global_reference(x: Array) -> Array:
    """The mean of each plane, in float64: [images, channels]."""
    return np.asarray(x.astype(np.float64).mean((2, 3)), np.float32)


def _first(start: int, step: int) -> int:
    """The first index at or above 0 that is reached from ``start`` in steps."""
    return start if start >= 0 else start % step


NUMBERS = (
    "channels",
    "source_image",
    "source_plane",
    "source_origin",
    "source_row",
    "target_image",
    "target_plane",
    "target_origin",
    "target_row",
    "height",  # of the input
    "width",
    "out_height",
    "out_width",
    "kernel_height",
    "kernel_width",
    "stride_height",
    "padding_height",
    "padding_width",
    "dilation_height",
    "dilation_width",
    "gutter",  # what lies around the output's values
    "out_row",  # bytes in scratch from the joined row to the output row
    "scratch_bytes",
)
ADDRESSES = ("row_counts", "column_counts")


def build(problem: Pool, target: Target) -> Kernel:
    """Make the kernel.

    Raises:
        InvalidInput: the output is not aligned, or a window sees no value.
    """
    source, out = problem.source, problem.target
    counts = [_counts(problem, axis) for axis in (0, 1)]
    if not out.aligned or min(int(count.min()) for count in counts) < 1:
        raise InvalidInput(
            f"Expected an aligned output and windows that each see a value, got {problem}; "
            "lay the output out by `padded` and give its true size."
        )
    lanes = target.lanes
    step = problem.stride[1]
    reach = (problem.kernel[1] - 1) * problem.dilation[1] + 1
    joined = lines(max(problem.padding[1] + source.width, (out.width + lanes) * step + reach))
    joined += (step + 1) * lanes
    scratch = 4 * lines(joined + out.width + 2 * lanes)
    numbers = (
        source.channels,
        *(4 * size for size in (source.image, source.plane, source.origin, source.row_stride)),
        *(4 * size for size in (out.image, out.plane, out.origin, out.row_stride)),
        *(source.height, source.width, out.height, out.width),
        *problem.kernel,
        problem.stride[0],
        *problem.padding,
        *problem.dilation,
        (problem.gutter or 0) * 0x01010101,
        4 * joined,
        scratch,
    )
    how = _Join.AVERAGE if problem.average else _Join.MAXIMUM
    how = how if problem.gutter is None else _Join.BYTES
    entry = f"{how.name.lower()}_{lanes}_{step}"
    return Kernel(
        Code(entry, lambda: emit(entry, step, how, target)),
        (*numbers, Pointer(0), Pointer(1)),
        tuple(counts),
        scratch=scratch,
        units=source.channels,
    )


def _counts(problem: Pool, axis: int) -> Array:
    """Along one axis, how many values the average of each output counts; padded to vectors."""
    size, out = problem.source.shape[1 + axis], problem.target.shape[1 + axis]
    start = np.arange(out) * problem.stride[axis] - problem.padding[axis]
    tap = start[:, None] + np.arange(problem.kernel[axis]) * problem.dilation[axis]
    if problem.average and problem.count_padding:
        count = (tap < size + problem.padding[axis]).sum(1)
    else:
        count = ((tap >= 0) & (tap < size)).sum(1)
    padded = np.ones(out + FLOATS_PER_LINE, np.float32)
    padded[:out] = count
    return padded


class _Join(enum.Enum):
    """How the values of a window become one."""

    AVERAGE = enum.auto()
    MAXIMUM = enum.auto()
    BYTES = enum.auto()  # the maximum of each of a word's bytes


def emit(entry: str, step: int, how: _Join, target: Target) -> str:
    """The text: per output row, join input rows in scratch, then neighbours within the row."""
    f, a = frame.begin(entry, NUMBERS, ADDRESSES)
    kind, lanes, size = target.vector, target.lanes, 4 * target.lanes
    fill = constant(kind, -math.inf) if how is _Join.MAXIMUM else "zeroinitializer"
    gutter = quads.splat(f, target.words, f.value(f"trunc i64 {a['gutter']} to i32"))
    joined = f.offset(a["scratch"], f.mul("%thread", a["scratch_bytes"]))
    result = f.offset(joined, a["out_row"])
    inner = f.offset(joined, a["padding_width"], "float")
    with frame.units(f, f.mul(a["images"], a["channels"])) as unit:
        x, plane, _ = frame.plane(f, a, unit)
        quads.fill(f, target, plane, "0", a["target_plane"], gutter)
        y = f.offset(plane, a["target_origin"])
        with f.loop(0, a["out_height"]) as row:
            # Fill everything first: what lies next to the row counts as absent.
            with f.loop(0, a["out_row"], size) as at:
                f.store(kind, fill, f.offset(joined, at), 4)
            top = f.sub(f.mul(row, a["stride_height"]), a["padding_height"])
            with f.loop(0, a["width"], lanes) as column:
                sum_ = f.variable(kind, fill)
                with f.loop(0, a["kernel_height"]) as tap:
                    line = f.add(top, f.mul(tap, a["dilation_height"]))
                    inside = f.compare("ult", line, a["height"])
                    with f.when(inside):
                        at = f.offset(x, f.mul(line, a["source_row"]))
                        value = f.load(kind, f.offset(at, column, "float"), 4)
                        f.store(kind, _join(f, target, how, f.load(kind, sum_), value), sum_)
                f.store(kind, f.load(kind, sum_), f.offset(inner, column, "float"), 4)
            # The last vector overran the row.
            after = f.offset(inner, a["width"], "float")
            f.store(kind, fill, after, 4)
            with f.loop(0, a["out_width"], lanes) as column:
                sum_ = f.variable(kind, fill)
                with f.loop(0, a["kernel_width"]) as tap:
                    at = f.add(f.mul(column, step), f.mul(tap, a["dilation_width"]))
                    value = frame.strided(f, target, step, f.offset(joined, at, "float"))
                    f.store(kind, _join(f, target, how, f.load(kind, sum_), value), sum_)
                value = f.load(kind, sum_)
                if how is _Join.AVERAGE:
                    rows = f.load("float", f.offset(a["row_counts"], row, "float"))
                    columns = f.load(kind, f.offset(a["column_counts"], column, "float"), 4)
                    count = f.binary("fmul", kind, f.splat(kind, rows), columns)
                    value = f.binary("fdiv", kind, value, count)
                f.store(kind, value, f.offset(result, column, "float"), 4)
            frame.copy(f, target, result, f.offset(y, f.mul(row, a["target_row"])), a["out_width"])
    return module([f])


def _join(f: Builder, target: Target, how: _Join, left: str, right: str) -> str:
    """Sum, or maximum in which a NaN stays."""
    kind = target.vector
    if how is _Join.AVERAGE:
        return f.binary("fadd", kind, left, right)
    if how is _Join.BYTES:
        chars = f"<{4 * target.lanes} x i8>"
        one, two = (f.value(f"bitcast {kind} {each} to {chars}") for each in (left, right))
        greatest = f.intrinsic_of(f"umax.v{4 * target.lanes}i8", chars, (chars, chars), (one, two))
        return f.value(f"bitcast {chars} {greatest} to {kind}")
    more = f.value(f"fcmp ogt {kind} {right}, {left}")
    nan = f.value(f"fcmp uno {kind} {right}, {right}")
    flags = f"<{lanes_of(kind)} x i1>"
    return f.select(f.value(f"or {flags} {more}, {nan}"), kind, right, left)


GLOBAL = (
    "channels",
    "source_image",
    "source_plane",
    "source_origin",
    "end",  # bytes from the first value to the end of the last whole line
    "target_image",
    "count",
)


def build_global(problem: GlobalAverage, target: Target) -> Kernel:
    """Make the kernel.

    Raises:
        InvalidInput: the input is not aligned.
    """
    source = problem.source
    if not source.aligned:
        raise InvalidInput(
            f"Expected planes that start on cache lines, got {source}; make them with `padded`."
        )
    steps = (source.image, source.plane, source.origin, lines(source.span), problem.target.image)
    entry = f"mean_{target.lanes}"
    return Kernel(
        Code(entry, lambda: emit_global(entry, target)),
        (source.channels, *(4 * step for step in steps), source.height * source.width, Pointer(0)),
        (position_mask(source, target.lanes),),
        units=source.channels,
    )


def emit_global(entry: str, target: Target) -> str:
    """The text: whole lines of a plane into one vector, its lanes in pairs."""
    f, a = frame.begin(entry, GLOBAL, ("mask",))
    kind, size = target.vector, 4 * target.lanes
    total = f.variable(kind)
    with frame.units(f, f.mul(a["images"], a["channels"])) as unit:
        image, channel = f.div(unit, a["channels"]), f.rem(unit, a["channels"])
        place = f.add(f.mul(image, a["source_image"]), f.mul(channel, a["source_plane"]))
        x = f.offset(a["source"], f.add(place, a["source_origin"]))
        f.store(kind, "zeroinitializer", total)
        with f.loop(0, a["end"], size) as at:
            bits = f.offset(a["mask"], f.div(at, size // (max(target.lanes, 8) // 8)))
            value = f.load(kind, f.offset(x, at), size)
            kept = f.select(frame.mask(f, target, bits), kind, value, "zeroinitializer")
            f.store(kind, f.binary("fadd", kind, f.load(kind, total), kept), total)
        parts = [
            f.value(f"extractelement {kind} {f.load(kind, total)}, i32 {lane}")
            for lane in range(target.lanes)
        ]
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [f.binary("fadd", "float", left, right) for left, right in pairs]
        count = f.value(f"uitofp i64 {a['count']} to float")
        mean = f.binary("fdiv", "float", parts[0], count)
        row = f.offset(a["target"], f.mul(image, a["target_image"]))
        f.store("float", mean, f.offset(row, channel, "float"))
        with f.when(f.compare("eq", channel, f.sub(a["channels"], 1))):
            end = f.div(a["target_image"], 4)
            with f.loop(a["channels"], end) as at:
                f.store("float", "0.0", f.offset(row, at, "float"))
    return module([f])
