"""The phases that recipes are made of: ``from boxwood.recipes.phases import Measure, Prune, Train``.

Each is a frozen dataclass with one method, in a file of its own. A recipe is a tuple of them.

Example:
    >>> from boxwood import SGD, Fit
    >>> from boxwood.recipes.phases import Measure, Prune, Rewind, Train
    >>> train = Train(fit=Fit(epochs=1, batch=60, optimizer=SGD(lr=0.1)))
    >>> ticket = (train, Prune(sparsity=0.5), Rewind(), train, Measure())
"""

from boxwood.recipes.phases.consult import Consult
from boxwood.recipes.phases.controls import AddNoise, MasksFrom, Resample, ShuffleMasks
from boxwood.recipes.phases.decode import Decode
from boxwood.recipes.phases.descend import Descend
from boxwood.recipes.phases.interpolate import Interpolate
from boxwood.recipes.phases.measure import Measure
from boxwood.recipes.phases.measure_teacher import MeasureTeacher
from boxwood.recipes.phases.predict import Predict
from boxwood.recipes.phases.prune import Prune
from boxwood.recipes.phases.prune_units import PruneUnits
from boxwood.recipes.phases.remove_as_many import RemoveAsMany, RemoveBySensitivity
from boxwood.recipes.phases.remove_dead import RemoveDead
from boxwood.recipes.phases.rewind import Reinitialise, Rewind
from boxwood.recipes.phases.scan import Scan
from boxwood.recipes.phases.search_filters import SearchFilters
from boxwood.recipes.phases.shift_bias import ShiftBias
from boxwood.recipes.phases.specialise import Group, Specialise
from boxwood.recipes.phases.train import Train

__all__ = [
    "AddNoise",
    "Consult",
    "Decode",
    "Descend",
    "Group",
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
