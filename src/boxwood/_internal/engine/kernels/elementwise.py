"""Elementwise operations on planes: sums, products, activations, a factor per channel."""

import enum
from dataclasses import dataclass

import numpy as np

from boxwood._internal.engine.kernels import activations, frame
from boxwood._internal.engine.kernels.contract import Activation, Code, Kernel, Pointer
from boxwood._internal.engine.layouts import Array, Planes, lines, position_mask, vector
from boxwood._internal.engine.llvm.build import module
from boxwood._internal.engine.targets import Target
from boxwood.errors import InvalidInput


class Operation(enum.Enum):
    """What joins the two inputs."""

    COPY = enum.auto()  # there is no second input
    ADD = enum.auto()
    MULTIPLY = enum.auto()


@dataclass(frozen=True)
class Elementwise:
    """``y = activation(x ∘ second)``.

    Args:
        source: layout of x and of a full-sized second input.
        target: layout of y; equal to the source, or a slice of equal planes.
        operation: what joins the inputs.
        per_channel: the second input is a vector of one value per channel.
        activation: what is applied last.
    """

    source: Planes
    target: Planes
    operation: Operation = Operation.COPY
    per_channel: bool = False
    activation: Activation = Activation.NONE


def reference(problem: Elementwise, x: Array, second: Array | None = None) -> Array:
    """What the kernel computes, of values [images, channels, height, width] (or [images, channels])."""
    y = x.astype(np.float64)
    if second is not None:
        other = second[..., None, None] if problem.per_channel else second
        y = y + other if problem.operation is Operation.ADD else y * other
    return activations.reference(problem.activation, y).astype(np.float32)


@dataclass(frozen=True)
class Specialisation:
    """Everything that the kernel's text depends on, other than the target."""

    operation: Operation
    per_channel: bool
    activation: Activation

    def entry(self, target: Target) -> str:
        """The symbol."""
        channel = "_channel" if self.per_channel else ""
        return (
            f"elementwise_{target.lanes}_{self.operation.name.lower()}{channel}"
            f"_{self.activation.name.lower()}"
        )


NUMBERS = (
    "channels",
    "source_image",
    "source_plane",
    "source_origin",
    "target_image",
    "target_plane",
    "target_origin",
    "end",  # bytes from the first value to the end of the last whole line
    "second_image",
)


def build(problem: Elementwise, target: Target) -> Kernel:
    """Make the kernel.

    Raises:
        InvalidInput: the layouts' rows do not lie alike.
    """
    source, out = problem.source.flat, problem.target.flat
    if source.shape != out.shape or source.row_stride != out.row_stride or not out.aligned:
        raise InvalidInput(
            f"Expected layouts of equal shape and row stride that start on cache lines, got "
            f"{problem.source} and {problem.target}; copy one into the other's layout first."
        )
    second = vector(source.channels).image if problem.per_channel else source.image
    numbers = (
        source.channels,
        *(4 * step for step in (source.image, source.plane, source.origin)),
        *(4 * step for step in (out.image, out.plane, out.origin)),
        4 * lines(out.span),
        4 * second,
    )
    shape = Specialisation(problem.operation, problem.per_channel, problem.activation)
    return Kernel(
        Code(shape.entry(target), lambda: emit(shape, target)),
        (*numbers, Pointer(0)),
        (position_mask(out, target.lanes),),
        units=source.channels,
    )


def emit(shape: Specialisation, target: Target) -> str:
    """The text of the kernel: a range of planes for each thread."""
    f, a = frame.begin(shape.entry(target), NUMBERS, ("mask",))
    kind, size = target.vector, 4 * target.lanes
    with frame.units(f, f.mul(a["images"], a["channels"])) as unit:
        image, channel = f.div(unit, a["channels"]), f.rem(unit, a["channels"])
        place = f.add(f.mul(image, a["source_image"]), f.mul(channel, a["source_plane"]))
        x = f.offset(a["source"], f.add(place, a["source_origin"]))
        second = a["second"]
        if shape.per_channel:
            at = f.offset(f.offset(second, f.mul(image, a["second_image"])), channel, "float")
            other = f.splat(kind, f.load("float", at))
        else:
            second = f.offset(second, f.add(place, a["source_origin"]))
        out = f.add(f.mul(image, a["target_image"]), f.mul(channel, a["target_plane"]))
        plane = f.offset(a["target"], out)
        frame.zero(f, target, plane, "0", a["target_origin"])
        y = f.offset(plane, a["target_origin"])
        with f.loop(0, a["end"], size) as at:
            value = f.load(kind, f.offset(x, at), size)
            if shape.operation is not Operation.COPY:
                if not shape.per_channel:
                    other = f.load(kind, f.offset(second, at), size)
                name = "fadd" if shape.operation is Operation.ADD else "fmul"
                value = f.binary(name, kind, value, other)
            value = activations.emit(f, kind, shape.activation, value)
            bits = f.offset(a["mask"], f.div(at, size // (max(target.lanes, 8) // 8)))
            keep = frame.mask(f, target, bits)
            f.store(kind, f.select(keep, kind, value, "zeroinitializer"), f.offset(y, at), size)
        frame.zero(f, target, plane, f.add(a["target_origin"], a["end"]), a["target_plane"])
    return module([f])
