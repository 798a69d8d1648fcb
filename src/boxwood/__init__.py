"""Neural-network pruning for PyTorch: smaller, faster networks whose accuracy is known."""

from importlib.metadata import version

from boxwood.agent.search import TryAndLearn
from boxwood.core.blocks import Blocks
from boxwood.core.errors import BoxwoodError, NoEffect
from boxwood.core.policies import SET, Gradual, LayerByLayer, RigL, Static
from boxwood.core.schedules import Cubic
from boxwood.core.spec import Call
from boxwood.data.datasets import from_datasets
from boxwood.data.splits import Splits, from_tensors
from boxwood.distill.losses import Distillation
from boxwood.engine.compiling import compile  # noqa: A004 - as torch names it
from boxwood.graph.compensate import compensate
from boxwood.graph.keep import Budget, multiply_adds, parameters
from boxwood.graph.units import units
from boxwood.graph.verify import shrink, verify
from boxwood.loading import load
from boxwood.model.binding import MaskBinding
from boxwood.model.oneshot import project_, prune, prune_in_rounds
from boxwood.model.sparse_training import SparseTraining
from boxwood.recipes.filter_agent import filter_agent
from boxwood.recipes.gradual import dense_training, gradual_pruning, sparse_training
from boxwood.recipes.lottery_ticket import layer_wise, lottery_ticket, together
from boxwood.recipes.phase import Experiment, Genesis
from boxwood.recipes.phases.search_filters import SearchFilters
from boxwood.recipes.structural import structural
from boxwood.recipes.teachers import Past, Teacher, Trained, taught
from boxwood.recipes.three_step import dense, iterative, one_shot
from boxwood.recipes.unit_selection import select_units
from boxwood.runs.runner import run
from boxwood.runs.store import Store
from boxwood.train.loop import Fit
from boxwood.train.optimizers import SGD, Adam

__version__ = version("boxwood")

__all__ = [
    "SET",
    "SGD",
    "Adam",
    "Blocks",
    "BoxwoodError",
    "Budget",
    "Call",
    "Cubic",
    "Distillation",
    "Experiment",
    "Fit",
    "Genesis",
    "Gradual",
    "LayerByLayer",
    "MaskBinding",
    "NoEffect",
    "Past",
    "RigL",
    "SearchFilters",
    "SparseTraining",
    "Splits",
    "Static",
    "Store",
    "Teacher",
    "Trained",
    "TryAndLearn",
    "compensate",
    "compile",
    "dense",
    "dense_training",
    "filter_agent",
    "from_datasets",
    "from_tensors",
    "gradual_pruning",
    "iterative",
    "layer_wise",
    "load",
    "lottery_ticket",
    "multiply_adds",
    "one_shot",
    "parameters",
    "project_",
    "prune",
    "prune_in_rounds",
    "run",
    "select_units",
    "shrink",
    "sparse_training",
    "structural",
    "taught",
    "together",
    "units",
    "verify",
]
