"""Optimal Brain Surgeon in blocks of a few dozen weights, all blocks at once.

For ``L(w + δ) - L(w) = ½ δᵀ F δ`` with F block-diagonal: weights [blocks, n], F [blocks, n, n],
symmetric and positive definite.
"""

import torch
from torch import Tensor


def inverse_diagonals(fisher: Tensor) -> Tensor:
    """Return the diagonal of the inverse of each block, [blocks, n].

    Example:
        >>> inverse_diagonals(torch.tensor([[[2.0, 0.0], [0.0, 4.0]]]))
        tensor([[0.5000, 0.2500]])
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(fisher))
    return inverse.diagonal(dim1=1, dim2=2)


def rises(weight: Tensor, fisher: Tensor, mask: Tensor) -> Tensor:
    """Delete weight after weight of each block, the cheapest first, and return what each costs.

    ``w_q² / (2 [F⁻¹]_qq)`` with the others moved to make up for it before the next one is chosen.
    A weight costs at least what the ones before it did, so that the cheapest of several blocks
    together are the first ones of each.

    Args:
        weight: [blocks, n].
        fisher: F.
        mask: what is there, bool [blocks, n]; the rest costs nothing.

    Returns:
        Costs [blocks, n], never negative.

    Example:
        >>> h = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])
        >>> rises(torch.tensor([[0.5, 3.0]]), h, torch.tensor([[True, True]]))  # 3.25 when it goes
        tensor([[ 0.1875, 10.5625]])

    Source: Kuznedelev et al. (2022), algorithm 1.
    """
    left, there = weight.masked_fill(~mask, 0), mask.clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_among(fisher, mask)))
    found, last = torch.zeros_like(weight), weight.new_zeros(len(weight))
    blocks = torch.arange(len(weight), device=weight.device)
    for _ in range(weight.shape[1]):
        diagonal = inverse.diagonal(dim1=1, dim2=2)
        cost = torch.where(there, left.square() / (2 * diagonal), torch.inf)
        least, q = cost.min(1)
        some = least.isfinite()
        last = torch.where(some, torch.maximum(last, least), last)
        found[blocks, q] = torch.where(some, last, found[blocks, q])
        column, pivot = inverse[blocks, :, q], inverse[blocks, q, q]
        factor = torch.where(some, 1 / pivot, 0)
        left = left - (left[blocks, q] * factor).unsqueeze(1) * column
        inverse = inverse - factor.view(-1, 1, 1) * column.unsqueeze(2) * column.unsqueeze(1)
        there[blocks, q] &= ~some
        # What is gone must not come back by rounding.
        inverse = _among(inverse, there | ~mask)
        left = left.masked_fill(~there, 0)
    return found


def adjusted(weight: Tensor, fisher: Tensor, mask: Tensor) -> Tensor:
    """Move the kept weights of each block to where the loss is least, given what is deleted.

    ``F_KK δ_K = F_KP w_P`` for kept K and deleted P: what Optimal Brain Surgeon arrives at when it
    deletes the same weights in any order.

    Args:
        weight: [blocks, n].
        fisher: F.
        mask: bool [blocks, n], True keeps.

    Returns:
        [blocks, n], zero where the mask is False.

    Example:
        >>> h = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])
        >>> adjusted(torch.tensor([[0.5, 3.0]]), h, torch.tensor([[False, True]]))
        tensor([[0.0000, 3.2500]])

    Source: Kurtic et al. (2022), equation 5, for all weights of a block together.
    """
    gone = weight.masked_fill(mask, 0)
    wanted = (fisher @ gone.unsqueeze(2)).masked_fill(~mask.unsqueeze(2), 0)
    moved: Tensor = torch.linalg.solve(_among(fisher, mask), wanted).squeeze(2)
    return (weight + moved).masked_fill(~mask, 0)


def _among(matrix: Tensor, mask: Tensor) -> Tensor:
    """Leave the rows and columns of some weights, and those of the identity elsewhere."""
    inside = mask.unsqueeze(1) & mask.unsqueeze(2)
    return matrix.masked_fill(~inside, 0) + torch.diag_embed((~mask).to(matrix.dtype))
