"""What copies of one network must share while they are trained on several ranks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from boxwood._internal.core.ranks import Group, add_up, size
from boxwood._internal.core.shards import is_distributed, placed_like


def mean_gradients(
    weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], group: Group = None
) -> dict[str, Tensor]:
    """Average gradients over the ranks, as DistributedDataParallel does.

    Under it a gradient is still that of the rank's own batch when hooks on the parameter see it.
    Those of ``DTensor`` parameters are averaged by then.

    Args:
        weights: what the gradients are of.
        gradients: by name; a weight that this rank's batch did not use has none.
        group: see `Group`.

    Returns:
        Gradients of the weights that some rank's batch used, with at least the precision of
        float32.

    Example:
        >>> mean_gradients({"w": torch.ones(2)}, {"w": torch.tensor([1.0, 2.0])})
        {'w': tensor([1., 2.])}
    """
    ranks = size(group)
    if ranks == 1:
        return dict(gradients)
    averaged = {
        name: placed_like(gradients[name], weight)
        for name, weight in weights.items()
        if is_distributed(weight) and name in gradients
    }
    weights = {name: weight for name, weight in weights.items() if not is_distributed(weight)}
    used = {name: torch.tensor(int(name in gradients)) for name in weights}
    wide = {name: torch.promote_types(each.dtype, torch.float32) for name, each in weights.items()}
    mine = {
        name: gradients[name].to(wide[name])
        if name in gradients
        else torch.zeros_like(weight, dtype=wide[name])
        for name, weight in weights.items()
    }
    used, _ = add_up(used, 0, group)
    summed, _ = add_up(mine, 0, group)
    return averaged | {name: summed[name] / ranks for name, count in used.items() if int(count)}
