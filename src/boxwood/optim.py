"""Optimizers and learning-rate schedules as data, for the trainings of recipes."""

from boxwood._internal.train.lr_schedules import (
    ConstantLR,
    CosineLR,
    LinearLR,
    LinearWarmup,
    LRSchedule,
    OneCycleLR,
    StepDecay,
)
from boxwood._internal.train.optimizers import SGD, Adam, AdamW, OptimizerSpec

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "ConstantLR",
    "CosineLR",
    "LRSchedule",
    "LinearLR",
    "LinearWarmup",
    "OneCycleLR",
    "OptimizerSpec",
    "StepDecay",
]
