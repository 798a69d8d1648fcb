"""Evidence from a training: in which direction each weight moves."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from boxwood._internal.model.evidence.calibration import Calibration, accumulator
from boxwood._internal.model.rounds import overflow
from boxwood.errors import InvalidInput


class TrackMovement:
    """Sum ``-∂E/∂w · w`` over the steps of an optimizer, taken before each step.

    The sum is positive if training pushes a weight away from zero. It uses a hook on the optimizer,
    so accumulated and clipped gradients count once, as the step uses them. Gradients that a
    ``GradScaler`` has scaled are unscaled, and a step that it skips does not count. With a
    `MaskBinding`, set its ``mask_gradients=False``; otherwise pruned weights never move and never
    return.

    Args:
        optimizer: the optimizer of the training.
        weights: parameters by dotted name, such as ``linear_and_conv(model)``.

    Example:
        >>> from boxwood.criteria import movement
        >>> from boxwood import find_masks
        >>> net = nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 1.0]]))
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> track = TrackMovement(sgd, {"weight": net.weight})
        >>> for _ in range(3):
        ...     sgd.zero_grad()
        ...     net(torch.tensor([[1.0, -1.0]])).sum().backward()
        ...     sgd.step()
        >>> track.evidence()
        {'weight_movement': {'weight': tensor([[-2.7000,  3.3000]])}}
        >>> find_masks(net, 0.5, criterion=movement, evidence=track.evidence())
        {'weight': tensor([[False,  True]])}
        >>> track.detach()

    Source: Sanh, Wolf and Rush (2020), equation 5, with its learning rate left out.
    Differs from the paper: there the scores are parameters with an optimizer of their own, and the
    gradient is that of the masked network while all weights keep moving.
    """

    def __init__(self, optimizer: Optimizer, weights: Mapping[str, nn.Parameter]) -> None:
        self._weights = dict(weights)
        self._sums = {name: accumulator(weight) for name, weight in weights.items()}
        self._hook = optimizer.register_step_pre_hook(self._before_step)

    def evidence(self) -> dict[str, dict[str, Tensor]]:
        """Return what was summed so far, in the form that `boxwood.find_masks` takes."""
        return {"weight_movement": {name: value.clone() for name, value in self._sums.items()}}

    def detach(self) -> None:
        """Stop summing."""
        self._hook.remove()

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        # Fused optimizers unscale and skip inside their kernels, and learn what to do from attributes.
        scale, skipped = getattr(optimizer, "grad_scale", None), overflow(optimizer)
        with torch.no_grad():
            for name, weight in self._weights.items():
                if weight.grad is not None:
                    moved = weight.grad * weight
                    if scale is not None:
                        moved = moved / scale.to(weight.device)
                    if skipped is not None:
                        moved = moved.masked_fill(skipped.to(weight.device) != 0, 0)
                    self._sums[name] -= moved


def weight_movement(seen: Calibration) -> dict[str, Tensor]:
    """Refuse: movement is what a training leaves, and cannot be gathered afterwards.

    Raises:
        InvalidInput: always.

    Example:
        >>> weight_movement(Calibration(nn.Linear(1, 1), {}))
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected evidence=TrackMovement(...).evidence() for the evidence 'weight_movement' of 0 tensors, got none; attach TrackMovement to the optimizer before training.
    """
    raise InvalidInput(
        f"Expected evidence=TrackMovement(...).evidence() for the evidence 'weight_movement' of "
        f"{len(seen.weights)} tensors, got none; attach TrackMovement to the optimizer before "
        f"training."
    )
