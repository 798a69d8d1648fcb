"""Adjust what masks keep of any network, by the empirical Fisher matrix in small blocks."""

from torch import Tensor, nn

from boxwood._internal.core.block_surgery import adjusted
from boxwood._internal.core.masks import Masks, validate
from boxwood._internal.core.ranks import Group, all_or_none
from boxwood._internal.core.shards import placed_like
from boxwood._internal.model.evidence.block_fisher import cut, fisher_blocks, joined, turned
from boxwood._internal.model.evidence.calibration import Batches, Calibration, Loss
from boxwood._internal.model.evidence.gathering import check_same_network
from boxwood._internal.model.layer_kinds import layouts_of
from boxwood._internal.model.prunable import parameter_names


def reconstruct_by_fisher(
    model: nn.Module,
    masks: Masks,
    batches: Batches,
    loss: Loss,
    *,
    block: int = 50,
    damping: float = 1e-5,
    group: Group = None,
) -> dict[str, Tensor]:
    """Adjust the kept weights so that the loss rises least, by the Fisher matrix in blocks.

    ``F_KK δ_K = F_KP w_P`` in each block of weights of an output, for kept weights K and pruned
    ones P: the update of Optimal Brain Surgeon for all pruned weights of a block together. It is
    meant for weights at a minimum of the loss, of any network that gives gradients.

    Args:
        model: it is not changed; its own weights are those before pruning.
        masks: from any criterion, such as `woodfisher`.
        batches: (inputs, targets), as for `boxwood.find_masks`.
        loss: outputs and targets to the mean over a batch.
        block: most weights in a block; memory is ``block`` times that of the weights.
        damping: added to the diagonal of F, above 0.
        group: ranks of ``torch.distributed``, each with batches of its own, as for
            `boxwood.find_masks`.

    Returns:
        New weights by name, zero where the masks prune; `load_` puts them into the model.

    Raises:
        InvalidInput: masks do not fit, or a setting is out of range.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[0.5, 3.0]]))
        >>> masks = {"weight": torch.tensor([[False, True]])}
        >>> same = [(torch.tensor([[1.0, 1.0]]), torch.zeros(1, 1))]  # the two inputs always agree
        >>> squared = lambda outputs, targets: (outputs - targets).square().mean()
        >>> new = reconstruct_by_fisher(net, masks, same, squared)
        >>> [round(each, 3) for each in new["weight"][0].tolist()]
        [0.0, 3.5]

    Source: Singh and Alistarh (2020), section 4; Kurtic et al. (2022), equation 5.
    """
    parameters = parameter_names(model)
    validate(parameters, masks)
    weights = {name: parameters[name] for name in masks}
    seen = Calibration(model, weights, batches, loss, group=group)
    layouts = layouts_of(model, weights)
    new = {}
    with all_or_none(group):
        check_same_network(seen)
        fishers = fisher_blocks(seen, block=block, damping=damping)
    for name, fisher in fishers.items():
        weight = weights[name].detach()
        mask = placed_like(masks[name], weight)
        parts = [cut(turned(each, name, layouts), block) for each in (weight, mask)]
        moved = adjusted(parts[0].double(), fisher.double(), parts[1]).to(weight.dtype)
        new[name] = joined(moved, weight, name, layouts)
    return new
