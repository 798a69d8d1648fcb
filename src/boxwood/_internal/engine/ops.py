"""The operations that the engine has kernels for.

Unlike a kernel's problem, an operation knows no memory layout and no batch: one operation becomes
one problem for each plan.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.elementwise import Operation
from boxwood._internal.engine.kernels.quads import Quantisation

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolve:
    """``activation(weight ∗ x + bias + residual)`` over images [batch, channels, height, width].

    Args:
        stride: steps between outputs, down and right.
        padding: zeros before the first row and column, and after the last.
        dilation: steps between the taps of a filter.
        groups: groups of channels that do not mix.
        activation: applied last.
        after: zeros after the last row and column, where they are more or fewer.
    """

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    activation: Activation = Activation.NONE
    after: Pair | None = None

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Zeros on the left, on the right, above and below."""
        after = self.padding if self.after is None else self.after
        return (self.padding[1], after[1], self.padding[0], after[0])


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
    """Normalisation over the last axis: weight and bias are its scale and shift.

    Args:
        epsilon: added to the variance.
        centred: whether the mean is subtracted; if not, the variance is the mean of squares.
    """

    epsilon: float
    centred: bool = True


@dataclass(frozen=True)
class NormaliseHeads:
    """``x / √(mean of squares + ε) · scale`` of each of the first heads; the rest is copied.

    Its weight holds the scales, [heads, features of a head].

    Args:
        heads: heads that are normalised.
        epsilon: added to the mean of squares.
    """

    heads: int
    epsilon: float


@dataclass(frozen=True)
class Rotate:
    """Rotary positions of the first heads: ``x · near + x[partner] · far``; the rest is copied.

    Its weight holds near and far, [2, tokens, features of a head], of as many tokens or more.

    Args:
        heads: heads that are rotated.
        partners: for each feature of a head, the number of the other one in it.
    """

    heads: int
    partners: tuple[int, ...]


@dataclass(frozen=True)
class Attend:
    """``softmax(scale · q kᵀ + mask) v`` of each head, over tokens of queries, keys and values.

    The source's features are queries, keys, values, each head after head; so are the result's.
    The mask, if there is one, is the second source: [..., queries, keys], or one row for all
    queries, for all heads or for each.

    Args:
        heads: heads of queries.
        size: features of a head.
        scale: factor of the scores; 1/√size when 0.
        batch_first: whether tokens are [batch, tokens], else [tokens, batch].
        key_heads: heads of keys and values, which divide those of queries; as many when 0.
        causal: whether a query sees itself and earlier tokens only.
    """

    heads: int
    size: int
    scale: float
    batch_first: bool
    key_heads: int = 0
    causal: bool = False

    @property
    def parts(self) -> tuple[int, int, int]:
        """Heads of queries, keys and values."""
        shared = self.key_heads or self.heads
        return self.heads, shared, shared


@dataclass(frozen=True)
class OnBytes:
    """An operation on bytes, see `Quantisation`; its result is bytes, or float32 for other readers.

    A weight is int8; its bias is [2, out]: what one unit of an output's sum is worth, and what is
    added to it.

    Args:
        kind: the operation.
        x: what the source's bytes represent.
        out: what the result's bytes represent; None for float32.
        residual: what a residual's bytes represent; it is float32 where the result is.
    """

    kind: Convolve | Project | PoolWindows
    x: Quantisation
    out: Quantisation | None = None
    residual: Quantisation | None = None


@dataclass(frozen=True)
class Quantise:
    """Float32 into bytes.

    Args:
        to: what they represent.
        tokens: features last, else images.
    """

    to: Quantisation
    tokens: bool


@dataclass(frozen=True)
class Dequantise:
    """Bytes into float32.

    Args:
        of: what they represent.
        tokens: features last, else images.
    """

    of: Quantisation
    tokens: bool


OpKind = (
    OnBytes
    | Quantise
    | Dequantise
    | Convolve
    | Project
    | PoolWindows
    | Average
    | Pointwise
    | Concatenate
    | Flatten
    | Normalise
    | NormaliseHeads
    | Rotate
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
        x: what bytes of the input represent; None for float32. Weights are then int8, both biases
            [2, gates · hidden] as in `OnBytes`, an LSTM's two in the first, and there is no sum.
        h: what bytes of the state represent.
    """

    weight_ih: int
    weight_hh: int
    bias_ih: int | None
    bias_hh: int | None
    bias: int | None
    x: Quantisation | None = None
    h: Quantisation | None = None

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


def is_int8(op: object) -> bool:
    """Say whether an operation has weights of bytes, or works on bytes."""
    if isinstance(op, Recurrent):
        return op.layers[0].x is not None
    return isinstance(op, NativeOp) and isinstance(op.kind, OnBytes)
