"""Masks that keep the same number of weights at random positions: the control of every criterion."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from boxwood._internal.core.masks import Masks

Shuffle = Callable[[Masks, torch.Generator], dict[str, Tensor]]
"""Masks and random numbers, to masks of the same shapes that keep as many weights in all."""


def within_layers(masks: Masks, chance: torch.Generator) -> dict[str, Tensor]:
    """Keep as many weights of each tensor, at random places.

    Example:
        >>> shuffled = within_layers({"a": torch.arange(6) < 2}, torch.Generator().manual_seed(0))
        >>> int(shuffled["a"].sum())
        2

    Source: Frankle and Carbin (2019), appendix on randomly sampled sparse networks.
    """
    return _place({name: int(mask.sum()) for name, mask in masks.items()}, masks, chance)


def over_all_layers(masks: Masks, chance: torch.Generator) -> dict[str, Tensor]:
    """Keep as many weights of all tensors together, at random places anywhere.

    Example:
        >>> masks = {"a": torch.ones(3) > 0, "b": torch.zeros(3) > 0}
        >>> shuffled = over_all_layers(masks, torch.Generator().manual_seed(0))
        >>> sum(int(mask.sum()) for mask in shuffled.values())
        3

    Source: the random masks of the lottery ticket papers' code that keep no layer's count.
    """
    flat = torch.cat([mask.flatten() for mask in masks.values()])
    chosen = flat[torch.randperm(len(flat), generator=chance)]
    parts = chosen.split([mask.numel() for mask in masks.values()])
    return {
        name: part.reshape(mask.shape)
        for (name, mask), part in zip(masks.items(), parts, strict=True)
    }


def evenly(masks: Masks, chance: torch.Generator) -> dict[str, Tensor]:
    """Keep the same fraction of every tensor, as many weights in all, at random places.

    Example:
        >>> masks = {"a": torch.ones(3) > 0, "b": torch.zeros(3) > 0}
        >>> {n: int(m.sum()) for n, m in evenly(masks, torch.Generator().manual_seed(0)).items()}
        {'a': 2, 'b': 1}

    Source: the random masks of the lottery ticket papers' code that give layers one sparsity.
    """
    kept, total = (sum(count) for count in zip(*map(_counts, masks.values()), strict=True))
    counts, given, seen = {}, 0, 0
    for name, mask in masks.items():
        # Rounding the running sum keeps the total exact.
        seen += mask.numel()
        counts[name] = -(-kept * seen // total) - given
        given += counts[name]
    return _place(counts, masks, chance)


def _counts(mask: Tensor) -> tuple[int, int]:
    return int(mask.sum()), mask.numel()


def _place(counts: Mapping[str, int], masks: Masks, chance: torch.Generator) -> dict[str, Tensor]:
    placed = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=chance)
        placed[name] = (order < counts[name]).reshape(mask.shape)
    return placed
