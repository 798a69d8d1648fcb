"""Criteria: functions from a weight and evidence about it to saliency scores; higher is kept."""

from boxwood._internal.core.criteria import (
    fisher,
    geometric_median,
    gradient_magnitude,
    grasp,
    hutchinson,
    magnitude,
    magnitude_over_std,
    magnitude_over_survivor_std,
    movement,
    network_slimming,
    obd,
    obd_full,
    obs,
    random,
    rank_of_features,
    snip,
    synflow,
    taylor,
    taylor_gate,
    wanda,
)
from boxwood._internal.model.evidence.calibration import Batches, Loss
from boxwood._internal.model.evidence.gathering import Evidence
from boxwood._internal.model.evidence.movement import TrackMovement
from boxwood._internal.model.scoring import Criterion

__all__ = [
    "Batches",
    "Criterion",
    "Evidence",
    "Loss",
    "TrackMovement",
    "fisher",
    "geometric_median",
    "gradient_magnitude",
    "grasp",
    "hutchinson",
    "magnitude",
    "magnitude_over_std",
    "magnitude_over_survivor_std",
    "movement",
    "network_slimming",
    "obd",
    "obd_full",
    "obs",
    "random",
    "rank_of_features",
    "snip",
    "synflow",
    "taylor",
    "taylor_gate",
    "wanda",
]
