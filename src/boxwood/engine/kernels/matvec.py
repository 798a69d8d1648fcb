"""Matrix times one vector: linear layers at batch 1 and steps of recurrent nets."""

from dataclasses import dataclass

import numpy as np

from boxwood.engine.kernels import activations
from boxwood.engine.kernels.contract import Activation
from boxwood.engine.layouts import Array, Planes, vector


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
