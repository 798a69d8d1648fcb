"""What a policy stores for each weight from step to step, and how pruned weights continue to learn."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core.policies import Policy
from boxwood._internal.core.straight_through import Moment, StraightThrough
from boxwood._internal.model.held_weights import HeldWeight
from boxwood._internal.model.rounds import overflow

Remember = Callable[[Moment], Tensor]


class PolicyMemory:
    """The tensors that a policy keeps from step to step, one for each weight.

    Args:
        policy: any; one without a method ``remember`` keeps nothing.
        tensors: what it remembers already, by the names of the weights.

    Example:
        >>> from boxwood.policies import Static
        >>> PolicyMemory(Static(0.5), {}).used
        False
    """

    def __init__(self, policy: Policy, tensors: Mapping[str, Tensor]) -> None:
        self._remember: Remember | None = getattr(policy, "remember", None)
        self.tensors = dict(tensors)

    @property
    def used(self) -> bool:
        """Whether the policy remembers anything."""
        return self._remember is not None

    def seen(self, name: str, moment: Moment, skipped: Tensor | None = None) -> Moment:
        """Let the policy remember a weight at a step; return the moment with what it remembers.

        Args:
            name: of the weight.
            moment: without memory.
            skipped: not zero where the optimizer is about to skip the step; nothing changes then.
        """
        before = self.tensors.get(name)
        moment = replace(moment, memory=before)
        if self._remember is None:
            return moment
        after = self._remember(moment)
        taken = torch.isfinite(moment.gradient).all()
        if skipped is not None:
            taken = taken & (skipped.to(taken.device) == 0)
        if before is not None:
            after = torch.where(taken, after, before)
        if before is not None or bool(taken):  # waits for the device at the first step alone
            self.tensors[name] = after
        return replace(moment, memory=after)


class Hiding:
    """Lets pruned weights learn: whole weights for a step of the optimizer, hidden parts in between.

    Args:
        policy: says what the forward pass reads, and what gradient the optimizer gets.
        memory: what the policy remembers.
        step: returns the steps taken.
        hidden: parts of the weights to begin with, by name; none where the weights are whole.
    """

    def __init__(
        self,
        policy: StraightThrough,
        memory: PolicyMemory,
        step: Callable[[], int],
        hidden: Mapping[str, Tensor],
    ) -> None:
        self._policy, self._memory, self._step = policy, memory, step
        self.hidden = hidden

    def reveal(self, weights: Iterable[HeldWeight], optimizer: Any) -> None:
        """Put whole weights and their gradients in place, for an optimizer that is about to step."""
        groups = getattr(optimizer, "param_groups", ())
        rates = {id(p): group.get("lr", 0.0) for group in groups for p in group["params"]}
        scale, skipped = getattr(optimizer, "grad_scale", None), overflow(optimizer)
        for held in weights:
            parameter = held.parameter
            if held.whole:  # an optimizer around this one has done it
                continue
            held.reveal()
            if parameter.grad is None:
                continue
            gradient = parameter.grad.detach()
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
            if scale is not None:  # a fused optimizer takes it out again
                gradient = gradient / scale.to(gradient.device)
            moment = Moment(
                self._step(), parameter.detach(), gradient, held.mask, None, float(rates[id(parameter)])
            )  # fmt: skip
            wanted = self._policy.backward(self._memory.seen(held.name, moment, skipped))
            if scale is not None:
                wanted = wanted * scale.to(wanted.device)
            parameter.grad = wanted.to(parameter.grad.dtype)

    def hide(self, held: HeldWeight) -> None:
        """Leave what the forward pass reads of a whole weight, and keep the rest aside."""
        weight, memory = held.parameter.detach(), self._memory.tensors.get(held.name)
        held.hide(self._policy.shown(weight, held.mask, memory))
