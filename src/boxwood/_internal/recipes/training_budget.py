"""How much a network was trained: what a fair comparison keeps equal.

Amounts are counters by unit: ``steps``, or ``epochs of batches of 60`` where the number of examples
is not known yet. They are read from encoded phases, so that a stored run can be judged as well.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from boxwood._internal.core.spec import encode
from boxwood._internal.recipes.phase import Recipe
from boxwood.errors import InvalidInput

Spec = Mapping[str, Any]
Amount = Counter[str]

_VALUES_FROM = {
    "Rewind": "to",
    "ShuffleMasks": "values",
    "MasksFrom": "of",
    "Resample": "of",
    "AddNoise": "to",
}
"""Phases that take the weights of an earlier phase, and the field that names it."""


def accumulated_training(phases: Sequence[Spec], trained: Sequence[Amount]) -> list[Amount]:
    """Add up the training of the weights that each phase leaves.

    Weights that are rewound to an earlier phase have that phase's training, and fresh ones have
    none.

    Args:
        phases: encoded phases of one recipe.
        trained: how much each of them trains.

    Example:
        >>> train, back = {"is": "a:Train"}, {"is": "a:Rewind", "to": "genesis"}
        >>> steps = [Counter(steps=9), Counter(), Counter(steps=9)]
        >>> [each["steps"] for each in accumulated_training([train, back, train], steps)]
        [9, 0, 9]
    """
    now: Amount = Counter()
    labels: dict[str, Amount] = {}
    found = []
    for phase, more in zip(phases, trained, strict=True):
        kind = str(phase.get("is", "")).rpartition(":")[2]
        if kind == "Reinitialise":
            now = Counter()
        elif kind in _VALUES_FROM:
            now = labels.get(str(phase.get(_VALUES_FROM[kind])), Counter())
        now = now + more
        labels[str(phase.get("label", ""))] = now
        found.append(now)
    return found


def planned(phases: Sequence[Spec]) -> list[Amount]:
    """Read off the settings how much each phase trains.

    Example:
        >>> planned([{"training": {"epochs": 15, "batch": 60}}, {"training": {"steps": 900, "start_at": 100}}, {}])
        [Counter({'epochs of batches of 60': 15}), Counter({'steps': 800}), Counter()]
    """
    return [_length(phase.get("training")) for phase in phases]


def _length(training: Any) -> Amount:
    if not isinstance(training, Mapping):
        return Counter()
    whole, unit = training.get("steps"), "steps"
    if whole is None:
        whole, unit = training.get("epochs"), f"epochs of batches of {training.get('batch')}"
    last = whole if training.get("stop_at") is None else training["stop_at"]
    return Counter({unit: (last or 0) - training.get("start_at", 0)})


def in_words(amount: Amount) -> str:
    """Write an amount.

    Example:
        >>> in_words(Counter({"epochs of batches of 60": 15, "steps": 1200})), in_words(Counter())
        ('15 epochs of batches of 60 and 1,200 steps', 'no training')
    """
    return " and ".join(f"{n:,} {unit}" for unit, n in amount.items() if n) or "no training"


def length_of(recipe: Recipe) -> Amount:
    """Add up the training of the last weights of a recipe.

    Example:
        >>> from boxwood.phases import Measure, Prune, Train
        >>> from boxwood.training import Training
        >>> from boxwood.optim import SGD
        >>> train = Train(training=Training(steps=100, batch=60, optimizer=SGD(lr=0.1)))
        >>> in_words(length_of((train, Prune(sparsity=0.5), train, Measure())))
        '200 steps'
    """
    phases = encode(recipe)
    return accumulated_training(phases, planned(phases))[-1]


def unequal_training(branches: Mapping[str, Recipe]) -> str:
    """Say how the training of some recipes differs; empty where it is equal.

    Args:
        branches: recipes by name; each counts up to its last `Measure`, or to its end.

    Example:
        >>> from boxwood.recipes import dense, one_shot
        >>> from boxwood.training import Training
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=10, batch=60, optimizer=SGD(lr=0.1))
        >>> unequal_training({"dense": dense(training), "pruned": one_shot(training, training, 0.5)})
        'dense: 10 epochs of batches of 60; pruned: 20 epochs of batches of 60'
        >>> unequal_training({"dense": dense(training, as_long_as=one_shot(training, training, 0.5)),
        ...     "pruned": one_shot(training, training, 0.5)})
        ''
    """
    names: dict[str, list[str]] = {}
    for name, recipe in branches.items():
        measured = [i for i, phase in enumerate(recipe, 1) if type(phase).__name__ == "Measure"]
        amount = length_of(recipe[: measured[-1] if measured else len(recipe)])
        names.setdefault(in_words(amount), []).append(name)
    if len(names) < 2:
        return ""
    return "; ".join(f"{', '.join(listed)}: {amount}" for amount, listed in names.items())


def checked_length(recipe: Recipe, unit: str) -> int:
    """Return the training of a recipe's last weights in one unit.

    Args:
        recipe: any.
        unit: ``steps``, or ``epochs of batches of`` and the batch size.

    Raises:
        InvalidInput: some of it is counted in another unit.
    """
    amount = length_of(recipe)
    if set(amount) - {unit}:
        raise InvalidInput(
            f"Expected a recipe whose training is counted in {unit}, got {in_words(amount)}; "
            f"count all trainings in the same unit, or give the dense one its length."
        )
    return amount[unit]
