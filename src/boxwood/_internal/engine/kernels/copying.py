"""Copies between layouts: torch's contiguous tensors to padded planes and back, transposes."""

from dataclasses import dataclass

from boxwood._internal.engine.kernels import frame
from boxwood._internal.engine.kernels.contract import Code, Kernel
from boxwood._internal.engine.layouts import Array, Planes
from boxwood._internal.engine.llvm.build import module
from boxwood._internal.engine.targets import Target
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class Copy:
    """The same values in another layout, `contiguous` ones included.

    Args:
        source: layout of x.
        target: layout of y: the same channels, height and width.
        transposed: x is [tokens, features] as torch holds tokens: its layout is
            ``contiguous(tokens, 1, features)`` and the target ``columns(features, tokens)``,
            or the other way round.
    """

    source: Planes
    target: Planes
    transposed: bool = False


def reference(problem: Copy, x: Array) -> Array:
    """What the kernel computes, of values [images, channels, height, width]."""
    return x.transpose(0, 3, 2, 1) if problem.transposed else x


NUMBERS = (
    "outer",  # channels of the target
    "rows",
    "width",
    "source_image",
    "source_origin",
    "source_channel",  # bytes between what become the target's channels
    "source_row",
    "source_step",  # bytes between what become a row's neighbours
    "target_image",
    "target_origin",
    "target_plane",
    "target_row",
)


def build(problem: Copy, target: Target) -> Kernel:
    """Make the kernel.

    Raises:
        InvalidInput: the layouts do not hold the same values.
    """
    source, out = problem.source, problem.target
    if source.plane == out.plane == 1:
        source, out = source.flat, out.flat
    shape = source.shape
    channel, step = source.plane, 1
    if problem.transposed:
        shape = (source.width, source.height, source.channels)
        channel, step = 1, source.plane
    if shape != out.shape or (problem.transposed and source.height != 1):
        raise InvalidInput(
            f"Expected layouts of the same values, got {source.shape} and {out.shape}"
            f"{' transposed' if problem.transposed else ''}; give matching sizes."
        )
    steps = (
        *(source.image, source.origin, channel, source.row_stride, step),
        *(out.image, out.origin, out.plane, out.row_stride),
    )
    entry = f"copy_{target.lanes}{'_transposed' if problem.transposed else ''}"
    entry += "_padded" if out.aligned else ""
    return Kernel(
        Code(entry, lambda: emit(entry, problem.transposed, target)),
        (*out.shape, *(4 * step for step in steps)),
        units=-(-out.channels // BLOCK),
    )


BLOCK = 16
"""Channels of a unit: what a line of transposed tokens holds."""


def emit(entry: str, transposed: bool, target: Target) -> str:
    """The text of the kernel: a range of blocks of channels for each thread."""
    f, a = frame.begin(entry, NUMBERS)
    per_image = f.div(f.add(a["outer"], BLOCK - 1), BLOCK)
    with frame.units(f, f.mul(a["images"], per_image)) as unit:
        image, part = f.div(unit, per_image), f.rem(unit, per_image)
        start = f.mul(part, BLOCK)
        stop = f.minimum(a["outer"], f.add(start, BLOCK))
        x = f.offset(a["source"], f.add(f.mul(image, a["source_image"]), a["source_origin"]))
        planes = f.offset(a["target"], f.mul(image, a["target_image"]))
        if entry.endswith("_padded"):
            begin, end = (f.mul(c, a["target_plane"]) for c in (start, stop))
            frame.zero(f, target, planes, begin, end)
        y = f.offset(planes, a["target_origin"])
        if transposed:
            with f.loop(0, a["width"]) as column, f.loop(start, stop) as channel:
                place = f.add(f.mul(channel, a["source_channel"]), f.mul(column, a["source_step"]))
                value = f.load("float", f.offset(x, place))
                to = f.offset(y, f.mul(channel, a["target_plane"]))
                f.store("float", value, f.offset(to, column, "float"))
        else:
            with f.loop(start, stop) as channel, f.loop(0, a["rows"]) as row:
                from_ = f.add(f.mul(channel, a["source_channel"]), f.mul(row, a["source_row"]))
                to = f.add(f.mul(channel, a["target_plane"]), f.mul(row, a["target_row"]))
                frame.copy(f, target, f.offset(x, from_), f.offset(y, to), a["width"])
    return module([f])
