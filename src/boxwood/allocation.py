"""Allocation: how a total sparsity is shared out among tensors."""

from boxwood._internal.core.allocation import (
    Allocation,
    AtLeast,
    ByName,
    global_,
    std_quality,
    uniform,
)
from boxwood._internal.core.allocation_by_layer import OutlierWeighed, erdos_renyi_kernel, lamp

__all__ = [
    "Allocation",
    "AtLeast",
    "ByName",
    "OutlierWeighed",
    "erdos_renyi_kernel",
    "global_",
    "lamp",
    "std_quality",
    "uniform",
]
