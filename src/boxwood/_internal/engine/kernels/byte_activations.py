"""Activations whose results become bytes: as exact as a byte can represent, and cheaper."""

from collections.abc import Mapping

from boxwood._internal.engine.kernels import activations
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.llvm.build import Builder, constant

EDGE = 4.0
"""Where the polynomials end; beyond, a share is that at the edge."""

SHARES: Mapping[Activation, tuple[float, ...]] = {
    Activation.GELU: (
        2.27812017e-08, -1.59858922e-06, 4.79552378e-05, -0.000814012499, 0.00877237241,
        -0.0645730717, 0.397883317,
    ),
    Activation.GELU_TANH: (
        2.39430251e-08, -1.66471506e-06, 4.94047784e-05, -0.000828957654, 0.00884001419,
        -0.0646424066, 0.397745408,
    ),
}  # fmt: skip
"""Of x · (1/2 + t · P(t²)) with t = x within the edges: P, highest power first, fitted to least
greatest error, which is 2e-4 for the one and 4e-4 for the other. A byte of GELU's results takes
steps of 1e-2 or so."""


def emit(f: Builder, kind: str, activation: Activation, x: str) -> str:
    """Emit the activation of one vector.

    Args:
        f: the function being written.
        kind: LLVM's vector type.
        activation: which.
        x: the value.
    """
    powers = SHARES.get(activation)
    if powers is None:
        return activations.emit(f, kind, activation, x)
    t = x
    for how, edge in (("ogt", -EDGE), ("olt", EDGE)):
        limit = constant(kind, edge)
        inside = f.value(f"fcmp {how} {kind} {t}, {limit}")
        t = f.select(inside, kind, t, limit)
    square = f.binary("fmul", kind, t, t)
    share = constant(kind, powers[0])
    for power in powers[1:]:
        share = f.fma(kind, share, square, constant(kind, power))
    return f.binary("fmul", kind, x, f.fma(kind, share, t, constant(kind, 0.5)))
