"""Recurrent stacks in int8: both matrices of each layer, states as bytes from step to step."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from boxwood._internal.engine import torch_functions
from boxwood._internal.engine.kernels.quads import Quantisation
from boxwood._internal.engine.ops import Recurrent, RecurrentLayer
from boxwood._internal.engine.program import Batch, Program
from boxwood._internal.engine.quantisation import ranges
from boxwood._internal.engine.quantisation.layers import (
    ERROR_BATCHES,
    BytesWeight,
    LayerError,
    bytes_weight,
)
from boxwood._internal.engine.quantisation.observe import Observer

MARGIN = 1.25
"""How much further than on calibration data states may go, up to ±1, where they end in any case."""

Weights = tuple[BytesWeight, BytesWeight]
"""Of a layer: its input's and its state's."""


@dataclass(frozen=True)
class Int8Stack:
    """A recurrent stack as it would be in int8.

    Args:
        weights: of each layer.
        ranges: what bytes of each layer's input represent, and of its state.
        decibels: signal to noise of its output on calibration data; states are floats in it.
    """

    weights: tuple[Weights, ...]
    ranges: tuple[tuple[Quantisation, Quantisation], ...]
    decibels: float


def measured_stacks(
    program: Program,
    batches: Sequence[tuple[Sequence[Tensor], Batch]],
    choices: Mapping[int, tuple[Quantisation, ...]],
    *,
    pairs: bool,
) -> dict[int, Int8Stack]:
    """Run stacks with bytes for weights and inputs, and choose the better range of each input.

    Args:
        program: of float32.
        batches: inputs and their leading size; the first few are used.
        choices: ranges by value; stacks whose input has none are left out.
        pairs: as in `bytes_weight`.
    """
    stacks = {
        position: op
        for position, op in enumerate(program.ops)
        if isinstance(op, Recurrent) and op.sources[0] in choices
    }
    weights = {position: _weights(program, op, pairs=pairs) for position, op in stacks.items()}
    functions = {
        position: torch_functions.torch_stack(op, _rounded(program, op, weights[position]))
        for position, op in stacks.items()
    }
    states: dict[int, list[float]] = {p: [0.0] * len(op.layers) for p, op in stacks.items()}
    errors = {p: [LayerError() for _ in choices[op.sources[0]]] for p, op in stacks.items()}
    observer = Observer(program)
    for inputs, batch in batches[:ERROR_BATCHES] if stacks else ():
        for position, now in observer.walk(inputs, batch):
            if position not in stacks:
                continue
            op = stacks[position]
            x, *first = (now[n] if n in now else program.constants[n] for n in op.sources)
            exact = now[op.writes[0]].reshape(1, -1)
            sizes = _greatest_states(program, op, x, first)
            states[position] = list(map(max, states[position], sizes))
            for error, choice in zip(errors[position], choices[op.sources[0]], strict=True):
                bytes_ = torch.from_numpy(ranges.rounded(x.numpy(), choice))
                error.add(exact, functions[position](bytes_, *first)[0].reshape(1, -1))
    found = {}
    for position, op in stacks.items():
        best = max(range(len(errors[position])), key=lambda n: errors[position][n].decibels)
        given = choices[op.sources[0]][best]
        made = [min(1.0, MARGIN * most) or 1.0 for most in states[position]]
        own = []
        for layer, most in enumerate(made):
            below = layer - layer % op.directions - op.directions  # the layer that it reads
            end = max(made[below : below + op.directions]) if below >= 0 else 0.0
            x_ = ranges.spanning(-end, end) if below >= 0 else given
            own.append((x_, ranges.spanning(-most, most)))
        found[position] = Int8Stack(weights[position], tuple(own), errors[position][best].decibels)
    return found


def _greatest_states(
    program: Program, op: Recurrent, x: Tensor, first: Sequence[Tensor]
) -> list[float]:
    """Return the greatest size of each layer's states on one input."""
    found = []
    for start in range(0, len(op.layers), op.directions):
        stop = start + op.directions
        own = replace(op, layers=op.layers[start:stop])
        begin = [state[start:stop] for state in first]
        x = torch_functions.torch_stack(own, program.constants)(x, *begin)[0]
        sizes = x.abs().reshape(-1, op.directions, x.shape[-1] // op.directions).amax((0, 2))
        before = begin[0].abs().amax((1, 2))
        found += torch.maximum(sizes, before).tolist()
    return found


def constants_of(
    layer: RecurrentLayer,
    weights: Weights,
    of: tuple[Quantisation, Quantisation],
    program: Program,
    *,
    joined: bool,
) -> list[tuple[Tensor, Tensor]]:
    """Return the int8 weight and the [2, gates] of a layer's input and of its state.

    Args:
        layer: of float32.
        weights: as bytes.
        of: what bytes of the input represent, and of the state.
        program: of the layer.
        joined: whether both biases go with the input's part, as an LSTM's do.
    """
    one, two = (
        torch.zeros(len(weights[0].weight), dtype=torch.float64)
        if number is None
        else program.constants[number].double()
        for number in (layer.bias_ih, layer.bias_hh)
    )
    biases = (one + two, torch.zeros_like(two)) if joined else (one, two)
    found = []
    for weight, bias, each in zip(weights, biases, of, strict=True):
        unit = weight.scale.double() * each.scale
        offset = bias - unit * each.zero * weight.weight.double().sum(1)
        found.append((weight.weight, torch.stack([unit, offset]).float()))
    return found


def _weights(program: Program, op: Recurrent, *, pairs: bool) -> tuple[Weights, ...]:
    return tuple(
        (
            bytes_weight(program.constants[layer.weight_ih], pairs=pairs),
            bytes_weight(program.constants[layer.weight_hh], pairs=pairs),
        )
        for layer in op.layers
    )


def _rounded(program: Program, op: Recurrent, weights: Sequence[Weights]) -> dict[int, Tensor]:
    """Return a stack's constants with weights as bytes represent them."""
    numbers: Iterable[int] = (number for layer in op.layers for number in layer.numbers)
    constants = {number: program.constants[number] for number in numbers}
    for layer, own in zip(op.layers, weights, strict=True):
        for number, weight in zip((layer.weight_ih, layer.weight_hh), own, strict=True):
            constants[number] = weight.floats()
    return constants
