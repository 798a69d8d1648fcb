"""Recurrent stacks in int8: both matrices of each layer, states as bytes from step to step."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood._internal.engine import torch_functions
from boxwood._internal.engine.kernels.quads import Quantisation
from boxwood._internal.engine.ops import Recurrent, RecurrentLayer
from boxwood._internal.engine.program import Program
from boxwood._internal.engine.quantisation import ranges
from boxwood._internal.engine.quantisation.layers import (
    ERROR_BATCHES,
    BytesWeight,
    LayerError,
    bytes_weight,
)
from boxwood._internal.engine.quantisation.observe import Observer

STATE = Quantisation(2 / 255, 128)
"""States lie between -1 and 1."""

Weights = tuple[BytesWeight, BytesWeight]
"""Of a layer: its input's and its state's."""


@dataclass(frozen=True)
class Int8Stack:
    """A recurrent stack as it would be in int8.

    Args:
        weights: of each layer.
        ranges: what bytes of each layer's input represent.
        decibels: signal to noise of its output on calibration data; states are floats in it.
    """

    weights: tuple[Weights, ...]
    ranges: tuple[Quantisation, ...]
    decibels: float


def measured_stacks(
    program: Program,
    batches: Sequence[tuple[Sequence[Tensor], int]],
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
    errors = {p: [LayerError() for _ in choices[op.sources[0]]] for p, op in stacks.items()}
    observer = Observer(program)
    for inputs, batch in batches[:ERROR_BATCHES] if stacks else ():
        for position, now in observer.walk(inputs, batch):
            if position not in stacks:
                continue
            op = stacks[position]
            x, *states = (now[n] if n in now else program.constants[n] for n in op.sources)
            exact = now[op.writes[0]].reshape(1, -1)
            for error, choice in zip(errors[position], choices[op.sources[0]], strict=True):
                bytes_ = torch.from_numpy(ranges.rounded(x.numpy(), choice))
                error.add(exact, functions[position](bytes_, *states)[0].reshape(1, -1))
    found = {}
    for position, op in stacks.items():
        best = max(range(len(errors[position])), key=lambda n: errors[position][n].decibels)
        first = choices[op.sources[0]][best]
        own = tuple(first if n < op.directions else STATE for n in range(len(op.layers)))
        found[position] = Int8Stack(weights[position], own, errors[position][best].decibels)
    return found


def constants_of(
    layer: RecurrentLayer,
    weights: Weights,
    x: Quantisation,
    program: Program,
    *,
    joined: bool,
) -> list[tuple[Tensor, Tensor]]:
    """Return the int8 weight and the [2, gates] of a layer's input and of its state.

    Args:
        layer: of float32.
        weights: as bytes.
        x: what bytes of the input represent.
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
    for weight, bias, of in zip(weights, biases, (x, STATE), strict=True):
        unit = weight.scale.double() * of.scale
        offset = bias - unit * of.zero * weight.weight.double().sum(1)
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
