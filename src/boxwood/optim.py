"""Optimizers and learning-rate schedules as data, for the trainings of recipes."""

from boxwood._internal.train.lr_schedules import ConstantLR, LinearWarmup, LRSchedule, StepDecay
from boxwood._internal.train.optimizers import SGD, Adam, OptimizerSpec

__all__ = ["SGD", "Adam", "ConstantLR", "LRSchedule", "LinearWarmup", "OptimizerSpec", "StepDecay"]
