"""Criteria from the weights alone, and random scores as a control."""

import torch
from torch import Tensor

from boxwood._internal.core.seeds import generator_for
from boxwood._internal.core.shards import is_distributed, local, positions, total_of, wrapped

_CHUNK = 1 << 20


def magnitude(weight: Tensor, *, p: int = 1) -> Tensor:
    """Score by size: ``|w|^p``.

    All p rank the weights of one tensor in the same order; p matters only if scores are pooled over
    groups.

    Args:
        weight: any shape.
        p: the power, 1 or 2.

    Returns:
        Scores of the shape of ``weight``, never negative.

    Example:
        >>> import torch
        >>> magnitude(torch.tensor([-3.0, 2.0]))
        tensor([3., 2.])

    Source: Han, Pool, Tran and Dally (2015), section 3.
    """
    size = weight.detach().abs()
    return size if p == 1 else size**p


def random(weight: Tensor, name: str, *, seed: int = 0, draw: int = 0) -> Tensor:
    """Score at random, uniform in [0, 1): the control that every criterion must beat.

    Args:
        weight: any shape; only its shape counts.
        name: the tensor's name; each tensor has its own numbers.
        seed: random seed; phases of recipes pass that of the run.
        draw: which of the draws of a seed; use several, because one draw says little.

    Example:
        >>> import torch
        >>> w = torch.zeros(3)
        >>> torch.equal(random(w, "fc1"), random(w, "fc1"))
        True

    Source: Blalock et al. (2020), section 6: a baseline under the same budget.
    """
    generator = generator_for(seed, f"random criterion/{name}", draw)
    if is_distributed(weight):
        return _drawn_for(weight, generator)
    return torch.rand(weight.shape, generator=generator).to(weight.device)


def _drawn_for(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the numbers of a whole tensor piece by piece, and keep those of the part held here."""
    places = positions(weight).cpu()
    found = torch.empty(len(places))
    for begin in range(0, weight.numel(), _CHUNK):
        end = min(begin + _CHUNK, weight.numel())
        drawn = torch.rand(end - begin, generator=generator)
        first, last = torch.searchsorted(places, torch.tensor([begin, end])).tolist()
        found[first:last] = drawn[places[first:last] - begin]
    part = local(weight)
    return wrapped(found.view(part.shape).to(part.device), weight, weight.shape)


def magnitude_over_std(weight: Tensor) -> Tensor:
    """Score by size in units of the tensor's own spread: ``|w| / std(w)``.

    The standard deviation is the population's, over all weights including pruned ones. With the
    allocation `AtLeast`, this gives the threshold "quality × std"; with `global_` it finds the one
    quality that gives a sparsity.

    Example:
        >>> import torch
        >>> magnitude_over_std(torch.tensor([-2.0, 2.0, 4.0, -4.0]))
        tensor([0.6325, 0.6325, 1.2649, 1.2649])

    Source: Han, Pool, Tran and Dally (2015), section 4.
    Differs from the paper: it does not say over which weights the standard deviation is taken;
    `magnitude_over_survivor_std` is the other reading.
    """
    return weight.detach().abs().div(_spread(weight.detach()))


def magnitude_over_survivor_std(weight: Tensor, mask: Tensor) -> Tensor:
    """Score by size in units of the spread of the remaining weights: ``|w| / std(w[mask])``.

    Example:
        >>> import torch
        >>> w, m = torch.tensor([0.0, 0.0, -2.0, 2.0]), torch.tensor([False, False, True, True])
        >>> magnitude_over_survivor_std(w, m)
        tensor([0., 0., 1., 1.])

    Source: Han, Pool, Tran and Dally (2015), section 4, the reading in which every round computes
    the standard deviation again.
    """
    return weight.detach().abs().div(_spread(weight.detach(), mask))


def _spread(weight: Tensor, mask: Tensor | None = None) -> Tensor | float:
    """Standard deviation, or 1 for a constant tensor, which no threshold can divide."""
    values = local(weight) if mask is None else local(weight)[local(mask)]
    if is_distributed(weight):
        wide = values.double()
        count = total_of(torch.tensor(float(values.numel())), weight)
        mean = total_of(wide.sum(), weight) / count
        square = total_of((wide - mean).square().sum(), weight) / count
        return (float(square.sqrt().to(weight.dtype)) if count else 0.0) or 1.0
    spread = values.std(correction=0) if values.numel() else torch.zeros(())
    return torch.where(spread > 0, spread, torch.ones_like(spread))
