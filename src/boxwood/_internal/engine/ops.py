"""The operations that the engine has kernels for.

Unlike a kernel's problem, an operation knows no memory layout and no batch: one operation becomes
one problem for each plan.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.elementwise import Operation

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolve:
    """``activation(weight ∗ x + bias + residual)`` over images [batch, channels, height, width]."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class Project:
    """``activation(x weightᵀ + bias + residual)`` over the last axis."""

    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class PoolWindows:
    """Maximum or average over windows of images."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    average: bool
    count_padding: bool
    ceil: bool


@dataclass(frozen=True)
class Average:
    """The mean of each plane of images, as [batch, channels, 1, 1] or [batch, channels]."""

    keep: bool


@dataclass(frozen=True)
class Pointwise:
    """``activation(x ∘ second)``; per channel, the second is [batch, channels, 1, 1]."""

    operation: Operation
    per_channel: bool = False
    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class Concatenate:
    """Concatenation of images over channels."""


@dataclass(frozen=True)
class Flatten:
    """Images as vectors [batch, channels · height · width]."""


@dataclass(frozen=True)
class Normalise:
    """Layer normalisation over the last axis: weight and bias are its scale and shift."""

    epsilon: float


@dataclass(frozen=True)
class Attend:
    """``softmax(scale · q kᵀ) v`` of each head, over tokens of queries, keys and values.

    The source's features are queries, keys, values, each head after head; so are the result's.

    Args:
        heads: heads.
        size: features of a head.
        scale: factor of the scores; 1/√size when 0.
        batch_first: whether tokens are [batch, tokens], else [tokens, batch].
    """

    heads: int
    size: int
    scale: float
    batch_first: bool


OpKind = (
    Convolve
    | Project
    | PoolWindows
    | Average
    | Pointwise
    | Concatenate
    | Flatten
    | Normalise
    | Attend
)


@dataclass(frozen=True)
class NativeOp:
    """One operation on numbered values.

    Args:
        does: which operation, with its settings.
        sources: the tensors it reads: x, then a residual or second operand.
        out: the tensor that it makes.
        weight: its constant weight, if it has one.
        bias: its constant bias, if it has one.
    """

    kind: OpKind
    sources: tuple[int, ...]
    out: int
    weight: int | None = None
    bias: int | None = None

    @property
    def reads(self) -> tuple[int, ...]:
        """Sources, then constants."""
        constants = (self.weight, self.bias)
        return (*self.sources, *(number for number in constants if number is not None))

    @property
    def writes(self) -> tuple[int, ...]:
        """The one result."""
        return (self.out,)

    def with_reads(self, same: Mapping[int, int]) -> "NativeOp":
        """Return this op reading other values."""
        return replace(
            self,
            sources=tuple(same.get(number, number) for number in self.sources),
            weight=None if self.weight is None else same.get(self.weight, self.weight),
            bias=None if self.bias is None else same.get(self.bias, self.bias),
        )


class RecurrentCell(enum.Enum):
    """The cell of a recurrent layer."""

    LSTM = enum.auto()
    GRU = enum.auto()


@dataclass(frozen=True)
class RecurrentLayer:
    """Weights of a recurrent layer, by number.

    Args:
        inward: [gates · hidden, inputs].
        across: [gates · hidden, hidden].
        inward_bias: [gates · hidden], or None.
        across_bias: [gates · hidden], or None.
        bias: for an LSTM, the sum of both biases, or None.
    """

    weight_ih: int
    weight_hh: int
    bias_ih: int | None
    bias_hh: int | None
    bias: int | None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of all weights that the layer has."""
        found = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, self.bias)
        return tuple(number for number in found if number is not None)


@dataclass(frozen=True)
class Recurrent:
    """A stack of recurrent layers, as ``torch.lstm`` and ``torch.gru``.

    Args:
        cell: which.
        sources: the sequence, then the first state: h, and c for an LSTM.
        layers: from the input side; with two directions, each layer with the time is followed by
            its fellow against it.
        batch_first: whether the sequence is [batch, time, features], else [time, batch, features].
        writes: the output sequence, then the last state.
        directions: 1 or 2.
    """

    cell: RecurrentCell
    sources: tuple[int, ...]
    layers: tuple[RecurrentLayer, ...]
    batch_first: bool
    writes: tuple[int, ...]
    directions: int = 1

    @property
    def reads(self) -> tuple[int, ...]:
        """Sources, then weights."""
        return (*self.sources, *(number for layer in self.layers for number in layer.numbers))

    def with_reads(self, same: Mapping[int, int]) -> "Recurrent":
        """Return this op reading other sources."""
        return replace(self, sources=tuple(same.get(number, number) for number in self.sources))
