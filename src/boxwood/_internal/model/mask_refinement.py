"""Refine the masks of a network from the inputs of its layers, without training."""

import torch
from torch import Tensor, nn

from boxwood._internal.core.dsnot import dsnot
from boxwood._internal.core.granularity import NofM
from boxwood._internal.core.masks import Masks, validate
from boxwood._internal.core.placement import check_whole
from boxwood._internal.core.ranks import Group, all_or_none, as_first_rank
from boxwood._internal.model.evidence.calibration import Batches, Calibration
from boxwood._internal.model.evidence.gathering import check_same_network
from boxwood._internal.model.evidence.moments import Moments, input_moments
from boxwood._internal.model.layer_kinds import as_stored, layouts_of, outputs_first
from boxwood._internal.model.prunable import parameter_names
from boxwood._internal.model.reconstruct import by_position


@torch.no_grad()
def refine_masks(
    model: nn.Module,
    masks: Masks,
    batches: Batches,
    *,
    grouped: NofM | None = None,
    cycles: int = 50,
    threshold: float = 0.1,
    group: Group = None,
) -> dict[str, Tensor]:
    """Exchange weights so that each output keeps its expected value (DSnoT).

    In each row the pruned weights' expected contribution ``Δ = Σ (1 - M) W E[x]`` is brought towards
    0: one pruned weight at a time is exchanged for a kept one. The count of each row does not
        change.

    Args:
        model: with linear, 1-D or 2-D convolution layers, and its dense weights; it is not changed.
        masks: from any criterion, such as magnitude, Wanda or SparseGPT.
        batches: inputs, or (inputs, targets); read once.
        grouped: the n:m pattern of the masks, which is preserved.
        cycles: exchanges in a row at most, at least 0.
        threshold: a row is done at this ``|Δ|``, in the units of the layer's outputs summed over an
            example's positions; at least 0.
        group: as for `reconstruct`.

    Returns:
        Masks with the same names and the same number of weights in each row.

    Raises:
        InvalidInput: the masks do not fit the model or the pattern, or a setting is out of range.

    Example:
        >>> net = nn.Linear(3, 1)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 2.0, -1.0]]))
        >>> masks = {"weight": torch.tensor([[True, False, True]])}
        >>> refine_masks(net, masks, [torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])])
        {'weight': tensor([[ True,  True, False]])}

    Source: Zhang, Zhao, Lin et al. (2024), "Dynamic sparse no training", algorithm 1.
    Differs from the paper: a row ends at an exchange that would not lower ``|Δ|``. The authors' code
    leaves the layers of the feed-forward network out by default; here all that have masks take part.
    """
    parameters = parameter_names(model)
    validate(parameters, masks)
    weights = {name: parameters[name] for name in masks}
    check_whole(weights)
    seen = Calibration(model, weights, batches, group=group)
    layouts = layouts_of(model, weights)
    shown = outputs_first(layouts, {name: weight.detach() for name, weight in weights.items()})
    before = outputs_first(layouts, {n: m.to(weights[n].device) for n, m in masks.items()})
    with all_or_none(group):
        check_same_network(seen)
        moments = input_moments(seen)
        found = {}
        for name, weight in shown.items():
            mask = _refined(weight, before[name], moments[name], grouped, cycles, threshold)
            found[name] = as_first_rank(mask, group)
    return as_stored(layouts, found)


def _refined(
    weight: Tensor,
    mask: Tensor,
    moments: Moments,
    grouped: NofM | None,
    cycles: int,
    threshold: float,
) -> Tensor:
    """Refine the mask of one layer, group of a convolution by group."""
    groups, columns = moments.sum.shape
    order = by_position(columns, weight.shape[1]).to(weight.device)
    rows = weight.reshape(groups, -1, columns)[..., order].to(moments.sum.dtype)
    kept = mask.reshape(groups, -1, columns)[..., order]
    parts = [
        dsnot(w, m, *inputs, grouped=grouped, cycles=cycles, threshold=threshold)
        for w, m, inputs in zip(
            rows, kept, zip(*(each[:, order] for each in moments), strict=True), strict=True
        )
    ]
    return torch.stack(parts)[..., order.argsort()].view(mask.shape)
