"""Operators of accelerated layers: torch's own functions, with the number of a plan as a hint.

An operator computes what its dense function computes from the same tensors, whatever plan its
number names; a plan that is gone, or was made for other weights, only makes it slower.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from boxwood._internal.engine.layer_plans import plans

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

linear = torch.ops.boxwood.linear.default
"""``F.linear(x, weight, bias)``, by the plan of a number if it is of these weights."""
