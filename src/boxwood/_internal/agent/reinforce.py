"""REINFORCE over tries: draw actions, whiten their rewards, follow the gradient."""

import torch
from torch import Tensor
from torch.nn import functional


def draw(keeping: Tensor, tries: int, generator: torch.Generator) -> Tensor:
    """Draw actions, one Bernoulli number for each filter: bool [tries, N], True keeps.

    An action that would keep nothing keeps the filter with the highest probability.

    Args:
        keeping: q, the probability of keeping each filter, [N].
        tries: M.
        generator: random numbers.

    Example:
        >>> draw(torch.tensor([0.0, 1.0, 0.0]), 2, torch.Generator().manual_seed(0))
        tensor([[False,  True, False],
                [False,  True, False]])
        >>> draw(torch.tensor([0.0, 0.0]), 1, torch.Generator().manual_seed(0))
        tensor([[ True, False]])
    """
    drawn = torch.rand(tries, len(keeping), generator=generator) < keeping
    return at_least_one(drawn, keeping)


def at_least_one(actions: Tensor, keeping: Tensor) -> Tensor:
    """Keep the most probable filter where an action keeps none.

    Args:
        actions: bool [..., N].
        keeping: probabilities, or anything that grows with them, [N].

    Example:
        >>> at_least_one(torch.tensor([False, False]), torch.tensor([0.1, 0.3]))
        tensor([False,  True])
    """
    best = functional.one_hot(keeping.argmax(), len(keeping)).bool()
    return torch.where(actions.any(-1, keepdim=True), actions, best)


def whitened(rewards: Tensor) -> Tensor:
    """Give rewards mean 0 and standard deviation 1: ``(R_i - mean R) / std R``; zeros if all agree.

    Args:
        rewards: [M].

    Example:
        >>> whitened(torch.tensor([1.0, 3.0])), whitened(torch.tensor([2.0, 2.0]))
        (tensor([-1.,  1.]), tensor([0., 0.]))

    The standard deviation is that of the M tries themselves, with M in the denominator.
    """
    spread = rewards.std(correction=0)
    return (rewards - rewards.mean()) / torch.where(spread > 0, spread, 1.0)


def surrogate(logits: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """Make the scalar whose gradient is minus the estimate of the gradient of the expected reward.

    ``-(1/M) Σ_i R_i Σ_j [a_ij log q_j + (1 - a_ij) log(1 - q_j)]`` with ``q = sigmoid(logits)``.

    Args:
        logits: [N], with a gradient.
        actions: bool [M, N], drawn from q.
        rewards: R [M], whitened or not.

    Example:
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> actions = torch.tensor([[True, False]])
        >>> surrogate(logits, actions, torch.tensor([2.0])).backward()
        >>> logits.grad
        tensor([-1.,  1.])

    Source: Williams (1992); Huang, Zhou, You and Neumann (2018).
    """
    unlikely = functional.binary_cross_entropy_with_logits(
        logits.expand(actions.shape), actions.to(logits), reduction="none"
    ).sum(1)
    return (rewards.to(logits) * unlikely).mean()
