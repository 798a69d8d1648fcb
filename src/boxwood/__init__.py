"""Neural-network pruning for PyTorch: smaller and faster networks with a measured accuracy.

What is used most is here; everything else is in these modules:

    compression                                  from a floor of accuracy to a folder
    criteria, granularity, allocation, layers    what is pruned, and by which scores
    schedules, policies                          when
    oneshot, structure, budgets                  without training; whole units
    recipes, phases, training, optim, distill, agent, data, networks    studies
    runs, statistics, counting, files, downloads, errors    stores, sizes, files
    integrations                                 Lightning and transformers, with their extras

Whatever is in none of them is private and may move at any time.
"""

from importlib.metadata import version as _version

from boxwood import (  # noqa: F401 - public modules
    agent,
    allocation,
    budgets,
    comparison,
    compression,
    counting,
    criteria,
    data,
    distill,
    downloads,
    errors,
    files,
    granularity,
    layers,
    networks,
    oneshot,
    optim,
    phases,
    policies,
    published,
    recipes,
    runs,
    schedules,
    statistics,
    structure,
    training,
)
from boxwood._internal.compress.api import compress
from boxwood._internal.core.public_names import publish as _publish
from boxwood._internal.deployment import load, save
from boxwood._internal.engine.accelerate import accelerate_, restore_
from boxwood._internal.engine.compiling import compile  # noqa: A004 - as torch names it
from boxwood._internal.graph.compensate import compensate
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.oneshot import apply_masks_, find_masks, prune_
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.recipes.unit_selection import select_units
from boxwood._internal.report.experiments import run
from boxwood.errors import BoxwoodError

__version__ = _version("boxwood")

__all__ = [
    "BoxwoodError",
    "Experiment",
    "MaskBinding",
    "SparseTraining",
    "accelerate_",
    "apply_masks_",
    "check_equivalence",
    "compensate",
    "compile",
    "compress",
    "find_masks",
    "find_units",
    "load",
    "prune_",
    "restore_",
    "run",
    "save",
    "select_units",
    "shrink",
]

# Recipes are made of these, so files and stores may name them.
for _module in (
    agent, allocation, criteria, data, distill, granularity, layers, networks, optim, phases,
    policies, published, recipes, schedules, training,
):  # fmt: skip
    _publish(_module.__name__, *(getattr(_module, _name) for _name in _module.__all__))
_publish("boxwood", Experiment)
