"""Rotary positions, seen in what becomes of the entries of heads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood._internal.engine.passes.entry_terms import Terms

_ROUNDING = 1e-6
"""Between cosines of the same position in tables of several lengths."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """``x · near + x[partner] · far`` for each feature of a head, or the same factor for all.

    Args:
        factor: of all entries, where they are not rotated.
        table: near and far, [2, tokens, features of a head].
        partners: each feature's; empty where nothing is rotated.
    """

    factor: float
    table: Tensor
    partners: tuple[int, ...]

    def equals(self, other: "Rotation") -> bool:
        """Say whether two rotations are the same, as far as both have tokens; factors may differ."""
        if self.partners != other.partners:
            return False
        tokens = min(self.table.shape[1], other.table.shape[1])
        one, two = (each.table[:, :tokens] for each in (self, other))
        return bool(torch.isclose(one, two, rtol=0, atol=_ROUNDING).all())


def rotation_of(terms: Terms | None, own: Tensor) -> Rotation | None:
    """Return how features of heads are mixed; None if not in the same way in all heads.

    Args:
        terms: of heads, [batch, heads, tokens, features], in what a projection made.
        own: numbers of the entries that would be there without a rotation.
    """
    if terms is None or terms.entries[0].shape != own.shape:
        return None
    tokens, size = own.shape[2:]
    near, far = torch.zeros(own.shape), torch.zeros(own.shape)
    features = torch.arange(size)
    partners = features.expand(own.shape)
    for entries, factors in zip(terms.entries, terms.factors, strict=True):
        mine = entries == own
        near += torch.where(mine, factors, 0.0)
        far += torch.where(mine, 0.0, factors)
        # The features of a head lie next to each other.
        partners = torch.where(mine, partners, features + entries - own)
    if bool(((partners < 0) | (partners >= size)).any()):
        return None
    one = partners[0, 0, 0]
    table = torch.stack([near[0, 0], far[0, 0]])
    if not all(map(_same_everywhere, (partners, near, far), (one, *table))):
        return None
    if bool((one == features).all()):
        factor = float(near[0, 0, 0, 0])
        return Rotation(factor, torch.empty(2, 0, 0), ()) if bool((near == factor).all()) else None
    return Rotation(1.0, table.reshape(2, tokens, size), tuple(one.tolist()))


def _same_everywhere(tensor: Tensor, part: Tensor) -> bool:
    return bool((tensor == part).all())
