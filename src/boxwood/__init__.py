"""Neural-network pruning for PyTorch: smaller, faster networks whose accuracy is known."""

from importlib.metadata import version

from boxwood._internal.agent.search import TryAndLearn
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.policies import SET, Gradual, LayerByLayer, RigL, Static
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.core.spec import Call
from boxwood._internal.data.datasets import from_datasets
from boxwood._internal.data.splits import Splits, from_tensors
from boxwood._internal.distill.losses import Distillation
from boxwood._internal.engine.compiling import compile  # noqa: A004 - as torch names it
from boxwood._internal.graph.budgets import Budget, multiply_adds, parameters
from boxwood._internal.graph.compensate import compensate
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.loading import load
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.oneshot import apply_masks_, find_masks, find_masks_in_rounds
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood._internal.recipes.filter_agent import filter_agent
from boxwood._internal.recipes.gradual import dense_training, gradual_pruning, sparse_training
from boxwood._internal.recipes.lottery_ticket import layer_wise, lottery_ticket, together
from boxwood._internal.recipes.phase import Experiment, Genesis
from boxwood._internal.recipes.phases.search_filters import SearchFilters
from boxwood._internal.recipes.structural import structural
from boxwood._internal.recipes.teacher_student import with_teacher
from boxwood._internal.recipes.teachers import PastNetwork, Teacher, TrainedNetworks
from boxwood._internal.recipes.three_step import dense, iterative, one_shot
from boxwood._internal.recipes.unit_selection import select_units
from boxwood._internal.runs.runner import run
from boxwood._internal.runs.store import Store
from boxwood._internal.train.optimizers import SGD, Adam
from boxwood._internal.train.settings import Training
from boxwood.errors import BoxwoodError, NoEffect

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
    "Genesis",
    "Gradual",
    "LayerByLayer",
    "MaskBinding",
    "NoEffect",
    "PastNetwork",
    "RigL",
    "SearchFilters",
    "SparseTraining",
    "Splits",
    "Static",
    "Store",
    "Teacher",
    "TrainedNetworks",
    "Training",
    "TryAndLearn",
    "apply_masks_",
    "check_equivalence",
    "compensate",
    "compile",
    "dense",
    "dense_training",
    "filter_agent",
    "find_masks",
    "find_masks_in_rounds",
    "find_units",
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
    "run",
    "select_units",
    "shrink",
    "sparse_training",
    "structural",
    "together",
    "with_teacher",
]
