"""Depthwise convolution: every channel has its own filter, so that planes do not mix.

Two texts: where input and output rows lie alike and steps are one, a tap is one offset for all
positions and a tile is a few registers; otherwise output rows are computed one by one. Sums are
added in the order of the filter's taps, all of them, zeros too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine.kernels import activations, frame
from boxwood._internal.engine.kernels.contract import Activation, Code, Kernel, Pointer
from boxwood._internal.engine.layouts import FLOATS_PER_LINE, Array, Planes, lines, position_mask
from boxwood._internal.engine.llvm.build import Builder, module
from boxwood._internal.engine.targets import Target

VECTORS = 6
"""Registers of positions per tile of the straight text."""

NUMBERS = (
    "channels",
    "taps",
    "source_image",
    "source_plane",
    "source_origin",
    "source_step",  # bytes from output row to output row in the input
    "target_image",
    "target_plane",
    "target_origin",
    "target_row",
    "end",  # bytes from the first value to the end of the last whole line
    "height",
    "width",
    "scratch_bytes",
)
ADDRESSES = ("weights", "bias", "offsets", "mask")


@dataclass(frozen=True)
class Specialisation:
    """Everything that the kernel's text depends on, other than the target.

    Args:
        step: columns between outputs; 0 for the straight text.
        activation: applied last.
    """

    step: int
    activation: Activation

    def entry(self, target: Target) -> str:
        """The symbol."""
        return f"depthwise_{target.lanes}_{self.step}_{self.activation.name.lower()}"


def build(
    source: Planes,
    out: Planes,
    weight: Array,
    bias: Array,
    offsets: NDArray[np.int32],
    *,
    stride: tuple[int, int],
    activation: Activation,
    target: Target,
) -> Kernel:
    """Make the kernel; `conv.build` calls this.

    Args:
        source: layout of x.
        out: layout of y.
        weight: [channels, taps].
        bias: [channels].
        offsets: bytes from a plane's first value to that of each tap at position 0.
        stride: steps between outputs, down and right.
        activation: what is applied last.
        target: the family that runs it.
    """
    straight = stride == (1, 1) and source.row_stride == out.row_stride
    shape = Specialisation(0 if straight else stride[1], activation)
    scratch = 0 if straight else 4 * lines(out.width + 2 * FLOATS_PER_LINE)
    numbers = {
        "channels": source.channels,
        "taps": weight.shape[1],
        "source_image": 4 * source.image,
        "source_plane": 4 * source.plane,
        "source_origin": 4 * source.origin,
        "source_step": 4 * stride[0] * source.row_stride,
        "target_image": 4 * out.image,
        "target_plane": 4 * out.plane,
        "target_origin": 4 * out.origin,
        "target_row": 4 * out.row_stride,
        "end": 4 * lines(out.span),
        "height": out.height,
        "width": out.width,
        "scratch_bytes": scratch,
    }
    constants = (weight.ravel(), bias, offsets, position_mask(out, target.lanes))
    return Kernel(
        Code(shape.entry(target), lambda: emit(shape, target)),
        (*numbers.values(), *(Pointer(index) for index in range(len(constants)))),
        constants,
        scratch=scratch,
        units=source.channels,
        note="depthwise",
    )


def emit(shape: Specialisation, target: Target) -> str:
    """The text of the kernel: a range of planes for each thread."""
    f, a = frame.begin(shape.entry(target), NUMBERS, ADDRESSES)
    kind = target.vector
    sums = [f.variable(kind) for _ in range(VECTORS if shape.step == 0 else 1)]
    with frame.units(f, f.mul(a["images"], a["channels"])) as unit:
        x, plane, channel = frame.plane(f, a, unit)
        y = f.offset(plane, a["target_origin"])
        weights = f.offset(a["weights"], f.mul(channel, a["taps"]), "float")
        bias = f.splat(kind, f.load("float", f.offset(a["bias"], channel, "float")))
        if shape.step == 0:
            frame.zero(f, target, plane, "0", a["target_origin"])
            _tiles(f, shape, target, a, sums, x, y, weights, bias)
            end = f.add(a["target_origin"], a["end"])
            frame.zero(f, target, plane, end, a["target_plane"])
        else:
            frame.zero(f, target, plane, "0", a["target_plane"])
            _lines(f, shape, target, a, sums[0], x, y, weights, bias)
    return module([f])


def _tiles(
    f: Builder,
    shape: Specialisation,
    target: Target,
    a: Mapping[str, str],
    sums: list[str],
    x: str,
    y: str,
    weights: str,
    bias: str,
) -> None:
    """Tiles of all registers, then single ones."""
    size = 4 * target.lanes
    tile = size * len(sums)
    whole = f.mul(f.div(a["end"], tile), tile)
    mask_step = size // (max(target.lanes, 8) // 8)
    for start, stop, own in (("0", whole, sums), (whole, a["end"], sums[:1])):
        with f.loop(start, stop, size * len(own)) as at:
            for sum_ in own:
                f.store(target.vector, bias, sum_)
            with f.loop(0, a["taps"]) as tap:
                from_ = f.offset(x, f.add(at, f.load_signed("i32", a["offsets"], tap)))
                weight = f.splat(target.vector, f.load("float", f.offset(weights, tap, "float")))
                for v, sum_ in enumerate(own):
                    value = f.load(target.vector, f.offset(from_, v * size), 4)
                    new = f.fma(target.vector, weight, value, f.load(target.vector, sum_))
                    f.store(target.vector, new, sum_)
            bits = f.offset(a["mask"], f.div(at, mask_step))
            for v, sum_ in enumerate(own):
                value = f.load(target.vector, sum_)
                value = activations.emit(f, target.vector, shape.activation, value)
                keep = frame.mask(f, target, f.offset(bits, v * size // mask_step))
                value = f.select(keep, target.vector, value, "zeroinitializer")
                f.store(target.vector, value, f.offset(f.offset(y, at), v * size), size)


def _lines(
    f: Builder,
    shape: Specialisation,
    target: Target,
    a: Mapping[str, str],
    sum_: str,
    x: str,
    y: str,
    weights: str,
    bias: str,
) -> None:
    """Row by row through scratch, because whole vectors overrun a row."""
    kind = target.vector
    result = f.offset(a["scratch"], f.mul("%thread", a["scratch_bytes"]))
    with f.loop(0, a["height"]) as row:
        line = f.offset(x, f.mul(row, a["source_step"]))
        with f.loop(0, a["width"], target.lanes) as column:
            start = f.offset(line, f.mul(column, shape.step), "float")
            f.store(kind, bias, sum_)
            with f.loop(0, a["taps"]) as tap:
                from_ = f.offset(start, f.load_signed("i32", a["offsets"], tap))
                value = frame.strided(f, target, shape.step, from_)
                weight = f.splat(kind, f.load("float", f.offset(weights, tap, "float")))
                f.store(kind, f.fma(kind, weight, value, f.load(kind, sum_)), sum_)
            value = activations.emit(f, kind, shape.activation, f.load(kind, sum_))
            f.store(kind, value, f.offset(result, column, "float"), 4)
        to = f.offset(y, f.mul(row, a["target_row"]))
        frame.copy(f, target, result, to, a["width"])
