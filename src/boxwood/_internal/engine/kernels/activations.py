"""Activations of epilogues: the reference in numpy; the emitters."""

import math

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.llvm.build import Builder, constant, lanes_of

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
                return np.asarray(np.clip(x, 0.0, 6.0))
            case Activation.LEAKY_RELU:
                return np.where(x < 0, 0.01 * x, x)
            case Activation.SILU:
                return x * _sigmoid(x)
            case Activation.GELU:
                return np.asarray(x * 0.5 * (1 + _erf(x / math.sqrt(2))))
            case Activation.GELU_TANH:
                inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
                return np.asarray(0.5 * x * (1 + np.tanh(inner)))
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


def emit(f: Builder, kind: str, activation: Activation, x: str) -> str:
    """Emit the activation of one vector; NaN stays NaN.

    Args:
        f: the function being written.
        kind: LLVM's vector type.
        activation: which.
        x: the value.

    Returns:
        The result's value.
    """
    match activation:
        case Activation.NONE:
            return x
        case Activation.RELU:
            return _clip(f, kind, x, low=0.0)
        case Activation.RELU6:
            return _clip(f, kind, x, low=0.0, high=6.0)
        case Activation.LEAKY_RELU:
            small = f.binary("fmul", kind, x, constant(kind, 0.01))
            negative = _compare(f, kind, "olt", x, 0.0)
            return f.select(negative, kind, small, x)
        case Activation.SILU:
            return f.binary("fdiv", kind, x, _one_plus_exp_of_minus(f, kind, x))
        case Activation.GELU:
            return _gelu(f, kind, x)
        case Activation.GELU_TANH:
            return _gelu_tanh(f, kind, x)
        case Activation.HARDSWISH:
            gate = _hard_gate(f, kind, x)
            return f.binary("fmul", kind, f.binary("fmul", kind, x, gate), constant(kind, 1 / 6))
        case Activation.HARDSIGMOID:
            return f.binary("fmul", kind, _hard_gate(f, kind, x), constant(kind, 1 / 6))
        case Activation.SIGMOID:
            below = _one_plus_exp_of_minus(f, kind, x)
            return f.binary("fdiv", kind, constant(kind, 1.0), below)
        case Activation.TANH:
            return _tanh(f, kind, x)


def _compare(f: Builder, kind: str, how: str, x: str, number: float) -> str:
    return f.value(f"fcmp {how} {kind} {x}, {constant(kind, number)}")


def _clip(
    f: Builder, kind: str, x: str, *, low: float | None = None, high: float | None = None
) -> str:
    """Clip to bounds so that NaN passes: ordered comparisons are false for it."""
    if low is not None:
        x = f.select(_compare(f, kind, "olt", x, low), kind, constant(kind, low), x)
    if high is not None:
        x = f.select(_compare(f, kind, "ogt", x, high), kind, constant(kind, high), x)
    return x


def _hard_gate(f: Builder, kind: str, x: str) -> str:
    shifted = f.binary("fadd", kind, x, constant(kind, 3.0))
    return _clip(f, kind, shifted, low=0.0, high=6.0)


def _polynomial(f: Builder, kind: str, x: str, coefficients: tuple[float, ...]) -> str:
    """Horner's rule, highest power first."""
    result = constant(kind, coefficients[0])
    for coefficient in coefficients[1:]:
        result = f.fma(kind, result, x, constant(kind, coefficient))
    return result


def exponential(f: Builder, kind: str, x: str) -> str:
    """e^x within 2 units of the last place; 0 or infinity outside the range of float32.

    x = n · ln 2 + r with |r| <= ln 2 / 2; e^r by its series to r⁶ (error 4e-8 there), and 2^n by
    adding n to the exponent in two halves, so that neither overflows.
    """
    x = _clip(f, kind, x, low=-104.0, high=89.0)
    magic = constant(kind, 12582912.0)  # 1.5 · 2^23: adding it rounds to a whole number
    shifted = f.fma(kind, x, constant(kind, math.log2(math.e)), magic)
    whole = f.binary("fsub", kind, shifted, magic)
    rest = f.fma(kind, whole, constant(kind, -0.693359375), x)
    rest = f.fma(kind, whole, constant(kind, 2.12194440e-4), rest)
    series = tuple(1 / math.factorial(power) for power in range(7, -1, -1))
    result = _polynomial(f, kind, rest, series)
    integer = kind.replace("float", "i32")
    bits = f.value(f"bitcast {kind} {shifted} to {integer}")
    n = f.value(f"sub {integer} {bits}, {_integers(kind, 0x4B400000)}")  # the bits of the magic
    half = f.value(f"ashr {integer} {n}, {_integers(kind, 1)}")
    other = f.value(f"sub {integer} {n}, {half}")
    for part in (half, other):
        biased = f.value(f"add {integer} {part}, {_integers(kind, 127)}")
        bits = f.value(f"shl {integer} {biased}, {_integers(kind, 23)}")
        power = f.value(f"bitcast {integer} {bits} to {kind}")
        result = f.binary("fmul", kind, result, power)
    return result


def _integers(kind: str, number: int) -> str:
    if kind == "float":
        return str(number)
    return "<" + ", ".join(f"i32 {number}" for _ in range(lanes_of(kind))) + ">"


def _one_plus_exp_of_minus(f: Builder, kind: str, x: str) -> str:
    minus = f.value(f"fneg {kind} {x}")
    return f.binary("fadd", kind, exponential(f, kind, minus), constant(kind, 1.0))


def _tanh(f: Builder, kind: str, x: str) -> str:
    """Near 0 an odd polynomial, elsewhere 1 − 2 / (e^{2|x|} + 1) with the sign of x."""
    size = f.intrinsic("fabs", kind, x)
    square = f.binary("fmul", kind, x, x)
    inner = _polynomial(f, kind, square, TANH)
    near = f.fma(kind, f.binary("fmul", kind, inner, square), x, x)
    power = exponential(f, kind, f.binary("fadd", kind, size, size))
    below = f.binary("fadd", kind, power, constant(kind, 1.0))
    far = f.binary(
        "fsub", kind, constant(kind, 1.0), f.binary("fdiv", kind, constant(kind, 2.0), below)
    )
    negative = _compare(f, kind, "olt", x, 0.0)
    far = f.select(negative, kind, f.value(f"fneg {kind} {far}"), far)
    return f.select(_compare(f, kind, "olt", size, 0.625), kind, near, far)


def _gelu_tanh(f: Builder, kind: str, x: str) -> str:
    """X · σ(2u) with u = √(2/π) (x + 0.044715 x³), which is 0.5 x (1 + tanh u)."""
    square = f.binary("fmul", kind, x, x)
    scale = 2 * math.sqrt(2 / math.pi)
    inner = f.fma(kind, square, constant(kind, 0.044715 * scale), constant(kind, scale))
    double = f.binary("fmul", kind, x, inner)
    return f.binary("fdiv", kind, x, _one_plus_exp_of_minus(f, kind, double))


def _gelu(f: Builder, kind: str, x: str) -> str:
    """X · Φ(x), Φ through erfc(z) = t · exp(−z² + P(t)), t = 1 / (1 + z/2), z = |x| / √2.

    P is the fit of Press et al. (1992), Numerical Recipes, erfcc: relative error below 1.2e-7.
    """
    size = f.binary("fmul", kind, f.intrinsic("fabs", kind, x), constant(kind, math.sqrt(0.5)))
    below = f.fma(kind, size, constant(kind, 0.5), constant(kind, 1.0))
    t = f.binary("fdiv", kind, constant(kind, 1.0), below)
    minus = f.value(f"fneg {kind} {size}")
    power = f.fma(kind, minus, size, _polynomial(f, kind, t, ERFC))
    half = f.binary("fmul", kind, t, constant(kind, 0.5))
    tail = f.binary("fmul", kind, half, exponential(f, kind, power))
    above = f.binary("fsub", kind, constant(kind, 1.0), tail)
    phi = f.select(_compare(f, kind, "olt", x, 0.0), kind, tail, above)
    return f.binary("fmul", kind, x, phi)


TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
"""tanh(x) = x + x³ P(x²) for |x| < 0.625 (Moshier, Cephes, tanhf)."""

ERFC = (
    0.17087277,
    -0.82215223,
    1.48851587,
    -1.13520398,
    0.27886807,
    -0.18628806,
    0.09678418,
    0.37409196,
    1.00002368,
    -1.26551223,
)
