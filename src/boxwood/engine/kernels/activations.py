"""Activations of epilogues: the reference in numpy; the emitters."""

import math

import numpy as np
from numpy.typing import NDArray

from boxwood.engine.kernels.contract import Activation

_erf = np.vectorize(math.erf, otypes=[np.float64])


def reference(activation: Activation, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The activation in float64; NaN stays NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        match activation:
            case Activation.NONE:
                return x
            case Activation.RELU:
                return np.where(x < 0, 0.0, x)
            case Activation.RELU6:
                return np.clip(x, 0.0, 6.0)
            case Activation.LEAKY_RELU:
                return np.where(x < 0, 0.01 * x, x)
            case Activation.SILU:
                return np.where(x == -np.inf, -0.0, x * _sigmoid(x))
            case Activation.GELU:
                return x * 0.5 * (1 + _erf(x / math.sqrt(2)))
            case Activation.GELU_TANH:
                inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
                return 0.5 * x * (1 + np.tanh(inner))
            case Activation.HARDSWISH:
                return x * np.clip(x + 3, 0, 6) / 6
            case Activation.HARDSIGMOID:
                return np.clip(x + 3, 0, 6) / 6
            case Activation.SIGMOID:
                return _sigmoid(x)
            case Activation.TANH:
                return np.tanh(x)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))
