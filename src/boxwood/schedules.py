"""Schedules: the sparsity as a function of the step."""

from boxwood._internal.core.schedules import Cubic, Geometric, Linear, OneShot, Schedule, Steps

__all__ = [
    "Cubic",
    "Geometric",
    "Linear",
    "OneShot",
    "Schedule",
    "Steps",
]
