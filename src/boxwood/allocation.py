"""Allocation: how a total sparsity is distributed among tensors, by a rule or by a search."""

from boxwood._internal.agent.allocation_search import DDPG, AllocationSearch, amc
from boxwood._internal.core.allocation import (
    Allocation,
    AtLeast,
    ByName,
    global_,
    std_quality,
    uniform,
)
from boxwood._internal.core.allocation_by_layer import OutlierWeighed, erdos_renyi_kernel, lamp
from boxwood._internal.core.heavy_tails import HeavyTailed, tail_exponent
from boxwood._internal.model.gate_search import GateSearch, chipnet

__all__ = [
    "DDPG",
    "Allocation",
    "AllocationSearch",
    "AtLeast",
    "ByName",
    "GateSearch",
    "HeavyTailed",
    "OutlierWeighed",
    "amc",
    "chipnet",
    "erdos_renyi_kernel",
    "global_",
    "lamp",
    "std_quality",
    "tail_exponent",
    "uniform",
]
