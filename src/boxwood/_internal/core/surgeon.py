"""Optimal Brain Surgeon: delete weights and adjust the others to compensate.

For a quadratic ``L(w) - L(w*) = ½ (w - w*)ᵀ H (w - w*)``. All functions are pure; rows of a weight
matrix share one Hessian, as the rows of a linear layer do under squared error of its outputs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import Elements, Granularity, NofM
from boxwood._internal.core.selection import select
from boxwood.errors import InvalidInput

_TOGETHER = 1 << 22  # numbers in the systems that are solved at once: 16 MB


class Surgery(NamedTuple):
    """The remaining weights, and the rise of the loss.

    Args:
        weight: adjusted weights, zero where the mask is False.
        mask: bool, True keeps.
        rise: predicted rise of the loss by each deletion, in their order.
    """

    weight: Tensor
    mask: Tensor
    rise: Tensor


def inverse_by_recursion(gradients: Tensor, *, alpha: float = 1e-4) -> Tensor:
    """Invert ``H = 1/P Σ_n X_n X_nᵀ + α I``, one example at a time, without ever making H.

    ``H⁻¹ ← H⁻¹ - H⁻¹ X Xᵀ H⁻¹ / (P + Xᵀ H⁻¹ X)``, from ``H⁻¹ = I/α``.

    Args:
        gradients: X, [P, weights]: derivatives of an output, or of the loss, by the weights.
        alpha: α > 0; small against the eigenvalues that matter.

    Returns:
        [weights, weights].

    Example:
        >>> inverse_by_recursion(torch.tensor([[2.0], [0.0]]), alpha=2.0)
        tensor([[0.2500]])

    Source: Hassibi and Stork (1993), equation 12.
    """
    if not alpha > 0:
        raise InvalidInput(f"Expected alpha > 0, got {alpha}; try 1e-4.")
    count, size = gradients.shape
    inverse = torch.eye(size, dtype=gradients.dtype, device=gradients.device) / alpha
    for example in gradients:
        product = inverse @ example
        inverse = inverse - torch.outer(product, product) / (count + example @ product)
    return inverse


def remove_weights(weight: Tensor, inverse: Tensor, keep: int) -> Surgery:
    """Repeatedly delete the weight with the least ``w_q² / (2 [H⁻¹]_qq)`` and adjust the rest.

    ``δw = -w_q / [H⁻¹]_qq · H⁻¹ e_q``; then q is removed from the inverse. Each step is optimal,
    but the final set need not be the best of all sets.

    Args:
        weight: [n], at a minimum.
        inverse: H⁻¹, [n, n], symmetric and positive definite.
        keep: how many stay, in [0, n].

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> done = remove_weights(torch.tensor([0.5, 3.0]), torch.linalg.inv(h), 1)
        >>> done.weight, done.mask, done.rise
        (tensor([0.0000, 3.2500]), tensor([False,  True]), tensor([0.1875]))

    Source: Hassibi and Stork (1993), equation 5; the elimination as Frantar and Alistarh (2022).
    """
    if not 0 <= keep <= weight.numel():
        raise InvalidInput(
            f"Expected to keep between 0 and {weight.numel()} weights, got {keep}; give a count in that "
            f"range."
        )
    left, inverse = weight.clone(), inverse.clone()
    mask = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    rise = []
    for _ in range(weight.numel() - keep):
        diagonal = inverse.diagonal().clone()
        saliency = torch.where(mask, left.square() / (2 * diagonal), torch.inf)
        q = int(saliency.argmin())
        rise.append(saliency[q])
        left -= left[q] / diagonal[q] * inverse[:, q]
        mask[q] = False
        left[~mask] = 0
        inverse -= torch.outer(inverse[:, q], inverse[q]) / diagonal[q]
        # What is gone must not come back by rounding.
        inverse[q], inverse[:, q], inverse[q, q] = 0, 0, 1
    return Surgery(left, mask, torch.stack(rise) if rise else left.new_zeros(0))


def adjust(weight: Tensor, hessian: Tensor, mask: Tensor) -> Tensor:
    """Move the kept weights of each row to where the loss is least, given what is deleted.

    ``H_KK w'_K = (H w)_K`` for the kept set K of a row. It is what Optimal Brain Surgeon arrives at
    when it deletes the same set, in any order. Rows that keep the same number are solved together.

    Args:
        weight: [rows, n].
        hessian: H, [n, n], symmetric and positive definite.
        mask: bool [rows, n], True keeps.

    Returns:
        [rows, n], zero where the mask is False.

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> adjust(torch.tensor([[0.5, 3.0]]), h, torch.tensor([[False, True]]))
        tensor([[0.0000, 3.2500]])

    Source: Hassibi and Stork (1993), equations 2 to 5, for a set; Kwon et al. (2022), section 3.3.
    """
    wanted = weight @ hessian
    found = torch.zeros_like(weight)
    counts = mask.sum(1)
    for count in counts.unique().tolist():
        if not count:
            continue
        alike = (counts == count).nonzero().flatten()
        for part in alike.split(max(_TOGETHER // count**2, 1)):
            kept = mask[part].nonzero()[:, 1].view(len(part), count)
            squares = hessian[kept[:, :, None], kept[:, None, :]]
            targets = wanted[part].gather(1, kept)[..., None]
            found[part[:, None], kept] = torch.linalg.solve(squares, targets)[..., 0]
    return found


def sparse_gpt(
    weight: Tensor,
    hessian: Tensor,
    keep: int,
    *,
    grouped: NofM | Blocks | None = None,
    inputs: int | None = None,
    block: int = 128,
) -> tuple[Tensor, Tensor]:
    """Prune a matrix column by column, passing each error on to the columns not yet visited.

    Within a block of columns the lowest ``w² / [H⁻¹]_jj`` go, with H that of the columns from j
    on; or, with ``grouped``, all but n of every m columns, or the groups of the lowest mean. The
    error of column j is made up for by later columns alone, so one Cholesky factor serves all
    rows, and the result is not as good as `adjust`, but far cheaper.

    Args:
        weight: [rows, n].
        hessian: H, [n, n], symmetric and positive definite (`damped` makes it so).
        keep: weights, or `Blocks`, that stay in all; blocks of columns share them in proportion to
            how many they hold.
        grouped: n of m; then keep must be n/m of all; or what is kept or pruned together.
        inputs: columns after which groups begin again, as at each position of a kernel; n if None.
        block: columns for which one mask is chosen at once.

    Returns:
        Weights [rows, n] and mask bool [rows, n], True keeps; weights are zero where it is False.

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> sparse_gpt(torch.tensor([[0.5, 3.0]]), h, 1)
        (tensor([[0.0000, 3.2500]]), tensor([[False,  True]]))

    Source: Frantar and Alistarh (2023), algorithm 1.
    """
    rows, columns = weight.shape
    inputs = columns if inputs is None else inputs
    granularity: Granularity = grouped or Elements()
    wide = 1
    if isinstance(grouped, NofM):
        check_n_of_m(grouped, weight, keep, inputs)
        wide = grouped.m
    elif isinstance(grouped, Blocks):
        wide = grouped.columns
    step = max(block - block % wide, wide)
    parts = [
        (start, min(start + step, first + inputs))
        for first in range(0, columns, inputs)
        for start in range(first, first + inputs, step)
    ]
    held = [count_groups(granularity, (rows, end - start)) for start, end in parts]
    if not 0 <= keep <= sum(held) or block < 1:
        raise InvalidInput(
            f"Expected keep in [0, {sum(held)}] and block >= 1, got keep={keep}, "
            f"block={block}; correct them."
        )
    lower = torch.linalg.cholesky(hessian)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    left = weight.clone()
    mask = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    seen = kept = 0
    for (start, end), groups in zip(parts, held, strict=True):
        part, inner = left[:, start:end].clone(), factor[start:end, start:end]
        scales, inside = inner.diagonal().square(), mask[:, start:end]
        if not isinstance(grouped, NofM):
            seen += groups
            wanted = round(keep * seen / sum(held)) - kept
            kept += wanted
            inside[:] = select({"": part.square() / scales}, {"": wanted}, granularity)[""]
        errors = torch.empty_like(part)
        for j in range(end - start):
            if isinstance(grouped, NofM) and j % grouped.m == 0:
                group = slice(j, j + grouped.m)
                scores = part[:, group].square() / scales[group]
                inside[:, group] = select({"": scores}, {"": rows * grouped.n}, grouped)[""]
            gone = part[:, j].masked_fill(inside[:, j], 0)
            errors[:, j] = gone / inner[j, j]
            part[:, j:] -= torch.outer(errors[:, j], inner[j, j:])
        left[:, start:end] = part.masked_fill(~inside, 0)
        left[:, end:] -= errors @ factor[start:end, end:]
    return left, mask


def count_groups(granularity: Granularity, shape: tuple[int, ...]) -> int:
    """Count the groups of a tensor of a shape.

    Example:
        >>> count_groups(Blocks(1, 4), (3, 6))
        6
    """
    return granularity.pool(torch.empty(shape, device="meta")).numel()


def check_n_of_m(grouped: NofM, weight: Tensor, keep: int, inputs: int) -> None:
    """Refuse a matrix that has no n of every m columns, and another count than that.

    Example:
        >>> check_n_of_m(NofM(2, 4), torch.ones(3, 8), 12, 8)
    """
    if inputs % grouped.m or keep * grouped.m != weight.numel() * grouped.n:
        raise InvalidInput(
            f"Expected columns in multiples of {grouped.m} and {grouped.n}/{grouped.m} of them "
            f"kept, got shape {tuple(weight.shape)} and keep={keep}; ask for a sparsity of "
            f"{1 - grouped.n / grouped.m:g}, and leave other layers out with layers=."
        )
