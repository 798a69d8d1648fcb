"""DSnoT: better masks without training, by exchanging weights until the expected outputs match the dense ones."""

import math

import torch
from torch import Tensor

from boxwood._internal.core.granularity import NofM
from boxwood.errors import InvalidInput


def dsnot(
    weight: Tensor,
    mask: Tensor,
    input_sum: Tensor,
    input_variance: Tensor,
    input_norm: Tensor,
    *,
    grouped: NofM | None = None,
    cycles: int = 50,
    threshold: float = 0.1,
) -> Tensor:
    """Refine a mask: in each row, repeatedly exchange a kept weight for a pruned one.

    What a row's pruned weights would have added to its output is ``Δ_q = Σ_i (1 - M_qi) W_qi E[x_i]``.
    With s its sign, each cycle keeps the pruned weight with the highest ``s W_qi E[x_i] / Var[x_i]``,
    and prunes that kept weight with ``s W_qj E[x_j] < 0`` that has the lowest ``|W_qj| ‖x_j‖₂``; both
    bring Δ_q towards 0. No weight changes twice. A row is done once ``|Δ_q|`` is at most the
    threshold, or an exchange would not lower it. Each row keeps as many weights as before.

    Args:
        weight: W, dense, [rows, n].
        mask: bool [rows, n], True keeps; from any criterion.
        input_sum: E[x], [n]: mean over the examples of the inputs, summed over an example's positions.
        input_variance: Var[x], [n], over all examples and positions.
        input_norm: ‖x‖₂, [n], over all examples and positions.
        grouped: n of m, which the mask has and keeps: a weight goes from the m that one comes back
            to, whatever its sign.
        cycles: exchanges in a row at most, at least 0.
        threshold: ε, in the units of the layer's outputs, summed over the positions; at least 0.

    Returns:
        A bool mask of the shape of ``mask``.

    Raises:
        InvalidInput: a setting is out of range, the shapes differ, or the mask is not n of m.

    Example:
        >>> weight = torch.tensor([[3.0, 2.0, -1.0]])  # without the second, the output lacks 2
        >>> mask, ones = torch.tensor([[True, False, True]]), torch.ones(3)
        >>> dsnot(weight, mask, ones, ones, ones)
        tensor([[ True,  True, False]])

    Source: Zhang, Zhao, Lin et al. (2024), "Dynamic sparse no training", equations 4 to 6 and algorithm 1;
    cycles and threshold, and its units, as in the authors' code.
    Differs from the paper: an exchange that would not lower ``|Δ_q|`` ends the row, where the paper
    goes on to the last cycle, and the authors' code for n:m ends at a change of sign. The authors'
    code takes the mean of the variances of single examples.
    """
    _check(weight, mask, (input_sum, input_variance, input_norm), grouped, cycles, threshold)
    adds = weight * input_sum  # to the expected output
    spread = input_variance.expand_as(adds)
    gain = torch.where(adds == 0, 0, adds / spread.clamp_min(torch.finfo(spread.dtype).tiny))
    cost = weight.abs() * input_norm
    mask = mask.clone()
    error = adds.masked_fill(mask, 0).sum(1, keepdim=True)
    pruned, kept = ~mask, mask.clone()  # what has not changed yet
    active = error.abs() > threshold
    for _ in range(cycles):
        if not bool(active.any()):
            break
        sign = error.sign()
        gains = (sign * gain).masked_fill(~pruned, -math.inf)
        best, back = gains.max(1, keepdim=True)
        fitting = kept & (sign * adds < 0) if grouped is None else kept & _with(back, adds, grouped)
        least, gone = cost.masked_fill(~fitting, math.inf).min(1, keepdim=True)
        after = error - adds.gather(1, back) + adds.gather(1, gone)
        active &= (best > 0) & least.isfinite() & (after.abs() < error.abs())
        mask.scatter_(1, back, mask.gather(1, back) | active)
        mask.scatter_(1, gone, mask.gather(1, gone) & ~active)
        pruned.scatter_(1, back, pruned.gather(1, back) & ~active)
        kept.scatter_(1, gone, kept.gather(1, gone) & ~active)
        error = torch.where(active, after, error)
        active &= error.abs() > threshold
    return mask


def _with(places: Tensor, like: Tensor, grouped: NofM) -> Tensor:
    """Say which columns lie in the same m as a place of each row."""
    columns = torch.arange(like.shape[1], device=like.device) // grouped.m
    return columns == places // grouped.m


def _check(
    weight: Tensor,
    mask: Tensor,
    inputs: tuple[Tensor, ...],
    grouped: NofM | None,
    cycles: int,
    threshold: float,
) -> None:
    if cycles < 0 or not threshold >= 0:
        raise InvalidInput(
            f"Expected cycles >= 0 and threshold >= 0, got cycles={cycles}, threshold={threshold}; "
            f"the paper takes 50 and 0.1."
        )
    shapes = [tuple(each.shape) for each in (weight, mask, *inputs)]
    if weight.dim() != 2 or shapes[1] != shapes[0] or shapes[2:] != [shapes[0][1:]] * 3:
        raise InvalidInput(
            f"Expected weights and a mask [rows, n] and sums, variances and norms [n], got shapes "
            f"{', '.join(map(str, shapes))}; give those of one layer."
        )
    if grouped is not None:
        grouped.spread(mask, tuple(mask.shape))
