"""Layers that run sparse kernels instead of dense products: torch's own layers, with another class.

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
from boxwood._internal.engine.sparse_recurrence import RecurrentPlan


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

    @classmethod
    def dense_class(cls) -> type[nn.Module]:
        """Return the class that the layer had."""
        return next(dense for dense, each in CLASSES.items() if each is cls)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # type: ignore[no-untyped-call]
        return {name: each for name, each in state.items() if name not in ("plan", "plan_number")}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))  # type: ignore[no-untyped-call]
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


class _AcceleratedRecurrence(AcceleratedLayer):
    """What an LSTM and a GRU share."""

    plan: RecurrentPlan | None
    gates = 0

    def parameters_of_plan(self) -> tuple[Tensor | None, ...]:
        """Return the weights and biases in torch's order."""
        return tuple(self._flat_weights)  # type: ignore[arg-type]

    def _is_plain(self, input: Any, state: tuple[Any, ...]) -> bool:  # noqa: A002
        """Say whether a call is one of three axes, without gradients and dropout."""
        tensors = (input, *state)
        if not all(isinstance(each, Tensor) and each.ndim == 3 for each in tensors):
            return False
        learns = (*tensors, *self.parameters_of_plan())
        if torch.is_grad_enabled() and any(each.requires_grad for each in learns):
            return False
        return not (self.training and self.dropout)

    def _zeros(self, input: Tensor) -> Tensor:  # noqa: A002
        lead = self.num_layers * (2 if self.bidirectional else 1)  # type: ignore[operator]
        sequences = input.shape[0 if self.batch_first else 1]
        return input.new_zeros((lead, sequences, self.hidden_size))  # type: ignore[arg-type]

    def _stack(self, input: Tensor, state: tuple[Tensor, ...]) -> list[Tensor]:  # noqa: A002
        hidden = state if self.gates == 4 else state[0]
        self.check_forward_args(input, hidden, None)  # type: ignore[operator]
        return layer_ops.recurrence(  # type: ignore[no-any-return]
            input, list(state), list(self.parameters_of_plan()), self.gates, self.bias,
            self.num_layers, self.bidirectional, self.batch_first, self.plan_number,
        )  # fmt: skip


class AcceleratedLSTM(_AcceleratedRecurrence, nn.LSTM):
    """An LSTM whose products are as its plan says; with gradients or packed sequences, torch's."""

    gates = 4

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 - torch's name
        """Return the outputs and the last state."""
        if not self._is_plain(input, hx or ()):
            return super().forward(input, hx)
        y, h, c = self._stack(input, hx or (self._zeros(input), self._zeros(input)))
        return y, (h, c)


class AcceleratedGRU(_AcceleratedRecurrence, nn.GRU):
    """A GRU whose products are as its plan says; with gradients or packed sequences, torch's."""

    gates = 3

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 - torch's name
        """Return the outputs and the last state."""
        if not self._is_plain(input, () if hx is None else (hx,)):
            return super().forward(input, hx)
        y, h = self._stack(input, (self._zeros(input) if hx is None else hx,))
        return y, h


CLASSES: Mapping[type[nn.Module], type[AcceleratedLayer]] = {
    nn.Linear: AcceleratedLinear,
    nn.Conv1d: AcceleratedConv1d,
    nn.Conv2d: AcceleratedConv2d,
    nn.LSTM: AcceleratedLSTM,
    nn.GRU: AcceleratedGRU,
}
"""What a layer of a class becomes."""


def _run(operator: Callable[..., Tensor], *args: Any) -> Tensor:
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return operator(*args)
    # Without gradients, the operator's own step for them takes as long as all the others.
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*args)
