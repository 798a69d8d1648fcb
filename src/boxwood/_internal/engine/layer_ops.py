"""Operators of accelerated layers: torch's own functions, with the number of a plan as a hint.

An operator computes what its dense function computes from the same tensors, whatever plan its
number names; a plan that is gone, or was made for other weights, only makes it slower.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from boxwood._internal.engine.layer_plans import plans
from boxwood._internal.engine.sparse_convolutions import ConvolutionSettings
from boxwood._internal.engine.sparse_recurrence import RecurrentSettings

_library = torch.library.Library("boxwood", "DEF")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias, int plan) -> Tensor")


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, plan: int) -> Tensor:
    found = plans.get(plan)
    return F.linear(x, weight, bias) if found is None else found(x, weight, bias)


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None, _: int) -> Tensor:
    return F.linear(x, weight, bias)


def _shape(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _save(ctx: Any, inputs: tuple[Any, ...], **_: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    rows = grad.reshape(-1, grad.shape[-1])
    needs = ctx.needs_input_grad
    return (
        grad @ weight if needs[0] else None,
        rows.T @ x.reshape(-1, x.shape[-1]) if needs[1] else None,
        rows.sum(0) if needs[2] else None,
        None,
    )


_library.impl("linear", _linear, "CPU")
_library.impl("linear", _dense, "CompositeExplicitAutograd")  # other devices
_library.impl("linear", _dense, "AutocastCPU")  # where torch says in which type
torch.library.register_fake("boxwood::linear", _shape, lib=_library)
torch.library.register_autograd("boxwood::linear", _gradients, setup_context=_save, lib=_library)

_library.define(
    "convolution(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
    "int[] dilation, int groups, int plan) -> Tensor"
)

_Moves = Sequence[int]


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Moves, padding: _Moves,
    dilation: _Moves, groups: int, plan: int,
) -> Tensor:  # fmt: skip
    settings = ConvolutionSettings(tuple(stride), tuple(padding), tuple(dilation), groups)
    found = plans.get(plan)
    if found is None:
        return settings.dense(x, weight, bias)
    return found(x, weight, bias, settings)  # type: ignore[no-any-return]


def _dense_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Moves, padding: _Moves,
    dilation: _Moves, groups: int, _: int,
) -> Tensor:  # fmt: skip
    settings = ConvolutionSettings(tuple(stride), tuple(padding), tuple(dilation), groups)
    return settings.dense(x, weight, bias)


def _save_convolution(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, *ctx.moves, ctx.groups, _ = inputs
    ctx.sizes = None if bias is None else list(bias.shape)
    ctx.save_for_backward(x, weight)
    del output


def _convolution_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, ctx.sizes, *ctx.moves, False, [0] * len(ctx.moves[0]), ctx.groups,
        list(ctx.needs_input_grad[:3]),
    )  # fmt: skip
    return (*found, None, None, None, None, None)


_library.impl("convolution", _convolution, "CPU")
_library.impl("convolution", _dense_convolution, "CompositeExplicitAutograd")
_library.impl("convolution", _dense_convolution, "AutocastCPU")
torch.library.register_fake("boxwood::convolution", _dense_convolution, lib=_library)
torch.library.register_autograd(
    "boxwood::convolution", _convolution_gradients, setup_context=_save_convolution, lib=_library
)

_library.define(
    "recurrence(Tensor x, Tensor[] state, Tensor[] weights, int gates, bool biased, int layers, "
    "bool both, bool batch_first, int plan) -> Tensor[]"
)

_Tensors = Sequence[Tensor]


def _recurrence(x: Tensor, state: _Tensors, weights: _Tensors, *settings: Any) -> list[Tensor]:
    *how, plan = settings
    found = plans.get(plan)
    if found is None:
        return RecurrentSettings(*how).dense(x, state, weights)
    return found(x, state, weights, RecurrentSettings(*how))  # type: ignore[no-any-return]


def _dense_recurrence(
    x: Tensor, state: _Tensors, weights: _Tensors, *settings: Any
) -> list[Tensor]:
    return RecurrentSettings(*settings[:-1]).dense(x, state, weights)


def _recurrence_shapes(
    x: Tensor, state: _Tensors, weights: _Tensors, *settings: Any
) -> list[Tensor]:
    del weights
    features = state[0].shape[2] * (2 if RecurrentSettings(*settings[:-1]).both else 1)
    return [x.new_empty((*x.shape[:2], features)), *(x.new_empty(each.shape) for each in state)]


_library.impl("recurrence", _recurrence, "CPU")
_library.impl("recurrence", _dense_recurrence, "CompositeExplicitAutograd")
_library.impl("recurrence", _dense_recurrence, "AutocastCPU")
torch.library.register_fake("boxwood::recurrence", _recurrence_shapes, lib=_library)

linear = torch.ops.boxwood.linear.default
"""``F.linear(x, weight, bias)``, by the plan of a number if it is of these weights."""

convolution = torch.ops.boxwood.convolution.default
"""``F.conv1d`` or ``F.conv2d`` of a batch, by the plan of a number if it is of these weights."""

recurrence = torch.ops.boxwood.recurrence.default
"""``torch.lstm`` or ``torch.gru`` without gradients, by the plan of a number likewise."""
