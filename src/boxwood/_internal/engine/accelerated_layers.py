"""Layers that run sparse kernels in place of dense products: torch's own, with another class.

Only the class of a module changes, so that its parameters, hooks, names and place in the network
stay what they were, and changing it back leaves no trace.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from boxwood._internal.engine import layer_ops
from boxwood._internal.engine.layer_plans import LinearPlan
from boxwood._internal.engine.sparse_convolutions import ConvolutionPlan


class AcceleratedLayer(nn.Module):
    """A layer with a plan, which is not saved with it, and goes along when it is copied."""

    plan: Any = None
    plan_number = 0
    """Of no plan: the layer is dense, as after it was loaded from a file."""

    def take_(self, plan: Any) -> None:
        """Run by a plan from now on."""
        self.plan, self.plan_number = plan, plan.number

    def parameters_of_plan(self) -> tuple[Tensor | None, ...]:
        """Return the parameters that a plan is made of."""
        return self.weight, self.bias  # type: ignore[return-value]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("plan", "plan_number")}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        if self.plan is not None:
            twin.take_(self.plan.for_copy(*twin.parameters_of_plan()))
        return twin


class AcceleratedLinear(AcceleratedLayer, nn.Linear):
    """A linear layer whose product is as its plan says."""

    plan: LinearPlan | None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the product."""
        return _run(layer_ops.linear, input, self.weight, self.bias, self.plan_number)


class AcceleratedConv1d(AcceleratedLayer, nn.Conv1d):
    """A convolution of sequences that is as its plan says."""

    plan: ConvolutionPlan | None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the convolution."""
        if input.ndim != 3 or not input.is_contiguous():
            return super().forward(input)
        return _run(
            layer_ops.convolution, input, self.weight, self.bias, self.stride, self.padding,
            self.dilation, self.groups, self.plan_number,
        )  # fmt: skip


class AcceleratedConv2d(AcceleratedLayer, nn.Conv2d):
    """A convolution of images that is as its plan says; of channels-last ones, torch's."""

    plan: ConvolutionPlan | None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the convolution."""
        if input.ndim != 4 or not input.is_contiguous():
            return super().forward(input)
        return _run(
            layer_ops.convolution, input, self.weight, self.bias, self.stride, self.padding,
            self.dilation, self.groups, self.plan_number,
        )  # fmt: skip


CLASSES: Mapping[type[nn.Module], type[AcceleratedLayer]] = {
    nn.Linear: AcceleratedLinear,
    nn.Conv1d: AcceleratedConv1d,
    nn.Conv2d: AcceleratedConv2d,
}
"""What a layer of a class becomes."""


def _run(operator: Callable[..., Tensor], *args: Any) -> Tensor:
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return operator(*args)
    # Without gradients, the operator's own step for them takes as long as all the others.
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*args)
