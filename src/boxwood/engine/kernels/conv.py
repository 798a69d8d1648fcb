"""Convolution and linear layers on channel planes: the problem, its reference, its kernel."""

from dataclasses import dataclass

import numpy as np

from boxwood.core.errors import BoxwoodError
from boxwood.engine.kernels import activations
from boxwood.engine.kernels.contract import Activation
from boxwood.engine.layouts import Array, Planes, columns


@dataclass(frozen=True)
class Conv:
    """``y = activation(weight ∗ x + bias + residual)``, a cross-correlation as in torch.

    Args:
        source: layout of x. Padding of k×k kernels needs a halo of at least as much.
        target: layout of y and of the residual; its height and width say how far to go.
        kernel: rows and columns of a filter.
        stride: steps between outputs, down and right.
        padding: zeros above the first row and left of the first column.
        dilation: steps between the taps of a filter.
        groups: groups of channels that do not mix.
        activation: what is applied last.
        residual: whether a second input is added before the activation.
    """

    source: Planes
    target: Planes
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: Activation = Activation.NONE
    residual: bool = False

    def __post_init__(self) -> None:
        if self.source.channels % self.groups or self.target.channels % self.groups:
            raise BoxwoodError(
                f"Expected channels that {self.groups} groups divide, got {self.source.channels} "
                f"in and {self.target.channels} out; give groups that divide both."
            )
        for axis in (0, 1):
            size, out = self.source.shape[1 + axis], self.target.shape[1 + axis]
            before = self.padding[axis]
            last = (out - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis]
            after = last - before - (size - 1)
            if max(before, after) > self.source.halo and self.kernel != (1, 1):
                raise BoxwoodError(
                    f"Expected a halo of at least {max(before, after)} around the input, got "
                    f"{self.source.halo}; lay the input out with a wider halo."
                )
            if after > self.source.halo:
                raise BoxwoodError(
                    f"Expected outputs that stay within the input, got {out} outputs of stride "
                    f"{self.stride[axis]} from {size} inputs; give the target's true size."
                )

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight as torch holds it."""
        return (self.target.channels, self.source.channels // self.groups, *self.kernel)


def linear(
    inputs: int,
    outputs: int,
    tokens: int,
    *,
    activation: Activation = Activation.NONE,
    residual: bool = False,
) -> Conv:
    """A linear layer over many tokens, as a 1×1 convolution over columns.

    Example:
        >>> linear(768, 3072, 128).weight_shape
        (3072, 768, 1, 1)
    """
    return Conv(
        columns(inputs, tokens),
        columns(outputs, tokens),
        activation=activation,
        residual=residual,
    )


def reference(
    problem: Conv, x: Array, weight: Array, bias: Array | None, residual: Array | None = None
) -> Array:
    """What the kernel computes, in float64, of values [images, channels, height, width]."""
    images = len(x)
    out, inner, rows, cols = problem.weight_shape
    _, height, width = problem.target.shape
    halo = problem.source.halo
    wide = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (halo, halo), (halo, halo)))
    groups = wide.reshape(images, problem.groups, inner, *wide.shape[2:])
    filters = weight.astype(np.float64).reshape(
        problem.groups, out // problem.groups, inner, rows, cols
    )
    y = np.zeros((images, problem.groups, out // problem.groups, height, width))
    for row in range(rows):
        for col in range(cols):
            top = halo - problem.padding[0] + row * problem.dilation[0]
            left = halo - problem.padding[1] + col * problem.dilation[1]
            taps = groups[
                ...,
                top : top + (height - 1) * problem.stride[0] + 1 : problem.stride[0],
                left : left + (width - 1) * problem.stride[1] + 1 : problem.stride[1],
            ]
            y += np.einsum("goi,ngihw->ngohw", filters[..., row, col], taps)
    y = y.reshape(images, out, height, width)
    if bias is not None:
        y += bias.astype(np.float64)[:, None, None]
    if residual is not None:
        y += residual
    return activations.reference(problem.activation, y).astype(np.float32)
