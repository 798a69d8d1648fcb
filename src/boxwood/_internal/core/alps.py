"""Choose a mask and weights together, by the alternating direction method of multipliers (ADMM)."""

from collections.abc import Callable

import torch
from torch import Tensor

from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import Elements, Granularity, NofM
from boxwood._internal.core.selection import select
from boxwood._internal.core.surgeon import check_n_of_m, count_groups
from boxwood.errors import InvalidInput

Project = Callable[[Tensor], Tensor]
"""Weights [rows, n] to the mask of the nearest weights that are sparse enough."""

_EVERY = 3  # rounds between two looks at the support
_LEAST, _MOST = 1e-6, 1e6  # ρ


def alps(
    weight: Tensor,
    hessian: Tensor,
    keep: int,
    *,
    grouped: NofM | Blocks | None = None,
    inputs: int | None = None,
    rho: float = 0.1,
    rounds: int = 300,
    refinements: int = 10,
) -> tuple[Tensor, Tensor]:
    """Prune a matrix to the least ``tr((W - Ŵ) H (W - Ŵ)ᵀ)`` that alternating projections find.

    With Ŵ the dense weights and P the projection onto what is sparse enough, each round computes

        W = (Ŵ H - V + ρ D) (H + ρ I)⁻¹,   D = P(W + V/ρ),   V = V + ρ (W - D)

    on H scaled to a diagonal of ones. Every three rounds ρ grows, by 1.3, 1.2 or 1.1 as more than a
    tenth, more than 0.5 % or less of the support changed; the rounds end when nothing did. Then
    conjugate gradients on the support move W towards the minimum for it.

    Args:
        weight: Ŵ, [rows, n].
        hessian: H, [n, n], symmetric and positive definite (`damped` makes it so).
        keep: weights, or `Blocks`, that stay in all.
        grouped: n of m; then keep must be n/m of all; or what is kept or pruned together.
        inputs: columns after which groups begin again, as at each position of a kernel; n if None.
        rho: ρ of the first rounds, above 0; a fifth of it where the support does not move at first.
        rounds: the most that are made, at least 1.
        refinements: steps of conjugate gradients, at least 0.

    Returns:
        Weights [rows, n] and mask bool [rows, n], True keeps; weights are zero where it is False.

    Raises:
        InvalidInput: a setting is out of range, or the counts do not fit the groups.

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> new, mask = alps(torch.tensor([[0.5, 3.0]]), h, 1)
        >>> new.round(decimals=4), mask
        (tensor([[0.0000, 3.2500]]), tensor([[False,  True]]))

    Source: Meng, Behdin, Wang and Mazumder (2024), equations 4 and 5, and algorithms 1 and 2; the
    first rounds with a lower ρ are in the authors' code.
    Differs from the authors' code, which also ends after thirty rounds once less than 0.03 % of the
    support changes: here it is three rounds without any change, as in the paper, or ``rounds``.
    """
    rows, columns = weight.shape
    inputs = columns if inputs is None else inputs
    granularity: Granularity = grouped or Elements()
    if isinstance(grouped, NofM):
        check_n_of_m(grouped, weight, keep, inputs)
    most = count_groups(granularity, (rows, inputs, columns // inputs))
    if not 0 <= keep <= most or not rho > 0 or rounds < 1 or refinements < 0:
        raise InvalidInput(
            f"Expected keep in [0, {most}], rho > 0, rounds >= 1 and refinements >= 0, got "
            f"keep={keep}, rho={rho}, rounds={rounds}, refinements={refinements}; correct them."
        )

    def project(dense: Tensor) -> Tensor:
        # Groups run along the inputs, at each position of a kernel by itself.
        squares = dense.square().view(rows, -1, inputs).transpose(1, 2).contiguous()
        mask = select({"": squares}, {"": keep}, granularity)[""]
        return mask.transpose(1, 2).reshape(rows, columns)

    scale = hessian.diagonal().sqrt()
    scaled = hessian / torch.outer(scale, scale)
    dense = weight * scale
    left, mask = _alternate(dense, scaled, project, rho, rounds)
    new = descend(left, scaled, dense, mask, refinements)
    return new / scale, mask


def _alternate(
    dense: Tensor, hessian: Tensor, project: Project, rho: float, rounds: int
) -> tuple[Tensor, Tensor]:
    """Return weights and the mask that the rounds end with."""
    # Eigenvalues once, so that another ρ costs one product; float64 as small ones matter.
    values, vectors = torch.linalg.eigh(hessian.double())
    wanted = dense @ hessian
    first = project(dense)
    moved = False  # whether the support has moved for this ρ or one before
    left, target, dual = dense, dense.masked_fill(~first, 0), torch.zeros_like(dense)
    support = before = first
    inverse = _shifted(values, vectors, rho).to(dense.dtype)
    for turn in range(1, rounds + 1):
        left = (wanted - dual + rho * target) @ inverse
        ahead = left + dual / rho
        support = project(ahead)
        target = ahead.masked_fill(~support, 0)
        dual = dual + rho * (left - target)
        if turn % _EVERY:
            continue
        changed = int((support ^ before).count_nonzero())
        factor = _growth(changed / max(int(support.count_nonzero()), 1))
        if moved or factor > _SLOWEST:
            moved = True
            if not changed:
                break
            rho = min(rho * factor, _MOST)
        elif rho / 5 >= _LEAST:  # too stiff to move: begin again
            rho /= 5
            left, target, dual = dense, dense.masked_fill(~first, 0), torch.zeros_like(dense)
            support = first
        else:
            break
        before = support
        inverse = _shifted(values, vectors, rho).to(dense.dtype)
    return left, support


_SLOWEST = 1.1


def _growth(changed: float) -> float:
    """What ρ is multiplied by, for a share of the support that changed."""
    return 1.3 if changed > 0.1 else 1.2 if changed > 0.005 else _SLOWEST


def _shifted(values: Tensor, vectors: Tensor, rho: float) -> Tensor:
    return (vectors / (values + rho)) @ vectors.T


def descend(weight: Tensor, hessian: Tensor, dense: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Move kept weights towards the least ``(w - ŵ)ᵀ H (w - ŵ)`` of each row, by conjugate gradients.

    As many steps as a row keeps weights end at what `adjust` solves for; a few come close. All rows
    share one product with H at each step, where `adjust` factors a matrix for each.

    Args:
        weight: where to begin, [rows, n].
        hessian: H, [n, n], symmetric and positive definite; a diagonal of ones makes it fastest.
        dense: ŵ, [rows, n].
        mask: bool [rows, n], True keeps.
        steps: at least 0.

    Returns:
        [rows, n], zero where the mask is False.

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> dense, mask = torch.tensor([[0.5, 3.0]]), torch.tensor([[False, True]])
        >>> descend(dense, h, dense, mask, 1)
        tensor([[0.0000, 3.2500]])

    Source: Meng, Behdin, Wang and Mazumder (2024), algorithm 2.
    """
    found = weight.masked_fill(~mask, 0)
    residual = ((dense - found) @ hessian).masked_fill(~mask, 0)
    direction, size = residual, residual.square().sum(1, keepdim=True)
    for _ in range(steps):
        product = direction @ hessian
        curved = (direction * product).sum(1, keepdim=True)
        length = size / curved.where(curved > 0, 1)
        found = found + length * direction
        residual = residual - (length * product).masked_fill(~mask, 0)
        before, size = size, residual.square().sum(1, keepdim=True)
        direction = residual + size / before.where(before > 0, 1) * direction
    return found
