"""Elementwise operations on planes: sums, products, activations, a factor per channel."""

import enum
from dataclasses import dataclass

import numpy as np

from boxwood.engine.kernels import activations
from boxwood.engine.kernels.contract import Activation
from boxwood.engine.layouts import Array, Planes


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
