"""Convolution and linear layers on bytes: the problem and its reference."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine.kernels import activations, int8_rows
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.quads import QUAD, Bytes, Quantisation, quad_count
from boxwood._internal.engine.layouts import Array
from boxwood.errors import InvalidInput

MOST_PRODUCTS = (2**31 - 1) // (255 * 128)
"""Products of bytes of which a sum of any signs fits 32 bits."""

Weight = NDArray[np.int8]


@dataclass(frozen=True)
class Int8Conv:
    """``y = activation(scale · Σ weight · q + offset + residual)`` of bytes q.

    Args:
        shape: the convolution on words: its source holds quads of channels; so does its target
            where the result is bytes. Groups divide quads.
        outputs: channels of the result.
        inputs: channels that one output reads.
        out: what bytes of the result represent; None for float32.
        residual: what bytes of the residual represent, where the result is bytes.
    """

    shape: Conv
    outputs: int
    inputs: int
    out: Quantisation | None = None
    residual: Quantisation | None = None

    def __post_init__(self) -> None:
        quads = quad_count(self.outputs) if self.out else self.outputs
        inner = self.shape.source.channels // self.shape.groups
        groups = self.shape.groups
        whole = groups == 1 or not (self.inputs % QUAD or self.outputs // groups % QUAD)
        if (
            self.shape.target.channels != quads
            or inner != quad_count(self.inputs)
            or not whole
            or self.columns * QUAD > MOST_PRODUCTS
        ):
            raise InvalidInput(
                f"Expected layouts of quads of {self.inputs} inputs and {self.outputs} outputs, "
                f"groups of whole quads and at most {MOST_PRODUCTS} products, got {self.shape}; "
                f"compute this layer in float32."
            )

    @property
    def groups(self) -> int:
        """Groups of channels that do not mix."""
        return self.shape.groups

    @property
    def columns(self) -> int:
        """Words of weights of one output."""
        return quad_count(self.inputs) * math.prod(self.shape.kernel)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Of the weight as torch holds it."""
        return (self.outputs, self.inputs, *self.shape.kernel)


@dataclass(frozen=True)
class Int8Depthwise:
    """The same with a filter for each channel; the result is bytes.

    Args:
        shape: the convolution on words, as many groups as quads.
        outputs: channels.
        out: what bytes of the result represent.
    """

    shape: Conv
    outputs: int
    out: Quantisation

    def __post_init__(self) -> None:
        shape, quads = self.shape, quad_count(self.outputs)
        if not shape.depthwise or shape.groups != quads:
            raise InvalidInput(
                f"Expected {quads} quads with a filter each and strides of 1 or 2, got {shape}; "
                f"compute this layer in float32."
            )

    residual = None
    inputs = 1

    @property
    def groups(self) -> int:
        """Groups of channels that do not mix."""
        return self.outputs

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Of the weight as torch holds it."""
        return (self.outputs, 1, *self.shape.kernel)


def epilogue(problem: Int8Conv | Int8Depthwise, constants: Array) -> tuple[Array, Array, Array]:
    """Scales and offsets of rows and the settings, as kernel and reference use them.

    Args:
        problem: the convolution.
        constants: [2, out]: what one unit of a row's sum is worth, and what is added.
    """
    scale, offset = constants.astype(np.float64)
    low, high, residual, inverse, zero = 0.0, 255.0, 0.0, 0.0, 0.0
    if problem.out is not None:
        out, activation = problem.out, problem.shape.activation
        inline = activation in int8_rows.INLINE
        unit, zero = 1 / out.scale, float(out.zero)
        inverse, step = unit, unit if inline else 1.0
        if inline:
            scale, offset = scale * unit, offset * unit + zero
            low = zero if activation is not Activation.NONE else 0.0
            high = min(255.0, zero + 6 * unit) if activation is Activation.RELU6 else 255.0
        if problem.residual is not None:
            residual = problem.residual.scale * step
            offset = offset - residual * problem.residual.zero
        missing = -problem.outputs % QUAD
        scale = np.pad(scale, (0, missing))
        offset = np.pad(offset, (0, missing), constant_values=zero if inline else 0.0)
    settings = np.array([residual, low, high, inverse, zero], np.float32)
    return scale.astype(np.float32), offset.astype(np.float32), settings


def reference(
    problem: Int8Conv | Int8Depthwise,
    x: Bytes,
    weight: Weight,
    constants: Array,
    zero: int,
    residual: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """What the kernel computes, bit for bit, of bytes [images, channels, height, width].

    Args:
        problem: the convolution.
        x: bytes, or floats where the result is floats for the residual.
        weight: [out, in / groups, rows, columns].
        constants: [2, out], as in `epilogue`.
        zero: the byte around the input.
        residual: bytes or floats like the result.
    """
    sums = exact_sums(problem, x, weight, zero)
    scale, offset, (factor, low, high, inverse, zero_) = epilogue(problem, constants)
    rows_ = slice(0, problem.outputs)
    y = sums.astype(np.float32) * scale[rows_, None, None] + offset[rows_, None, None]
    activation = problem.shape.activation
    if residual is not None:
        y = y + (residual.astype(np.float32) * factor if problem.out else residual)
    if problem.out is None:
        return _activated(activation, y)
    if activation not in int8_rows.INLINE:
        y = _activated(activation, y) * inverse + zero_
    return np.asarray(np.rint(np.clip(y, low, high)), np.uint8)


def exact_sums(
    problem: Int8Conv | Int8Depthwise, x: Bytes, weight: Weight, zero: int
) -> NDArray[np.int32]:
    """The sums of products, exactly: [images, out, height, width]."""
    shape = problem.shape
    _, height, width = shape.target.shape
    halo = shape.source.halo
    around = ((0, 0), (0, 0), (halo, halo), (halo, halo))
    wide = np.pad(x, around, constant_values=zero).astype(np.float64)  # exact below 2^53
    images, groups = len(x), problem.groups
    parts = wide.reshape(images, groups, problem.inputs, *wide.shape[2:])
    filters = weight.astype(np.float64).reshape(groups, -1, *problem.weight_shape[1:])
    y = np.zeros((images, groups, filters.shape[1], height, width))
    for row, column in np.ndindex(*shape.kernel):
        top = halo - shape.padding[0] + row * shape.dilation[0]
        left = halo - shape.padding[1] + column * shape.dilation[1]
        taps = parts[
            ...,
            top : top + (height - 1) * shape.stride[0] + 1 : shape.stride[0],
            left : left + (width - 1) * shape.stride[1] + 1 : shape.stride[1],
        ]
        y += np.einsum("goi,ngihw->ngohw", filters[..., row, column], taps)
    return y.reshape(images, problem.outputs, height, width).astype(np.int32)


def _activated(activation: Activation, y: Array) -> Array:
    """Clipping activations in float32, as kernels compute them; others in float64."""
    if activation is Activation.LEAKY_RELU:
        return np.where(y < 0, y * np.float32(0.01), y)
    return activations.reference(activation, y.astype(np.float64)).astype(np.float32)
