"""One distribution from a generalist and specialists, for every image at once.

Shape suffixes: N images, C classes, M specialists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood.errors import InvalidInput

_ITERATIONS = 10_000


@dataclass(frozen=True, eq=False)
class SpecialistPrediction:
    """One specialist's probabilities for some images.

    Args:
        classes: S, the classes that it knows, in order.
        probabilities: [N, |S| + 1], the last for all other classes together; or [N, C] of one
            that knows all classes.
        consulted: bool [N], the images for which its probabilities count; None for all.
    """

    classes: tuple[int, ...]
    probabilities: Tensor
    consulted: Tensor | None = None


def consensus(
    generalist: Tensor, predictions: Sequence[SpecialistPrediction], *, tolerance: float = 1e-6
) -> Tensor:
    """Find q that minimises ``KL(p_g, q) + Σ_m KL(p_m, q_m)`` for every image.

    q_m holds q of the classes that specialist m knows, and the sum of q over all others. The
    sum is convex in q, so the minimum is the only one. Up to a constant it is minus the
    log-likelihood of observations some of which are known only up to a set of classes, and each
    step ``q ← q · g / (1 + M)`` with ``g = Σ p / q`` (over the sets where q enters in sums) is a
    step of expectation-maximisation: it never increases the sum and needs no rate. By convexity
    ``max g - (1 + M)`` bounds what is left to gain, so the tolerance is certain.

    Args:
        generalist: p_g, [N, C], above 0.
        predictions: of the specialists.
        tolerance: largest distance of the sum from its minimum, in nats.

    Returns:
        q, float64 [N, C]. Without specialists it is p_g; where all members know all classes it
        is their arithmetic mean.

    Raises:
        InvalidInput: shapes do not fit, or the tolerance is not reached.

    Example:
        >>> p = torch.tensor([[0.5, 0.3, 0.2]])
        >>> says = SpecialistPrediction((0, 1), torch.tensor([[0.1, 0.8, 0.1]]))
        >>> consensus(p, [says]).round(decimals=3)
        tensor([[0.3000, 0.5500, 0.1500]], dtype=torch.float64)

    Source: Hinton, Vinyals and Dean (2015), section 5.4, equation 5.
    Differs from the paper: it runs gradient descent over logits.
    """
    if not tolerance > 0:
        raise InvalidInput(f"Expected a tolerance above 0 nats, got {tolerance}; try 1e-6.")
    known, dustbins, outside = _sums(generalist.double(), predictions)
    members = known.sum(1) + dustbins.sum(1)
    q = known / known.sum(1, keepdim=True)
    found = q.clone()
    left = torch.arange(len(q))
    for _ in range(_ITERATIONS):
        # Of all mass in the dustbins, each class outside gets its share by q.
        sums = q @ outside.T
        ratio = torch.where(dustbins > 0, dustbins / sums, 0.0)
        g = known / q + ratio @ outside
        # A class of no probability stays without: its share of every sum is 0.
        g = torch.where(q > 0, g, 0.0)
        gap = g.amax(1) - members
        found[left] = q
        going = gap > tolerance
        if not going.any():
            return found
        left, known, dustbins = left[going], known[going], dustbins[going]
        q, members = (q * g)[going], members[going]
        q = q / q.sum(1, keepdim=True)
    raise InvalidInput(
        f"Expected the minimum within {tolerance:g} nats after {_ITERATIONS} steps, got "
        f"{float(gap.max()):.2g} for {len(left)} images; allow a larger tolerance."
    )


def divergence(
    generalist: Tensor, predictions: Sequence[SpecialistPrediction], q: Tensor
) -> Tensor:
    """Compute ``KL(p_g, q) + Σ_m KL(p_m, q_m)`` for every image: what `consensus` minimises.

    Args:
        generalist: p_g, [N, C].
        predictions: of the specialists.
        q: [N, C].

    Returns:
        float64 [N], in nats.

    Example:
        >>> p = torch.tensor([[0.5, 0.5]])
        >>> divergence(p, [], torch.tensor([[0.25, 0.75]]))
        tensor([0.1438], dtype=torch.float64)
    """
    q = q.double()
    total = _kl(generalist.double(), q)
    for prediction in predictions:
        inside = q[:, list(prediction.classes)]
        parts = inside
        if prediction.probabilities.shape[1] > len(prediction.classes):
            parts = torch.cat([inside, _rest(q, prediction.classes).sum(1, keepdim=True)], 1)
        each = _kl(prediction.probabilities.double(), parts)
        total = total + (each if prediction.consulted is None else each * prediction.consulted)
    return total


def relevant_specialists(
    generalist: Tensor, groups: Sequence[Sequence[int]], *, top: int = 1
) -> Tensor:
    """Find the specialists of each image: those that know one of its likely classes.

    Args:
        generalist: logits or probabilities, [N, C].
        groups: classes of each of M specialists.
        top: the number of most likely classes that count, in [1, C].

    Returns:
        bool [N, M].

    Example:
        >>> relevant_specialists(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), [(0,), (0, 1)])
        tensor([[False,  True],
                [ True,  True]])

    Source: Hinton, Vinyals and Dean (2015), section 5.4, step 1; it takes top = 1.
    """
    likely = generalist.topk(top, dim=1).indices
    member = torch.zeros(len(groups), generalist.shape[1], dtype=torch.bool)
    for row, classes in zip(member, groups, strict=True):
        row[list(classes)] = True
    return member.to(likely.device).T[likely].any(1)


def _sums(
    generalist: Tensor, predictions: Sequence[SpecialistPrediction]
) -> tuple[Tensor, Tensor, Tensor]:
    """Probability that is known by class [N, C], that of dustbins [N, M], classes outside [M, C]."""
    known, classes = generalist.clone(), generalist.shape[1]
    dustbins = known.new_zeros(len(known), len(predictions))
    outside = known.new_ones(len(predictions), classes)
    for number, prediction in enumerate(predictions):
        own, said = list(prediction.classes), prediction.probabilities.double()
        if said.shape[0] != len(known) or said.shape[1] - len(own) != (len(own) < classes):
            raise InvalidInput(
                f"Expected probabilities of {len(known)} images and {len(own)} classes with a "
                f"dustbin, got {tuple(said.shape)} from specialist {number}; give it one more "
                f"column than classes, unless it knows all {classes}."
            )
        if prediction.consulted is not None:
            said = said * prediction.consulted[:, None]
        known[:, own] += said[:, : len(own)]
        outside[number, own] = 0
        if said.shape[1] > len(own):
            dustbins[:, number] = said[:, -1]
    return known, dustbins, outside


def _rest(q: Tensor, classes: tuple[int, ...]) -> Tensor:
    return q[:, [index for index in range(q.shape[1]) if index not in classes]]


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(1)
