"""Which parameters are pruned: functions from a model to its prunable parameters, by name."""

from boxwood._internal.model.prunable import (
    Layers,
    Matrices,
    Named,
    conv,
    linear,
    linear_and_conv,
    norm_scales,
)

__all__ = [
    "Layers",
    "Matrices",
    "Named",
    "conv",
    "linear",
    "linear_and_conv",
    "norm_scales",
]
