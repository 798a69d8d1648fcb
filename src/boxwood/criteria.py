"""Criteria: pure functions from evidence about one tensor to saliency scores; higher is kept.

The *positional* parameters name the evidence that a criterion needs, the keyword-only ones are its
settings. Whoever calls a criterion gathers exactly what it names. A criterion knows nothing of
layers, other tensors, counts or schedules. Its scores have the weight's shape, or one that
broadcasts to it, such as [filters, 1, 1, 1].

Evidence that costs nothing:

    weight   the tensor itself, [...]
    mask     its current mask, bool [...], all True if there is none
    name     its dotted name

Evidence from batches, each of the weight's shape or broadcast to it (N examples
in B batches, E the mean loss):

    gradient                  ∂E/∂w                              B backward passes
    gradient_square           mean over examples of (∂E_n/∂w)²   N backward passes, one by one
    batch_gradient_square     mean over batches of (∂E_b/∂w)²    B backward passes
    hessian_gradient          H ∂E/∂w                            3 B backward passes
    flow_gradient             ∂R/∂|w| of the absolute network    1 backward pass in float64, no data
    hessian_diagonal          Hutchinson's estimate of H_kk      8 B double backward passes
    levenberg_marquardt       back-propagated H_kk, f'' dropped  B passes, plain chains only
    second_derivative         back-propagated H_kk               B passes, plain chains only
    inverse_hessian_diagonal  of the layer's own inputs          B forward passes, inputs² memory
    input_norm                ‖X_j‖₂ of each input               B forward passes
    feature_rank              mean rank of a filter's maps       B forward passes, an SVD per map
    norm_scale                γ of the norm that follows         1 forward pass
    gate_gradient_square      mean over batches of (∂E_b/∂gate)² B backward passes
    weight_movement           -Σ_t (∂E/∂w) w over a training     that training
"""

from boxwood._internal.core.criteria.activations import ria, squared_activations, wanda
from boxwood._internal.core.criteria.curvature import (
    cap,
    fisher,
    hutchinson,
    obd,
    obd_full,
    obs,
    woodfisher,
)
from boxwood._internal.core.criteria.filters import (
    geometric_median,
    network_slimming,
    rank_of_features,
    taylor_gate,
)
from boxwood._internal.core.criteria.gradients import (
    gradient_magnitude,
    grasp,
    movement,
    snip,
    synflow,
    taylor,
)
from boxwood._internal.core.criteria.weights import (
    magnitude,
    magnitude_over_std,
    magnitude_over_survivor_std,
    random,
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
    "cap",
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
    "ria",
    "snip",
    "squared_activations",
    "synflow",
    "taylor",
    "taylor_gate",
    "wanda",
    "woodfisher",
]
