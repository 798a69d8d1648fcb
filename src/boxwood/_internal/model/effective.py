"""Sparsity that counts the weights of dead units as pruned."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from boxwood._internal.core.masks import kept
from boxwood._internal.model.dead import DeadRemoval, remove_dead


def without_dead(
    model: nn.Module,
    choose: Callable[[float], Mapping[str, Tensor]],
    sparsity: float,
    example_shape: tuple[int, ...],
    *,
    available: int | None = None,
) -> DeadRemoval:
    """Prune to a total sparsity that is met once dead units have lost their other side.

    Counting them later makes a network sparser than was asked for, and another one by another
    amount, so that the two cannot be compared. Here as many weights are chosen first as leave at
    most the wanted number after the removal. What is left over is fewer than the weights of the one
    unit that a further weight would bring back.

    Args:
        model: a plain feed-forward network; it is not changed.
        choose: sparsity to masks by parameter name, in which a lower sparsity keeps all that a higher
            one keeps.
        sparsity: total fraction of zeros over the tensors of these masks, in [0, 1).
        example_shape: as for `remove_dead`.
        available: how many weights can stay at most; all by default.

    Raises:
        InvalidInput: as `remove_dead`.

    Example:
        >>> import torch
        >>> from boxwood import find_masks
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 3))
        >>> def choose(sparsity): return find_masks(net, sparsity)
        >>> kept(remove_dead(net, choose(0.9), (9,)).masks), kept(without_dead(net, choose, 0.9, (9,)).masks)
        (0, 23)

    Source: Vysogorets and Kempe (2023), who call it effective sparsity and show that methods change
    their order when it is counted.
    """
    chosen = choose(sparsity)
    total = sum(mask.numel() for mask in chosen.values())
    wanted = kept(chosen)
    best = remove_dead(model, chosen, example_shape)
    low, high = wanted, total if available is None else available
    while _left(best, chosen) < wanted and high - low > 1:
        middle = (low + high) // 2
        found = remove_dead(model, choose(1 - middle / total), example_shape)
        if _left(found, chosen) <= wanted:
            best, low = found, middle
        else:
            high = middle
    return best


def _left(done: DeadRemoval, chosen: Mapping[str, Tensor]) -> int:
    return kept({name: done.masks[name] for name in chosen})
