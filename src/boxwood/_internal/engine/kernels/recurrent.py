"""The pointwise half of LSTM and GRU steps, after the matrix–vector products."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine.kernels import activations, frame
from boxwood._internal.engine.kernels.contract import Activation, Code, Kernel
from boxwood._internal.engine.layouts import Array, Planes, vector
from boxwood._internal.engine.llvm.build import Builder, module
from boxwood._internal.engine.targets import Target


@dataclass(frozen=True)
class LstmCell:
    """``c' = σ(f)·c + σ(i)·tanh(g)``, ``h' = σ(o)·tanh(c')``, gates in torch's order i, f, g, o.

    Input: gates, a vector of 4 · hidden (both products and biases summed). Second input and
    output: the state, a vector of 2 · hidden holding h then c; they may be one buffer.

    Args:
        hidden: units.
    """

    hidden: int

    @property
    def source(self) -> Planes:
        """Layout of the gates."""
        return vector(4 * self.hidden)

    @property
    def target(self) -> Planes:
        """Layout of the state, old and new."""
        return vector(2 * self.hidden)


@dataclass(frozen=True)
class GruCell:
    """``n = tanh(n_x + σ(r)·n_h)``, ``h' = (1 − σ(z))·n + σ(z)·h``, in torch's order r, z, n.

    Input: a vector of 6 · hidden: the three gates from x with their biases, then the three from
    h with theirs. Second input and output: h, a vector of ``hidden``; they may be one buffer.

    Args:
        hidden: units.
    """

    hidden: int

    @property
    def source(self) -> Planes:
        """Layout of the gates."""
        return vector(6 * self.hidden)

    @property
    def target(self) -> Planes:
        """Layout of the state, old and new."""
        return vector(self.hidden)


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


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)))


def build_lstm(problem: LstmCell, target: Target) -> Kernel:
    """Make the kernel of an LSTM's pointwise half."""
    hidden = problem.hidden
    numbers = (hidden, 4 * problem.source.image, 4 * problem.target.image)
    entry = f"lstm_{target.lanes}"
    return Kernel(
        Code(entry, lambda: _emit(entry, _lstm, target)), numbers, units=-(-hidden // target.lanes)
    )


def build_gru(problem: GruCell, target: Target) -> Kernel:
    """Make the kernel of a GRU's pointwise half."""
    hidden = problem.hidden
    numbers = (hidden, 4 * problem.source.image, 4 * problem.target.image)
    entry = f"gru_{target.lanes}"
    return Kernel(
        Code(entry, lambda: _emit(entry, _gru, target)), numbers, units=-(-hidden // target.lanes)
    )


_Cell = Callable[[Builder, str, str, str, str, str, str], None]
"""Builder, kind of values, then: gates, old state, new state, hidden units, position."""


def _emit(entry: str, cell: _Cell, target: Target) -> str:
    """Whole vectors of units, then single ones; then zeros after the state."""
    f, a = frame.begin(entry, ("hidden", "gates_image", "state_image"))
    hidden, lanes = a["hidden"], target.lanes
    per_image = f.div(f.add(hidden, lanes - 1), lanes)
    with frame.units(f, f.mul(a["images"], per_image)) as unit:
        image, part = f.div(unit, per_image), f.rem(unit, per_image)
        gates = f.offset(a["source"], f.mul(image, a["gates_image"]))
        place = f.mul(image, a["state_image"])
        old, new = f.offset(a["second"], place), f.offset(a["target"], place)
        start = f.mul(part, lanes)
        stop = f.minimum(hidden, f.add(start, lanes))
        whole = f.compare("eq", f.sub(stop, start), lanes)
        with f.when(whole):
            cell(f, target.vector, gates, old, new, hidden, start)
        with f.otherwise(whole), f.loop(start, stop) as at:
            cell(f, "float", gates, old, new, hidden, at)
        last = f.compare("eq", part, f.sub(per_image, 1))
        with f.when(last):
            end = f.div(a["state_image"], 4)
            parts = 2 if cell is _lstm else 1
            with f.loop(f.mul(hidden, parts), end) as at:
                f.store("float", "0.0", f.offset(new, at, "float"))
    return module([f])


def _lstm(f: Builder, kind: str, gates: str, old: str, new: str, hidden: str, at: str) -> None:
    inward, forget, candidate, outward = (_load(f, kind, gates, hidden, n, at) for n in range(4))
    cell = _load(f, kind, old, hidden, 1, at)
    kept = f.binary("fmul", kind, _apply(f, kind, Activation.SIGMOID, forget), cell)
    fresh = _apply(f, kind, Activation.TANH, candidate)
    cell = f.fma(kind, _apply(f, kind, Activation.SIGMOID, inward), fresh, kept)
    shown = _apply(f, kind, Activation.TANH, cell)
    out = f.binary("fmul", kind, _apply(f, kind, Activation.SIGMOID, outward), shown)
    f.store(kind, out, f.offset(new, at, "float"), 4)
    f.store(kind, cell, f.offset(new, f.add(hidden, at), "float"), 4)


def _gru(f: Builder, kind: str, gates: str, old: str, new: str, hidden: str, at: str) -> None:
    reset, update, candidate, *own = (_load(f, kind, gates, hidden, n, at) for n in range(6))
    reset, update = (
        _apply(f, kind, Activation.SIGMOID, f.binary("fadd", kind, left, right))
        for left, right in ((reset, own[0]), (update, own[1]))
    )
    fresh = _apply(f, kind, Activation.TANH, f.fma(kind, reset, own[2], candidate))
    # (1 − z)·n + z·h = n + z·(h − n)
    change = f.binary("fsub", kind, f.load(kind, f.offset(old, at, "float"), 4), fresh)
    f.store(kind, f.fma(kind, update, change, fresh), f.offset(new, at, "float"), 4)


def _load(f: Builder, kind: str, base: str, hidden: str, part: int, at: str) -> str:
    return f.load(kind, f.offset(base, f.add(f.mul(hidden, part), at), "float"), 4)


def _apply(f: Builder, kind: str, activation: Activation, x: str) -> str:
    return activations.emit(f, kind, activation, x)
