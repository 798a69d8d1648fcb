"""Policies: when and how masks change during a training."""

from boxwood._internal.core.fixed_masks import FixedMasks
from boxwood._internal.core.policies import SET, Gradual, LayerByLayer, Policy, RigL, Static

__all__ = ["SET", "FixedMasks", "Gradual", "LayerByLayer", "Policy", "RigL", "Static"]
