"""Policies: when and how masks change during a training."""

from boxwood._internal.core.alternating_policies import ACDC
from boxwood._internal.core.fixed_masks import FixedMasks
from boxwood._internal.core.policies import Gradual, LayerByLayer, Policy, Static
from boxwood._internal.core.replacing_policies import SET, RigL
from boxwood._internal.core.soft_threshold import STR
from boxwood._internal.core.straight_through import Moment, StraightThrough

__all__ = [
    "ACDC",
    "SET",
    "STR",
    "FixedMasks",
    "Gradual",
    "LayerByLayer",
    "Moment",
    "Policy",
    "RigL",
    "Static",
    "StraightThrough",
]
