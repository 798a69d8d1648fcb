"""The phases that recipes are made of: ``from boxwood.phases import Measure, Prune, Train``.

Each is a frozen dataclass with one method, in a file of its own. A recipe is a tuple of them.

Example:
    >>> from boxwood.optim import SGD
    >>> from boxwood.phases import Measure, Prune, Rewind, Train
    >>> from boxwood.training import Training
    >>> train = Train(training=Training(epochs=1, batch=60, optimizer=SGD(lr=0.1)))
    >>> ticket = (train, Prune(sparsity=0.5), Rewind(), train, Measure())
"""

from boxwood._internal.recipes.phases.consult import Consult
from boxwood._internal.recipes.phases.controls import AddNoise, MasksFrom, Resample, ShuffleMasks
from boxwood._internal.recipes.phases.descend import Descend
from boxwood._internal.recipes.phases.interpolate import Interpolate
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.measure_teacher import MeasureTeacher
from boxwood._internal.recipes.phases.predict import Predict
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.prune_units import PruneUnits
from boxwood._internal.recipes.phases.remove_as_many import RemoveAsMany, RemoveBySensitivity
from boxwood._internal.recipes.phases.remove_dead import RemoveDead
from boxwood._internal.recipes.phases.rewind import Reinitialise, Rewind
from boxwood._internal.recipes.phases.scan import Scan
from boxwood._internal.recipes.phases.search_filters import SearchFilters
from boxwood._internal.recipes.phases.shift_bias import ShiftBias
from boxwood._internal.recipes.phases.specialise import GroupClasses, Specialise
from boxwood._internal.recipes.phases.train import Train

__all__ = [
    "AddNoise",
    "Consult",
    "Descend",
    "GroupClasses",
    "Interpolate",
    "MasksFrom",
    "Measure",
    "MeasureTeacher",
    "Predict",
    "Prune",
    "PruneUnits",
    "Reinitialise",
    "RemoveAsMany",
    "RemoveBySensitivity",
    "RemoveDead",
    "Resample",
    "Rewind",
    "Scan",
    "SearchFilters",
    "ShiftBias",
    "ShuffleMasks",
    "Specialise",
    "Train",
]
