"""Layers in int8: their weights as bytes, and what they lose on calibration data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from boxwood._internal.engine.kernels.quads import Quantisation
from boxwood._internal.engine.ops import NativeOp
from boxwood._internal.engine.program import Batch, Program
from boxwood._internal.engine.quantisation import ranges
from boxwood._internal.engine.quantisation.observe import Observer, by_channel, product

LIMIT = 127
"""Greatest size of a weight's byte, and of what two neighbours add up to before rounding."""
SAMPLE = 1 << 14
"""Values of one activation that one batch gives to the choice of its range."""
SAMPLED = 1 << 18
"""Values of one activation in all."""
ERROR_BATCHES = 8
"""Batches on which layers are run in both ways."""


@dataclass(frozen=True)
class BytesWeight:
    """A weight as bytes, symmetric for each output.

    Args:
        weight: int8, of the float weight's shape.
        scale: [out], what one unit is worth.
    """

    weight: Tensor
    scale: Tensor

    def floats(self) -> Tensor:
        """What the bytes represent."""
        shape = (-1, *[1] * (self.weight.ndim - 1))
        return (self.weight.double() * self.scale.reshape(shape)).float()


def bytes_weight(weight: Tensor, *, pairs: bool) -> BytesWeight:
    """Round a weight to bytes.

    Args:
        weight: [out, in, ...].
        pairs: whether the weights of two neighbouring inputs may add up to 128 at most, each sign
            by itself, as processors need that add such products in 16 bits.

    Example:
        >>> bytes_weight(torch.tensor([[1.0, -0.5]]), pairs=False).weight.tolist()
        [[127, -64]]
    """
    flat = weight.double().reshape(len(weight), weight.shape[1], -1)
    if weight.shape[1] == 1:  # a filter for each channel: taps are neighbours
        flat = flat.transpose(1, 2)
    most = flat.abs().amax((1, 2)) if flat.numel() else flat.new_zeros(len(flat))
    if pairs:
        even = torch.nn.functional.pad(flat, (0, 0, 0, flat.shape[1] % 2))
        couples = even.reshape(len(flat), -1, 2, flat.shape[2])
        sums = torch.maximum(couples.clamp(min=0).sum(2), -couples.clamp(max=0).sum(2))
        most = torch.maximum(most, sums.amax((1, 2)))
    scale = torch.where(most > 0, most / LIMIT, torch.ones_like(most))
    rounded = (flat / scale[:, None, None]).round().clamp(-LIMIT, LIMIT)
    return BytesWeight(rounded.to(torch.int8).reshape(weight.shape), scale)


def observed_ranges(
    program: Program, batches: Sequence[tuple[Sequence[Tensor], Batch]], values: Iterable[int]
) -> dict[int, tuple[Quantisation, ...]]:
    """Return the ranges that each value may have: by percentile, and by squared error.

    Args:
        program: of float32.
        batches: inputs and their leading size.
        values: whose ranges.
    """
    wanted, observer = set(values), Observer(program)
    seen: dict[int, list[ranges.Values]] = {value: [] for value in wanted}
    ends: dict[int, tuple[float, float]] = {}
    for inputs, batch in batches:
        done: set[int] = set()
        for _, now in observer.walk(inputs, batch):
            for value in wanted & now.keys() - done:
                done.add(value)
                flat = now[value].detach().float().reshape(-1)
                low, high = (float(end) for end in torch.aminmax(flat))
                before = ends.get(value, (low, high))
                ends[value] = min(low, before[0]), max(high, before[1])
                most = min(SAMPLE, SAMPLED // len(batches))
                # Steps that share no factor with sizes of images see every channel.
                step = max(1, flat.numel() // most) | 1
                seen[value].append(flat[::step].numpy().copy())
    found: dict[int, tuple[Quantisation, ...]] = {}
    for value in wanted:
        sample = np.concatenate([*seen[value], np.array(ends[value], np.float32)])
        found[value] = (ranges.by_percentile(sample), ranges.by_squared_error(sample))
    return found


@dataclass
class LayerError:
    """What a layer loses with its input in one of the ranges, over the batches so far.

    Args:
        count: values of each output channel.
        sums: of the differences of each channel.
        squares: of the differences.
        signal: squares of the result.
    """

    count: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    squares: float = 0.0
    signal: float = 0.0

    def add(self, exact: Tensor, rounded: Tensor) -> None:
        """Take in one batch's results, [channels, everything else]."""
        difference = (exact - rounded).double()
        self.count += exact.shape[1]
        self.sums = self.sums + difference.sum(1)
        self.squares += float(difference.square().sum())
        self.signal += float(exact.double().square().sum())

    @property
    def correction(self) -> Tensor:
        """What a bias has to make good, [channels]."""
        return self.sums / max(self.count, 1)

    @property
    def noise(self) -> float:
        """Squares of the differences once biases are corrected."""
        return max(0.0, self.squares - float(self.sums.square().sum()) / max(self.count, 1))

    @property
    def decibels(self) -> float:
        """10 · log₁₀(signal / noise); infinite without noise."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


@dataclass(frozen=True)
class Int8Layer:
    """A layer as it would be in int8.

    Args:
        weight: its bytes.
        correction: what is added to its bias, [out].
        decibels: signal to noise of its result on calibration data.
    """

    weight: BytesWeight
    correction: Tensor
    decibels: float


def measured_layers(
    program: Program,
    batches: Sequence[tuple[Sequence[Tensor], Batch]],
    positions: Iterable[int],
    choices: Mapping[int, tuple[Quantisation, ...]],
    *,
    pairs: bool,
) -> tuple[dict[int, Int8Layer], dict[int, Quantisation]]:
    """Run layers with bytes for weights and inputs, and choose the better range of each input.

    Args:
        program: of float32.
        batches: inputs and their leading size; the first few are used.
        positions: of the layers.
        choices: ranges by value.
        pairs: as in `bytes_weight`.

    Returns:
        The layers by position, and the range of each value.
    """
    layers = {
        position: op
        for position in positions
        if isinstance(op := program.ops[position], NativeOp) and op.weight is not None
    }
    weights = {
        position: bytes_weight(program.constants[op.weight], pairs=pairs)
        for position, op in layers.items()
        if op.weight is not None
    }
    errors = {
        position: [LayerError() for _ in choices[op.sources[0]]] for position, op in layers.items()
    }
    observer = Observer(program)
    for inputs, batch in batches[:ERROR_BATCHES]:
        for position, now in observer.walk(inputs, batch):
            if position not in layers:
                continue
            op = layers[position]
            x, held = now[op.sources[0]], program.constants
            exact = by_channel(op, product(op, x, held[op.weight or 0], None))
            floats = weights[position].floats()
            for error, choice in zip(errors[position], choices[op.sources[0]], strict=True):
                bytes_ = torch.from_numpy(ranges.rounded(x.numpy(), choice))
                error.add(exact, by_channel(op, product(op, bytes_, floats, None)))
    best = dict.fromkeys(choices, 0)
    for value in choices:
        readers = [
            each for position, each in errors.items() if layers[position].sources[0] == value
        ]
        losses = [
            sum(each[index].noise / (each[index].signal or 1.0) for each in readers)
            for index in range(len(choices[value]))
        ]
        # Where nothing reads it as bytes but a sum, squared error is what counts.
        best[value] = int(np.argmin(losses)) if readers else len(losses) - 1
    found = {}
    for position, op in layers.items():
        error = errors[position][best[op.sources[0]]]
        found[position] = Int8Layer(weights[position], error.correction, error.decibels)
    return found, {value: choices[value][index] for value, index in best.items()}
