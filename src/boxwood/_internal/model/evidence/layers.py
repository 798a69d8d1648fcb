"""Linear and convolution layers as functions that are linear in their input and in their weight.

Sums over everything that a weight meets are derivatives of these functions: differentiating
``Σ h · f(x, w)`` by w gives ``Σ h x`` over all examples and positions at which w is used, whatever
the stride, padding, dilation and groups.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from boxwood._internal.model.layer_kinds import TRANSPOSED_CONVOLUTIONS, layouts_of, linear_kinds
from boxwood.errors import InvalidInput

_Layer = Any  # one of `layer_kinds`; torch types the attributes of modules as tensors or modules

_TRANSPOSED: Mapping[type[nn.Module], Callable[..., Tensor]] = {
    nn.ConvTranspose1d: functional.conv_transpose1d,
    nn.ConvTranspose2d: functional.conv_transpose2d,
    nn.ConvTranspose3d: functional.conv_transpose3d,
}


def filtered_kinds() -> tuple[type[nn.Module], ...]:
    """List the layers whose outputs are scored one by one: linear ones and convolutions.

    Example:
        >>> nn.Conv2d in filtered_kinds(), nn.ConvTranspose2d in filtered_kinds()
        (True, False)
    """
    return (*linear_kinds(), nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layer_kinds() -> tuple[type[nn.Module], ...]:
    """List the layers that `linear_map` knows.

    Example:
        >>> nn.ConvTranspose2d in layer_kinds(), nn.LSTM in layer_kinds()
        (True, False)
    """
    return (*filtered_kinds(), *TRANSPOSED_CONVOLUTIONS)


def linear_map(layer: _Layer) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the layer as a function of input and weight, without its bias.

    Args:
        layer: a linear, convolution or transposed-convolution layer, or a subclass of one.

    Example:
        >>> double = linear_map(nn.Linear(1, 1))
        >>> double(torch.tensor([[3.0]]), torch.tensor([[2.0]]))
        tensor([[6.]])
    """
    if isinstance(layer, linear_kinds()):
        turn = _turn(layer)
        return lambda inputs, weight: functional.linear(inputs, turn(weight))
    for kind, transposed in _TRANSPOSED.items():
        if isinstance(layer, kind):
            extra: Any = layer.output_padding
            if any(extra):
                raise InvalidInput(
                    f"Expected transposed convolutions without output padding, got {layer}; leave "
                    f"its weight out with layers=."
                )
            settings = (None, layer.stride, layer.padding, 0, layer.groups, layer.dilation)
            return partial(_transposed, transposed, settings)
    forward: Callable[..., Tensor] = layer._conv_forward
    return lambda inputs, weight: forward(inputs, weight, None)


def weight_sums(layer: _Layer, inputs: Tensor, cotangent: Tensor | None = None) -> Tensor:
    """Sum ``h · x`` over the examples and positions at which each weight is used.

    Args:
        layer: as for `linear_map`.
        inputs: x, what the layer reads, or a function of it.
        cotangent: h, of the shape of the layer's outputs; ones by default.

    Returns:
        Sums of the weight's shape; for a linear layer and h of ones [1, in], which is every row, or
        [in, 1] where the weight lies that way.

    Example:
        >>> weight_sums(nn.Conv1d(1, 1, 2), torch.tensor([[[1.0, 2.0, 3.0]]]))
        tensor([[[3., 5.]]])
    """
    if isinstance(layer, linear_kinds()) and cotangent is None:
        return _turn(layer)(inputs.flatten(0, -2).sum(0, keepdim=True))
    with torch.enable_grad():
        weight = layer.weight.detach().to(inputs.dtype).requires_grad_()
        outputs = linear_map(layer)(inputs, weight)
    cotangent = torch.ones_like(outputs) if cotangent is None else cotangent
    (sums,) = torch.autograd.grad(outputs, [weight], cotangent)
    return sums


def input_sums(layer: _Layer, weight: Tensor, inputs: Tensor, cotangent: Tensor) -> Tensor:
    """Sum ``h · w`` over the outputs that each input feeds.

    Args:
        layer: as for `linear_map`.
        weight: w, the layer's or a function of it.
        inputs: only their shape counts.
        cotangent: h, of the shape of the layer's outputs.

    Example:
        >>> ones = torch.ones(1, 1, 2)
        >>> input_sums(nn.Conv1d(1, 1, 2), ones, torch.zeros(1, 1, 3), torch.tensor([[[1.0, 5.0]]]))
        tensor([[[1., 6., 5.]]])
    """
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        outputs = linear_map(layer)(leaf, weight.detach())
    return torch.autograd.grad(outputs, leaf, cotangent)[0]


def _turn(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Turn a matrix from the way in which a linear layer stores it, or into that."""
    layout = layouts_of(layer, {"": layer.weight}).get("")  # type: ignore[dict-item]
    return layout.outputs_first if layout is not None else lambda matrix: matrix


def _transposed(
    function: Callable[..., Tensor], settings: tuple[Any, ...], inputs: Tensor, weight: Tensor
) -> Tensor:
    return function(inputs, weight, *settings)
