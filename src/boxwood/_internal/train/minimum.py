"""Train to a minimum: all examples at once, until the gradient is small."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.masks import Masks
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.train.losses import Loss
from boxwood._internal.train.metrics import device_of
from boxwood.errors import InvalidInput, TrainingDiverged

# torch's L-BFGS learns nothing from steps whose curvature y·s is below 1e-10, which near a minimum is
# every step. A larger objective has the same minimum, and a power of two changes no digit of it.
_SCALE = 2.0**24


@dataclass(frozen=True)
class Minimum:
    """The end of a minimisation.

    Args:
        loss: mean over all examples, with the penalty.
        gradient: Euclidean norm of its gradient, over parameters that are not masked.
        iterations: iterations of L-BFGS.
    """

    loss: float
    gradient: float
    iterations: int


def minimise_(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    *,
    masks: Masks | None = None,
    decay: float = 0.0,
    gradient: float = 1e-3,
    iterations: int = 2000,
) -> Minimum:
    """Take a network to a minimum of the mean loss, by L-BFGS, in evaluation mode.

    Minimises ``E + decay · Σ w²``. Without decay a network that can fit all its examples has its
    minimum at infinity, and the minimisation ends at ``iterations``.

    Args:
        model: trained in place; parameters outside ``masks`` stay zero.
        batches: (inputs, targets), read again for every evaluation.
        loss: outputs and targets to the mean over a batch.
        masks: bool tensors by parameter name; True keeps.
        decay: strength of the penalty on all parameters, at least 0, in units of the loss per unit
            of weight squared.
        gradient: stop when the gradient's norm is at most this; below about 1e-4 the network and
            its inputs must be float64: ``.double()`` and `InFloat64`.
        iterations: stop after this number of iterations in any case; rounded up to hundreds.

    Raises:
        InvalidInput: there are no batches.
        TrainingDiverged: the loss is no longer finite.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> batches = [(torch.ones(1, 1), torch.ones(1, 1))]
        >>> minimum = minimise_(net, batches, lambda x, d: (x - d).square().mean())
        >>> round(net.weight.item(), 3), minimum.loss < 1e-6
        (1.0, True)

    Source: Liu and Nocedal (1989), "On the limited memory BFGS method for large scale
    optimization".
    """
    was = model.training
    parameters = [p for p in model.parameters() if p.requires_grad]
    chunk = min(100, iterations)
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=chunk, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=0, tolerance_change=0,
    )  # fmt: skip
    held = MaskBinding(model, optimizer, masks) if masks else None

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = _backward(model, batches, loss, decay)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(_SCALE)
        return value * _SCALE

    try:
        model.eval()
        done = 0
        while True:
            value, norm = float(closure()) / _SCALE, _norm(parameters) / _SCALE
            if not value < float("inf"):
                raise TrainingDiverged(
                    f"Expected a finite loss, got {value}; start from another network."
                )
            if norm <= gradient or done >= iterations:
                return Minimum(value, norm, done)
            optimizer.step(closure)
            done += chunk
    finally:
        optimizer.zero_grad()
        model.train(was)
        if held is not None:
            held.detach()


def _backward(model: nn.Module, batches: Iterable[Any], loss: Loss, decay: float) -> Tensor:
    """Leave the mean gradient in the parameters, one batch at a time."""
    device = device_of(model)
    total, examples = torch.zeros((), dtype=torch.float64, device=device), 0
    for inputs, targets in batches:
        part = loss(model(inputs.to(device)), targets.to(device)) * len(inputs)
        part.backward()
        total += part.detach()
        examples += len(inputs)
    if not examples:
        raise InvalidInput("Expected batches to train on, got none; give at least one.")
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(examples).add_(parameter.detach(), alpha=2 * decay)
    penalty = sum(p.detach().double().square().sum() for p in model.parameters() if p.requires_grad)
    return total / examples + decay * penalty


def _norm(parameters: list[nn.Parameter]) -> float:
    return float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
