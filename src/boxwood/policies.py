"""Policies: when and how masks change during a training."""

from boxwood._internal.core.alternating_policies import ACDC
from boxwood._internal.core.constant_fan_in import SRigL
from boxwood._internal.core.fixed_masks import FixedMasks
from boxwood._internal.core.growing_policies import MEST, SNFS, GraNet
from boxwood._internal.core.policies import Gradual, LayerByLayer, Policy, Static, gmp_star
from boxwood._internal.core.replacing_policies import SET, RigL
from boxwood._internal.core.returning_policies import SRSTE, MovementPruning, TopKAST
from boxwood._internal.core.soft_threshold import STR
from boxwood._internal.core.straight_through import Moment, StraightThrough

__all__ = [
    "ACDC",
    "MEST",
    "SET",
    "SNFS",
    "SRSTE",
    "STR",
    "FixedMasks",
    "GraNet",
    "Gradual",
    "LayerByLayer",
    "Moment",
    "MovementPruning",
    "Policy",
    "RigL",
    "SRigL",
    "Static",
    "StraightThrough",
    "TopKAST",
    "gmp_star",
]
