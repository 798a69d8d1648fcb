"""The operations that the engine has kernels for, and what each means in torch.

Unlike a kernel's problem, an operation knows no memory layout and no batch: one operation becomes
one problem for each plan.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from boxwood.engine.kernels.contract import Activation
from boxwood.engine.kernels.elementwise import Operation

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
class Join:
    """Concatenation of images over channels."""


@dataclass(frozen=True)
class Flatten:
    """Images as vectors [batch, channels · height · width]."""


@dataclass(frozen=True)
class Normalise:
    """Layer normalisation over the last axis: weight and bias are its scale and shift."""

    epsilon: float


Does = Convolve | Project | PoolWindows | Average | Pointwise | Join | Flatten | Normalise


@dataclass(frozen=True)
class Native:
    """One operation on numbered values.

    Args:
        does: which operation, with its settings.
        sources: the tensors it reads: x, then a residual or second operand.
        out: the tensor that it makes.
        weight: its constant weight, if it has one.
        bias: its constant bias, if it has one.
    """

    does: Does
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

    def with_reads(self, same: Mapping[int, int]) -> "Native":
        """Return this op reading other values."""
        return replace(
            self,
            sources=tuple(same.get(number, number) for number in self.sources),
            weight=None if self.weight is None else same.get(self.weight, self.weight),
            bias=None if self.bias is None else same.get(self.bias, self.bias),
        )


ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    Activation.NONE: lambda x: x,
    Activation.RELU: torch.relu,
    Activation.RELU6: F.relu6,
    Activation.LEAKY_RELU: F.leaky_relu,
    Activation.SILU: F.silu,
    Activation.GELU: F.gelu,
    Activation.GELU_TANH: lambda x: F.gelu(x, approximate="tanh"),
    Activation.HARDSWISH: F.hardswish,
    Activation.HARDSIGMOID: F.hardsigmoid,
    Activation.SIGMOID: torch.sigmoid,
    Activation.TANH: torch.tanh,
}

IN_PLACE: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    **ACTIVATIONS,
    Activation.RELU: torch.relu_,
    Activation.RELU6: lambda x: F.relu6(x, inplace=True),
    Activation.LEAKY_RELU: lambda x: F.leaky_relu(x, inplace=True),
    Activation.SILU: lambda x: F.silu(x, inplace=True),
    Activation.HARDSWISH: lambda x: F.hardswish(x, inplace=True),
    Activation.HARDSIGMOID: lambda x: F.hardsigmoid(x, inplace=True),
    Activation.SIGMOID: torch.sigmoid_,
    Activation.TANH: torch.tanh_,
}


def in_torch(does: Does, weight: Tensor | None, bias: Tensor | None) -> Callable[..., Tensor]:
    """Return an operation as a function of its sources that calls torch.

    Example:
        >>> in_torch(Pointwise(Operation.ADD, activation=Activation.RELU), None, None)(
        ...     torch.tensor([1.0, -3.0]), torch.tensor([1.0, 1.0])
        ... )
        tensor([2., 0.])
    """
    match does:
        case Convolve():
            assert weight is not None
            weights, call = weight, (does.stride, does.padding, does.dilation, does.groups)

            def product(x: Tensor) -> Tensor:
                return torch.conv2d(x, weights, bias, *call)

            return _with_epilogue(product, IN_PLACE[does.activation])
        case Project():
            assert weight is not None
            weights = weight
            return _with_epilogue(lambda x: F.linear(x, weights, bias), IN_PLACE[does.activation])
        case PoolWindows(average=True):
            window = (does.kernel, does.stride, does.padding, does.ceil, does.count_padding)
            return lambda x: F.avg_pool2d(x, *window)
        case PoolWindows():
            moves = (does.kernel, does.stride, does.padding, does.dilation, does.ceil)
            return lambda x: torch.max_pool2d(x, *moves)
        case Average():
            keep = does.keep
            return lambda x: x.mean((2, 3), keepdim=keep)
        case Pointwise():
            return _pointwise(does)
        case Join():
            return lambda *parts: torch.cat(parts, 1)
        case Flatten():
            return lambda x: x.flatten(1)
        case Normalise():
            assert weight is not None
            scale, shape, epsilon = weight, weight.shape, does.epsilon
            return lambda x: F.layer_norm(x, shape, scale, bias, epsilon)


def _with_epilogue(
    product: Callable[[Tensor], Tensor], activation: Callable[[Tensor], Tensor]
) -> Callable[..., Tensor]:
    def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = product(x)
        if residual is not None:
            y += residual
        return activation(y)

    return run


def _pointwise(does: Pointwise) -> Callable[..., Tensor]:
    join = {Operation.ADD: torch.add, Operation.MULTIPLY: torch.mul}
    if does.operation is Operation.COPY:
        return ACTIVATIONS[does.activation]
    combine, finish = join[does.operation], IN_PLACE[does.activation]
    return lambda x, second: finish(combine(x, second))
