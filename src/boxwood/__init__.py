"""Neural-network pruning for PyTorch: smaller, faster networks whose accuracy is known."""

from boxwood.core.errors import BoxwoodError, NoEffect
from boxwood.core.spec import Call
from boxwood.data.splits import Splits, from_tensors
from boxwood.model.binding import MaskBinding
from boxwood.model.oneshot import project_, prune
from boxwood.recipes.phase import Experiment, Genesis
from boxwood.recipes.three_step import dense, iterative, one_shot
from boxwood.runs.runner import run
from boxwood.runs.store import Store
from boxwood.train.loop import Fit
from boxwood.train.optimizers import SGD, Adam

__all__ = [
    "SGD",
    "Adam",
    "BoxwoodError",
    "Call",
    "Experiment",
    "Fit",
    "Genesis",
    "MaskBinding",
    "NoEffect",
    "Splits",
    "Store",
    "dense",
    "from_tensors",
    "iterative",
    "one_shot",
    "project_",
    "prune",
    "run",
]
