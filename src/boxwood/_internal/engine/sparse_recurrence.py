"""LSTM and GRU layers with sparse weights, in kernels: all steps of a layer are one native call."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxwood._internal.engine.kernel_cache import place_constants
from boxwood._internal.engine.kernels import bit_packing, bitmask, recurrent
from boxwood._internal.engine.kernels.contract import BoundKernel, arguments
from boxwood._internal.engine.layer_plans import Holding, next_number, plans
from boxwood._internal.engine.layouts import Array
from boxwood._internal.engine.measured_shapes import MeasuredShapes
from boxwood._internal.engine.memory import allocate_aligned
from boxwood._internal.engine.native_calls import NativeList
from boxwood._internal.engine.sparse_products import FewPositions, ManyPositions
from boxwood._internal.engine.targets import Target
from boxwood._internal.engine.thread_team import ThreadTeam

MANY = 16
"""Positions from which on the product with the inputs takes many at a time."""

LENGTHS = 4
"""Numbers of steps and sequences for which memory is kept."""


@dataclasses.dataclass(frozen=True)
class RecurrentSettings:
    """A stack of recurrent layers, as torch's functions name it.

    Args:
        gates: four of an LSTM, three of a GRU.
        biased: whether there are biases.
        layers: how many.
        both: whether each runs in two directions.
        batch_first: whether sequences come before steps.
    """

    gates: int
    biased: bool
    layers: int
    both: bool
    batch_first: bool

    def dense(self, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        """Return what torch computes: the outputs, then the last state."""
        args = (self.biased, self.layers, 0.0, False, self.both, self.batch_first)
        found: Sequence[Tensor]
        if self.gates == 4:
            found = torch.lstm(x, list(state), list(weights), *args)
        else:
            found = torch.gru(x, state[0], list(weights), *args)
        return [tensor.contiguous() for tensor in found]


class RecurrentPlan:
    """A recurrent layer's ways to run: for one step and for several, by number of sequences.

    Args:
        weights: in torch's order, float32 on the CPU.
        settings: of the stack.
        target: the family that runs it.
        team: the threads.
        shapes: what was found for a layer of equal weights.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        settings: RecurrentSettings,
        target: Target,
        team: ThreadTeam,
        shapes: MeasuredShapes | None = None,
    ) -> None:
        self.number = next_number()
        self._holdings = [Holding(weight, None) for weight in weights]
        self._settings, self._target, self._team = settings, target, team
        self._shapes = shapes or MeasuredShapes(team)
        self._stack: Stack | None = None
        plans[self.number] = self

    def for_copy(self, *weights: Tensor) -> "RecurrentPlan":
        """Return the plan of a layer with equal weights; packed ones are shared."""
        return RecurrentPlan(weights, self._settings, self._target, self._team, self._shapes)

    def __call__(
        self,
        x: Tensor,
        state: Sequence[Tensor],
        weights: Sequence[Tensor],
        settings: RecurrentSettings,
    ) -> list[Tensor]:
        """Return the outputs and the last state, contiguous."""
        tensors = (x, *state)
        fits = all(each.dtype == torch.float32 for each in tensors) and x.ndim == 3
        if settings != self._settings or not fits or not x.numel() or not self._hold(weights):
            return settings.dense(x, state, weights)
        steps, sequences = x.shape[:2] if not settings.batch_first else (x.shape[1], x.shape[0])
        call = self._shapes.choose(
            (min(steps, 2), sequences), partial(self._made, weights), settings.dense,
            x, state, weights,
        )  # fmt: skip
        return call(x, state, weights)  # type: ignore[no-any-return]

    def _hold(self, weights: Sequence[Tensor]) -> bool:
        pairs = zip(self._holdings, weights, strict=True)
        return len(weights) == len(self._holdings) and all(
            holding.holds(weight, None) for holding, weight in pairs
        )

    def _made(self, weights: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
        self._stack = self._stack or Stack(weights, self._settings, self._target, self._team)
        return self._stack


class Stack:
    """All layers and directions of a recurrent module.

    Args:
        weights: in torch's order.
        settings: of the stack.
        target: the family that runs it.
        team: the threads.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        settings: RecurrentSettings,
        target: Target,
        team: ThreadTeam,
    ) -> None:
        each = 4 if settings.biased else 2
        arrays = [weight.detach().contiguous().numpy() for weight in weights]
        self._directions = [
            _Direction(settings.gates, arrays[start : start + each], target, team)
            for start in range(0, len(arrays), each)
        ]
        self._settings = settings

    def __call__(self, x: Tensor, state: Sequence[Tensor], *_: Any) -> list[Tensor]:
        """Return the outputs and the last state."""
        settings = self._settings
        if settings.batch_first:
            x = x.transpose(0, 1)
        last: list[list[Tensor]] = []
        ways = 2 if settings.both else 1
        for layer in range(settings.layers):
            parts = []
            for way in range(ways):
                number = ways * layer + way
                y, *after = self._directions[number](
                    x.flip(0) if way else x, [each[number] for each in state]
                )
                parts.append(y.flip(0) if way else y)
                last.append(after)
            x = torch.cat(parts, -1) if settings.both else parts[0]
        y = x.transpose(0, 1).contiguous() if settings.batch_first else x
        return [y, *(torch.stack(each) for each in zip(*last, strict=True))]


class _Direction:
    """One layer in one direction: a product with all inputs, then step after step.

    Args:
        gates: four of an LSTM, three of a GRU.
        weights: of the inputs and of the state, then the biases of both if there are any.
        target: the family that runs it.
        team: the threads.
    """

    def __init__(
        self, gates: int, weights: Sequence[Array], target: Target, team: ThreadTeam
    ) -> None:
        inward, own, *biases = weights
        self._hidden, self._target, self._team = own.shape[1], target, team
        # An LSTM adds both products, and keeps its cell next to its output; a GRU keeps them apart.
        added = gates == 4
        self._gates = (4 if added else 6) * self._hidden
        self._state = (2 if added else 1) * self._hidden
        first, second = biases if biases else (None, None)
        if added and biases:
            first, second = np.add(*biases), None
        how = (inward, first, target, team, self._gates)
        self._few, self._many = FewPositions(*how), ManyPositions(*how)
        product = bitmask.build(
            own.shape, own, second, bitmask.Strides(self._state, self._gates),
            bit_packing.usual_packing(own, team.threads), residual=added,
        )  # fmt: skip
        cell = (
            recurrent.build_lstm(recurrent.LstmCell(self._hidden), target)
            if added
            else recurrent.build_gru(recurrent.GruCell(self._hidden), target)
        )
        strides = (self._hidden, 4 * self._gates, 4 * self._state)
        self._kernels = place_constants([product, dataclasses.replace(cell, slots=strides)])
        self._beside = 0 if added else 4 * 3 * self._hidden  # where the state's gates go, in bytes
        self._idle: dict[tuple[int, int], list[_Steps]] = {}

    def __call__(self, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs [steps, sequences, hidden] and the last state."""
        steps, sequences, _ = x.shape
        idle = self._idle.get((steps, sequences))
        if idle is None:
            if len(self._idle) >= LENGTHS:
                self._idle = {}
            idle = self._idle[steps, sequences] = []
        try:
            made = idle.pop()
        except IndexError:
            made = self._steps(steps, sequences)
        count = steps * sequences
        x = x.contiguous()
        (self._many if count >= MANY else self._few).into(x.data_ptr(), count, made.gates)
        hidden, states = self._hidden, made.states
        for number, each in enumerate(state):
            states[0, :, number * hidden : (number + 1) * hidden] = each
        made.steps.run()
        last = [states[steps, :, n * hidden : (n + 1) * hidden].clone() for n in range(len(state))]
        found = [states[1:, :, :hidden].clone(memory_format=torch.contiguous_format), *last]
        idle.append(made)
        return found

    def _steps(self, steps: int, sequences: int) -> "_Steps":
        gates, state = (4 * sequences * floats for floats in (self._gates, self._state))
        memory = allocate_aligned(steps * gates + (steps + 1) * state)
        first = memory.ctypes.data
        start = first + steps * gates
        product, cell = self._kernels
        calls = []
        for step in range(steps):
            here, old = first + step * gates, start + step * state
            calls += [
                (product, _block(product, old, here + self._beside, here, sequences)),
                (cell, _block(cell, here, old + state, old, sequences)),
            ]
        floats = torch.from_numpy(memory[steps * gates :].view("float32"))
        states = floats.view(steps + 1, sequences, self._state)
        return _Steps(first, states, NativeList(calls, self._target, self._team))


@dataclasses.dataclass(frozen=True, eq=False)
class _Steps:
    """The memory of all steps, and the kernels that run on it; one caller at a time.

    Args:
        gates: address of the gates of the first step.
        states: [steps + 1, sequences, state], the state before each step and after the last.
        steps: the calls.
    """

    gates: int
    states: Tensor
    steps: NativeList


def _block(bound: BoundKernel, source: int, target: int, second: int, images: int) -> Any:
    return arguments(
        bound.kernel, bound.addresses, source=source, target=target, second=second, images=images
    )
