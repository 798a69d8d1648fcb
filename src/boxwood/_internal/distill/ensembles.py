"""Networks as forward functions, and the mean of several.

Shape suffixes: M members, N examples, C classes.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from boxwood._internal.model.evaluation import evaluating
from boxwood.errors import InvalidInput

Forward = Callable[[Tensor], Tensor]
"""Inputs [N, ...] to logits [N, C]: a network in evaluation mode, or any other function."""

EnsembleMean = Callable[[Tensor], Tensor]
"""Logits of the members [M, N, C] to those of the ensemble [N, C]."""


def forward_of(model: nn.Module) -> Forward:
    """Return a network's forward function: in evaluation mode, without gradients, on its own device.

    Args:
        model: outputs [N, C]; its training mode is restored after every call.

    Returns:
        Inputs on any device to logits on the CPU.

    Example:
        >>> forward_of(nn.Dropout())(torch.ones(1, 2))
        tensor([[1., 1.]])
    """

    @torch.no_grad()
    def forward(inputs: Tensor) -> Tensor:
        first = next(model.parameters(), None)
        with evaluating(model):
            logits: Tensor = model(inputs if first is None else inputs.to(first.device))
        return logits.cpu()

    return forward


def arithmetic_mean(logits: Tensor) -> Tensor:
    """Log of the mean of the members' probabilities, ``log(1/M Σ_m softmax(z_m))``.

    It minimises ``Σ_m KL(p_m, q)`` over q.

    Args:
        logits: [M, N, C].

    Returns:
        Log-probabilities [N, C], which serve as logits.

    Example:
        >>> members = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
        >>> arithmetic_mean(members).exp()
        tensor([[0.7000, 0.3000]])

    Source: Hinton, Vinyals and Dean (2015), sections 2 and 5.4.
    """
    return torch.logsumexp(logits.log_softmax(2), 0) - math.log(len(logits))


def geometric_mean(logits: Tensor) -> Tensor:
    """Mean of the members' logits: the normalised geometric mean of their probabilities.

    It minimises ``Σ_m KL(q, p_m)`` over q, and it is the mean at every temperature.

    Args:
        logits: [M, N, C].

    Returns:
        Logits [N, C].

    Example:
        >>> members = torch.tensor([[[0.8, 0.2]], [[0.2, 0.8]]]).log()
        >>> geometric_mean(members).softmax(1)
        tensor([[0.5000, 0.5000]])

    Source: Hinton, Vinyals and Dean (2015), sections 2 and 5.4.
    """
    return logits.mean(0)


def ensemble(members: Sequence[Forward], mean: EnsembleMean = geometric_mean) -> Forward:
    """Return the forward function of several networks: the mean of their logits.

    Args:
        members: one or more; the ensemble of a single one is that one.
        mean: `arithmetic_mean` or `geometric_mean`.

    Raises:
        InvalidInput: there are no members; or, when called, their logits differ in shape.

    Example:
        >>> both = ensemble([lambda x: x, lambda x: 3 * x])
        >>> both(torch.ones(1, 2))
        tensor([[2., 2.]])
    """
    if not members:
        raise InvalidInput("Expected at least one member of an ensemble, got none; give networks.")
    if len(members) == 1:
        return members[0]

    def forward(inputs: Tensor) -> Tensor:
        logits = [member(inputs) for member in members]
        shapes = sorted({tuple(each.shape) for each in logits})
        if len(shapes) > 1:
            raise InvalidInput(
                f"Expected members with logits of the same classes, got logits of shapes "
                f"{shapes}; leave out those that differ."
            )
        return mean(torch.stack(logits))

    return forward
