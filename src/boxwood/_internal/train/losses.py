"""Losses, and the penalties and limits that keep weights small."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from boxwood.errors import InvalidInput

Loss = Callable[[Tensor, Any], Tensor]
"""Outputs of the network, and targets (labels, or a teacher's targets), to a scalar."""


def cross_entropy(
    logits: Tensor, targets: Tensor, *, temperature: float = 1.0, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy of class labels, ``-Σ_k q_k log softmax(z/T)_k``, in nats.

    Of K classes, ``q_k = (1 - ε) · [k = y] + ε / K``, which without smoothing is one at the label y
    and zero elsewhere. Settings go into a training as ``loss=Call.of(cross_entropy,
    label_smoothing=0.1)``; its losses, also those on validation examples, are then the smoothed ones.

    Args:
        logits: [batch, classes] or [batch, classes, ...].
        targets: int64 [batch] or [batch, ...].
        temperature: T > 0, which divides the logits.
        label_smoothing: ε in [0, 1), the part of the target that all classes share.

    Raises:
        InvalidInput: ``label_smoothing`` is out of range.

    Example:
        >>> cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.6931)
        >>> sure = torch.tensor([[9.0, 0.0]])
        >>> cross_entropy(sure, torch.tensor([0]), label_smoothing=0.1)
        tensor(0.4501)

    Source of label smoothing: Szegedy et al., "Rethinking the Inception architecture for computer
    vision", 2016, section 7.
    """
    if not 0 <= label_smoothing < 1:
        raise InvalidInput(
            f"Expected label_smoothing in [0, 1), got {label_smoothing}; try 0.1, or leave it out."
        )
    scaled = logits if temperature == 1 else logits / temperature
    if scaled.dim() > 2 and scaled.stride(1) == 1 and targets.dim() == scaled.dim() - 1:
        # Classes side by side in memory, as a language model's are: as rows they take a third of
        # the time, because torch would copy them to put the classes in the second place.
        scaled, targets = scaled.movedim(1, -1).flatten(0, -2), targets.flatten()
    return functional.cross_entropy(scaled, targets, label_smoothing=label_smoothing)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over the examples of ``Σ_k (x_k - d_k)²``, with d one at the class and zero elsewhere.

    Args:
        outputs: x, [batch, classes].
        targets: int64 [batch].

    Example:
        >>> squared_error(torch.tensor([[0.0, 0.5]]), torch.tensor([1]))
        tensor(0.2500)

    Source: LeCun, Denker and Solla (1990), section 2.
    """
    wanted = functional.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
    return (outputs - wanted).square().sum(1).mean()


@torch.no_grad()
def add_l1_gradient_(parameters: Sequence[nn.Parameter], strength: float) -> None:
    """Add the gradient of ``strength · Σ|w|``, that is ``strength · sign(w)``; nothing at zero.

    Added to the gradients rather than to the loss: one pass instead of a graph per parameter.

    Args:
        parameters: those that have a gradient are penalised, in place.
        strength: λ at least 0, in units of the loss per unit of weight; 0 does nothing.

    Example:
        >>> w = nn.Parameter(torch.tensor([2.0, -2.0, 0.0])); w.grad = torch.zeros(3)
        >>> add_l1_gradient_([w], 0.5)
        >>> w.grad
        tensor([ 0.5000, -0.5000,  0.0000])
    """
    if not strength:
        return
    live: list[Tensor] = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in live if p.grad is not None]
    torch._foreach_add_(gradients, torch._foreach_sign(live), alpha=strength)


@torch.no_grad()
def limit_norms_(weights: Sequence[nn.Parameter], limit: float) -> None:
    """Scale the weights that enter a unit down to a Euclidean norm of at most ``limit``.

    Args:
        weights: [units, ...]; zeros stay zeros.
        limit: largest norm of one unit's weights, above 0.

    Example:
        >>> w = nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        >>> limit_norms_([w], 1.0)
        >>> w.detach()
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])

    Source: Hinton et al., arXiv:1207.0580, 2012, the constraint used with dropout.
    """
    for weight in weights:
        norms = weight.flatten(1).norm(dim=1)
        # A quotient of equals may miss 1 by a rounding, and units within the limit stay as they are.
        scale = torch.where(norms > limit, limit / norms, torch.ones_like(norms))
        weight.mul_(scale.reshape(-1, *[1] * (weight.dim() - 1)))
