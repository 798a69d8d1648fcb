"""Layers that run sparse kernels in place of dense products: torch's own, with another class.

Only the class of a module changes, so that its parameters, hooks, names and place in the network
stay what they were, and changing it back leaves no trace.
"""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from boxwood._internal.engine import layer_ops
from boxwood._internal.engine.layer_plans import LinearPlan


class AcceleratedLayer(nn.Module):
    """A layer with a plan, which is not saved with it, and goes along when it is copied."""

    plan: Any = None
    plan_number = 0
    """Of no plan: the layer is dense, as after it was loaded from a file."""

    def take_(self, plan: Any) -> None:
        """Run by a plan from now on."""
        self.plan, self.plan_number = plan, plan.number

    def _plan_for(self, twin: "AcceleratedLayer") -> Any:
        """Return this layer's plan for a copy of it."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("plan", "plan_number")}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        if self.plan is not None:
            twin.take_(self._plan_for(twin))
        return twin


class AcceleratedLinear(AcceleratedLayer, nn.Linear):
    """A linear layer whose product is as its plan says."""

    plan: LinearPlan | None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the product."""
        arguments = (input, self.weight, self.bias, self.plan_number)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return layer_ops.linear(*arguments)  # type: ignore[no-any-return]
        # Without gradients, the operator's own step for them takes as long as all the others.
        with torch._C._AutoDispatchBelowAutograd():
            return layer_ops.linear(*arguments)  # type: ignore[no-any-return]

    def _plan_for(self, twin: AcceleratedLayer) -> Any:
        if self.plan is None or not isinstance(twin, AcceleratedLinear):
            return None
        return self.plan.for_copy(twin.weight, twin.bias)
