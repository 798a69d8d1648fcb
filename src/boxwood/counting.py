"""Counting: parameters, multiply-adds, bytes and energy of dense and pruned networks."""

from boxwood._internal.files.sizes import network_bytes
from boxwood._internal.model.counting import (
    LayerCount,
    count_layers,
    count_nonzero,
    count_parameters,
)
from boxwood._internal.model.energy import Energy45nm, EnergyEstimate, energy

__all__ = [
    "Energy45nm",
    "EnergyEstimate",
    "LayerCount",
    "count_layers",
    "count_nonzero",
    "count_parameters",
    "energy",
    "network_bytes",
]
