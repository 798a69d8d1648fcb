"""The engine's operations in torch: the reference for kernels, and what runs if no kernel is faster.

Weights are packed once for oneDNN where torch offers it, which is worth up to a factor of two over
a call that packs them every time, and images keep their channels last from one convolution to the
next. oneDNN's own ReLU loses NaN, so clipping activations are applied by torch, in place.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.elementwise import Operation
from boxwood._internal.engine.ops import (
    Attend,
    Average,
    Concatenate,
    Convolve,
    Dequantise,
    Flatten,
    Normalise,
    NormaliseHeads,
    OnBytes,
    OpKind,
    Pointwise,
    PoolWindows,
    Project,
    Quantise,
    Recurrent,
    RecurrentCell,
    RecurrentLayer,
    Rotate,
)
from boxwood._internal.engine.placement import Shape
from boxwood.errors import InvalidInput

Unary = Callable[[Tensor], Tensor]

_WHOLE: Mapping[Activation, Unary] = {
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

_IN_PLACE: Mapping[Activation, Unary] = {
    **_WHOLE,
    Activation.RELU: torch.relu_,
    Activation.RELU6: lambda x: F.relu6(x, inplace=True),
    Activation.LEAKY_RELU: lambda x: F.leaky_relu(x, inplace=True),
    Activation.SILU: lambda x: F.silu(x, inplace=True),
    Activation.HARDSWISH: lambda x: F.hardswish(x, inplace=True),
    Activation.HARDSIGMOID: lambda x: F.hardsigmoid(x, inplace=True),
    Activation.SIGMOID: torch.sigmoid_,
    Activation.TANH: torch.tanh_,
}

# What oneDNN applies itself and carries NaN through: its name, settings and algorithm.
_FUSED: Mapping[Activation, tuple[str, list[float], str]] = {
    Activation.LEAKY_RELU: ("leaky_relu", [0.01], ""),
    Activation.SILU: ("swish", [], ""),
    Activation.GELU: ("gelu", [], "none"),
    Activation.GELU_TANH: ("gelu", [], "tanh"),
    Activation.HARDSWISH: ("hardswish", [], ""),
    Activation.SIGMOID: ("sigmoid", [], ""),
    Activation.TANH: ("tanh", [], ""),
}
_PLAIN: tuple[str, list[float], str] = ("none", [], "")


def torch_function(
    kind: OpKind, weight: Tensor | None, bias: Tensor | None, source: Shape, out: Shape
) -> Callable[..., Tensor]:
    """Return an operation as a function of its sources that calls torch.

    Args:
        kind: the operation, with its settings.
        weight: its constant weight, if it has one.
        bias: its constant bias, if it has one.
        source: shape of its first source; other batches work too.
        out: shape of its result.

    Example:
        >>> add = Pointwise(Operation.ADD, activation=Activation.RELU)
        >>> torch_function(add, None, None, (2,), (2,))(torch.tensor([1.0, -3.0]), torch.tensor([1.0, 1.0]))
        tensor([2., 0.])
    """
    match kind:
        case Attend():
            return _attend(kind, out)
        case Convolve():
            return _convolve(kind, _present(weight), bias, source)
        case Project():
            return _project(kind, _present(weight), bias, source)
        case PoolWindows(average=True):
            window = (kind.kernel, kind.stride, kind.padding, kind.ceil, kind.count_padding)
            return lambda x: F.avg_pool2d(x, *window)
        case PoolWindows():
            moves = (kind.kernel, kind.stride, kind.padding, kind.dilation, kind.ceil)
            return lambda x: torch.max_pool2d(x, *moves)
        case Average():
            keep = kind.keep
            return lambda x: x.mean((2, 3), keepdim=keep)
        case Pointwise():
            return _pointwise(kind)
        case Concatenate():
            return lambda *parts: torch.cat(parts, 1)
        case Flatten():
            return lambda x: x.flatten(1)
        case NormaliseHeads():
            return _normalise_heads(kind, _present(weight))
        case Rotate():
            return _rotate(kind, _present(weight))
        case Normalise(centred=False):
            scale, epsilon = _present(weight), kind.epsilon
            return lambda x: F.rms_norm(x, scale.shape, scale, epsilon)
        case Normalise():
            scale, epsilon = _present(weight), kind.epsilon
            return lambda x: F.layer_norm(x, scale.shape, scale, bias, epsilon)
        case OnBytes() | Quantise() | Dequantise():
            raise InvalidInput(
                f"Expected a kernel for {type(kind).__name__}, which this version of torch does "
                f"not have, got none; compile "
                f"the model again."
            )


def _normalise_heads(kind: NormaliseHeads, scales: Tensor) -> Callable[[Tensor], Tensor]:
    end = scales.numel()

    def run(x: Tensor) -> Tensor:
        heads = x[..., :end].unflatten(-1, scales.shape)
        y = F.rms_norm(heads, scales.shape[1:], None, kind.epsilon) * scales
        return torch.cat([y.flatten(-2), x[..., end:]], -1)

    return run


def _rotate(kind: Rotate, table: Tensor) -> Callable[[Tensor], Tensor]:
    near, far = table.unsqueeze(2)  # one for each token, the same for all heads
    size, partners = len(kind.partners), torch.tensor(kind.partners)
    rotated = kind.heads * size

    def run(x: Tensor) -> Tensor:
        heads = x[..., :rotated].unflatten(-1, (kind.heads, size))
        tokens = x.shape[1]
        y = heads * near[:tokens] + heads[..., partners] * far[:tokens]
        return torch.cat([y.flatten(-2), x[..., rotated:]], -1)

    return run


def _attend(kind: Attend, out: Shape) -> Callable[..., Tensor]:
    size, scale, rank = kind.size, kind.scale or None, len(out)
    # From [outer, inner, head, feature] to [batch, head, token, feature], and back.
    there, back = ((0, 2, 1, 3), (0, 2, 1, 3)) if kind.batch_first else ((1, 2, 0, 3), (2, 0, 1, 3))
    shared = kind.parts[0] != kind.parts[1]

    def run(x: Tensor, mask: Tensor | None = None) -> Tensor:
        heads = x.unflatten(-1, (sum(kind.parts), size))
        if heads.ndim == 3:
            raise TypeError("attention needs tokens and batch as axes of their own")
        q, k, v = (part.permute(*there) for part in heads.split(kind.parts, 2))
        y = F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=kind.causal, scale=scale, enable_gqa=shared
        )
        y = y.permute(*back).flatten(2)
        return y if rank == 3 else y.flatten(0, 1)

    return run


def torch_stack(op: Recurrent, constants: Mapping[int, Tensor]) -> Callable[..., Any]:
    """Return a stack of recurrent layers as a function of its sources that calls torch."""
    biased = op.layers[0].bias_ih is not None
    weights = [each for layer in op.layers for each in _torch_weights(layer, constants)]
    depth, both = len(op.layers) // op.directions, op.directions == 2
    settings = (biased, depth, 0.0, False, both, op.batch_first)
    if op.cell is RecurrentCell.LSTM:
        return lambda x, h, c: torch.lstm(x, (h, c), weights, *settings)
    return lambda x, h: torch.gru(x, h, weights, *settings)


def _torch_weights(layer: RecurrentLayer, constants: Mapping[int, Tensor]) -> list[Tensor]:
    if layer.x is None or layer.h is None:
        found = (layer.weight_ih, layer.weight_hh, layer.bias_ih, layer.bias_hh)
        return [constants[number] for number in found if number is not None]
    weights, biases = [], []
    for number, bias, of in (
        (layer.weight_ih, layer.bias_ih, layer.x), (layer.weight_hh, layer.bias_hh, layer.h),
    ):  # fmt: skip
        if bias is None:
            raise TypeError("a weight of bytes without its scales")
        whole, (unit, offset) = constants[number].float(), constants[bias]
        weights.append(whole * (unit / of.scale)[:, None])
        biases.append(offset + unit * of.zero * whole.sum(1))
    return weights + biases


def _convolve(
    kind: Convolve, weight: Tensor, bias: Tensor | None, source: Shape
) -> Callable[..., Tensor]:
    if kind.after is not None:
        sides = kind.sides
        wide = (*source[:2], source[2] + sum(sides[2:]), source[3] + sum(sides[:2]))
        inner = _convolve(replace(kind, padding=(0, 0), after=None), weight, bias, wide)
        return lambda x, *residual: inner(F.pad(x, sides), *residual)
    settings = (kind.padding, kind.stride, kind.dilation, kind.groups)
    if not _packs():
        call = (kind.stride, kind.padding, kind.dilation, kind.groups)
        return _with_epilogue(lambda x: torch.conv2d(x, weight, bias, *call), kind.activation)
    one_dnn: Any = torch.ops.mkldnn
    last = torch.channels_last
    packed = one_dnn._reorder_convolution_weight(
        weight.contiguous(memory_format=last), *settings, list(source)
    )
    fused = _FUSED.get(kind.activation, _PLAIN)
    finish = _WHOLE[Activation.NONE] if fused is not _PLAIN else _IN_PLACE[kind.activation]

    def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = x.contiguous(memory_format=last)
        if residual is None:
            return finish(one_dnn._convolution_pointwise(x, packed, bias, *settings, *fused))
        other = residual.contiguous(memory_format=last)
        y = one_dnn._convolution_pointwise.binary(
            x, other, packed, bias, *settings, "add", 1.0, None, [], None
        )
        return _IN_PLACE[kind.activation](y)

    return run


def _project(
    kind: Project, weight: Tensor, bias: Tensor | None, source: Shape
) -> Callable[..., Tensor]:
    if not _packs():
        return _with_epilogue(lambda x: F.linear(x, weight, bias), kind.activation)
    one_dnn: Any = torch.ops.mkldnn
    packed = one_dnn._reorder_linear_weight(weight.contiguous(), _product(source[:-1]))
    fused = _FUSED.get(kind.activation, _PLAIN)
    finish = _WHOLE[Activation.NONE] if fused is not _PLAIN else _IN_PLACE[kind.activation]

    def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = x.contiguous()
        if residual is None:
            return finish(one_dnn._linear_pointwise(x, packed, bias, *fused))
        y = one_dnn._linear_pointwise(x, packed, bias, *_PLAIN)
        y += residual
        return _IN_PLACE[kind.activation](y)

    return run


def _packs() -> bool:
    available = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _with_epilogue(product: Unary, activation: Activation) -> Callable[..., Tensor]:
    finish = _IN_PLACE[activation]

    def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = product(x)
        if residual is not None:
            y += residual
        return finish(y)

    return run


def _pointwise(kind: Pointwise) -> Callable[..., Tensor]:
    if kind.operation is Operation.COPY:
        return _WHOLE[kind.activation]
    combine: Callable[[Tensor, Tensor], Tensor] = (
        torch.add if kind.operation is Operation.ADD else torch.mul
    )
    finish = _IN_PLACE[kind.activation]
    return lambda x, second: finish(combine(x, second))


def _present(weight: Tensor | None) -> Tensor:
    if weight is None:
        raise TypeError("this operation has a weight")
    return weight


def _product(sizes: Shape) -> int:
    return torch.Size(sizes).numel()
