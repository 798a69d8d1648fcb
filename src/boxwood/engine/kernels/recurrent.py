"""The pointwise half of LSTM and GRU steps, after the matrix–vector products."""

from dataclasses import dataclass

import numpy as np

from boxwood.engine.layouts import Array


@dataclass(frozen=True)
class LstmCell:
    """``c' = σ(f)·c + σ(i)·tanh(g)``, ``h' = σ(o)·tanh(c')``, gates in torch's order i, f, g, o.

    Input: gates, a vector of 4 · hidden (both products and biases summed). Second input and
    output: the state, a vector of 2 · hidden holding h then c; they may be one buffer.

    Args:
        hidden: units.
    """

    hidden: int


@dataclass(frozen=True)
class GruCell:
    """``n = tanh(n_x + σ(r)·n_h)``, ``h' = (1 − σ(z))·n + σ(z)·h``, in torch's order r, z, n.

    Input: a vector of 6 · hidden: the three gates from x with their biases, then the three from
    h with theirs. Second input and output: h, a vector of ``hidden``; they may be one buffer.

    Args:
        hidden: units.
    """

    hidden: int


def lstm_reference(gates: Array, state: Array) -> Array:
    """The new state [images, 2 · hidden] of gates [images, 4 · hidden], in float64."""
    inward, forget, candidate, outward = np.split(gates.astype(np.float64), 4, 1)
    _, cell = np.split(state.astype(np.float64), 2, 1)
    cell = _sigmoid(forget) * cell + _sigmoid(inward) * np.tanh(candidate)
    return np.concatenate([_sigmoid(outward) * np.tanh(cell), cell], 1).astype(np.float32)


def gru_reference(gates: Array, state: Array) -> Array:
    """The new state [images, hidden] of gates [images, 6 · hidden], in float64."""
    reset, update, candidate, reset_h, update_h, candidate_h = np.split(
        gates.astype(np.float64), 6, 1
    )
    new = np.tanh(candidate + _sigmoid(reset + reset_h) * candidate_h)
    keep = _sigmoid(update + update_h)
    return ((1 - keep) * new + keep * state).astype(np.float32)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
