"""Granularity: which weights are kept or pruned together."""

from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import (
    Elements,
    Granularity,
    NofM,
    PerRow,
    Slices,
    largest,
    mean,
    total,
)

__all__ = [
    "Blocks",
    "Elements",
    "Granularity",
    "NofM",
    "PerRow",
    "Slices",
    "largest",
    "mean",
    "total",
]
