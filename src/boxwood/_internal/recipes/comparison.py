"""Compare methods under one budget: tasks, methods, sparsities, and their controls.

Every method has the steps of the task's training, all trainings of its recipe together, and the same
grid of learning rates to choose from on validation.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from boxwood._internal.core.call import Call
from boxwood._internal.core.schedules import check_sparsity
from boxwood._internal.core.spec import encode
from boxwood._internal.recipes.compared_methods import CONTROLS, dense, trained_on
from boxwood._internal.recipes.gradual import Size
from boxwood._internal.recipes.phase import Recipe
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.recipes.task import ComparisonTask, Method
from boxwood._internal.recipes.training_budget import in_words, planned
from boxwood.errors import InvalidInput

Draws = Method | tuple[Method, ...]
"""A method, or several random draws of one, of which the mean counts."""

_HALVINGS = 24


@dataclass(frozen=True)
class Place:
    """A row of a league table.

    Args:
        task: its name.
        method: likewise.
        sparsity: the requested sparsity; None for dense networks, which belong to every sparsity.
        control: whether it is a control.
    """

    task: str
    method: str
    sparsity: float | None
    control: bool = False


@dataclass(frozen=True)
class Entry:
    """One recipe of a comparison.

    Args:
        place: the row that it belongs to.
        task: at one of its rates, with the network that the recipe begins with.
        recipe: the phases.
        draw: which of several random draws.
    """

    place: Place
    task: ComparisonTask
    recipe: Recipe
    draw: int = 0

    @property
    def name(self) -> str:
        """What progress and stores call it."""
        at = "" if self.place.sparsity is None else f" at {100 * self.place.sparsity:.4g} %"
        draw = f", draw {self.draw}" if self.draw else ""
        return f"{self.place.task}: {self.place.method}{at}, lr {self.task.rate:g}{draw}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods to compare, the tasks to compare them on, and the sparsities.

    Args:
        tasks: with distinct names.
        methods: by name; Boxwood's are `METHODS`. A tuple of methods is several random draws of
            one, and their mean counts.
        sparsities: each in [0, 1).
        controls: like methods; by default `CONTROLS`. In addition there are the dense network, the
            dense network trained for as long as three-step methods, and, if a task has ``small``, a
            dense network with the number of parameters that pruning leaves.
        tuning_seeds: the first seeds, at least 1, on which learning rates are chosen.
        tuned_at: one of the sparsities, at which every method chooses the learning rate that it
            takes at all of them; None for each sparsity by itself. With four sparsities and three
            rates, the first seed then costs half.

    Raises:
        InvalidInput: there is nothing to compare, a name occurs twice, or a sparsity is out of
            range.

    Example:
        >>> from boxwood.comparison import METHODS
        >>> from boxwood.data import digits
        >>> from boxwood.networks import lenet_300_100
        >>> from boxwood.optim import SGD
        >>> from boxwood.recipes import Call
        >>> from boxwood.training import Training
        >>> task = ComparisonTask(
        ...     name="digits", model=Call.of(lenet_300_100, inputs=64), data=digits,
        ...     train=Training(steps=100, batch=60, optimizer=SGD(lr=0.1)), rates=(0.05, 0.1),
        ... )
        >>> rigl = Comparison(tasks=(task,), methods={"RigL": METHODS["RigL"]}, sparsities=(0.9,))
        >>> [entry.name for entry in rigl.entries()][:2], len(rigl.entries())
        (['digits: dense, lr 0.05', 'digits: dense trained on, lr 0.05'], 16)
    """

    tasks: tuple[ComparisonTask, ...]
    methods: Mapping[str, Draws]
    sparsities: tuple[float, ...]
    controls: Mapping[str, Draws] = field(default_factory=lambda: dict(CONTROLS))
    tuning_seeds: int = 1
    tuned_at: float | None = None

    def __post_init__(self) -> None:
        if not (self.tasks and self.sparsities and (self.methods or self.controls)):
            raise InvalidInput(
                f"Expected tasks, methods and sparsities to compare, got {len(self.tasks)}, "
                f"{len(self.methods)} and {len(self.sparsities)} of them; give some of each."
            )
        tasks = [task.name for task in self.tasks]
        twice = set(self.methods) & {"dense", "dense trained on", "dense small", *self.controls}
        if len(set(tasks)) < len(tasks) or twice or self.tuning_seeds < 1:
            raise InvalidInput(
                f"Expected distinct names and tuning_seeds >= 1, got tasks {tasks}, "
                f"{sorted(twice)} as methods and controls alike, and {self.tuning_seeds}; correct them."
            )
        for sparsity in self.sparsities:
            check_sparsity(sparsity)
        if self.tuned_at is not None and self.tuned_at not in self.sparsities:
            raise InvalidInput(
                f"Expected tuned_at to be one of the sparsities {self.sparsities}, got "
                f"{self.tuned_at}; choose one, or None for each by itself."
            )
        known = {*self.methods, *self.controls}
        for task in self.tasks:
            if unknown := [name for name in task.without if name not in known]:
                raise InvalidInput(
                    f"Expected {task.name} to do without some of {', '.join(sorted(known))}, got "
                    f"{unknown[0]!r}; correct the name."
                )

    def entries(self) -> tuple[Entry, ...]:
        """List every recipe at every rate, controls first.

        Raises:
            InvalidInput: a recipe trains for other than the task's steps, or ends without measuring.
        """
        found: list[Entry] = []
        for whole in self.tasks:
            for task in whole.at_rates():
                found.append(_entry(task, "dense", None, dense(task)))
                found.append(_entry(task, "dense trained on", None, trained_on(task)))
                for sparsity in self.sparsities:
                    found += _small(task, sparsity)
                    for name, draws in (*self.controls.items(), *self.methods.items()):
                        if name in task.without:
                            continue
                        several = draws if isinstance(draws, tuple) else (draws,)
                        for draw, method in enumerate(several, 1 if len(several) > 1 else 0):
                            recipe = method(task, sparsity)
                            control = name in self.controls
                            found.append(_entry(task, name, sparsity, recipe, control, draw))
        return tuple(found)

    def tuned(self, place: Place) -> Place:
        """Return the row whose learning rate a row takes: its own, or that at ``tuned_at``."""
        if self.tuned_at is None or place.sparsity is None:
            return place
        return replace(place, sparsity=self.tuned_at)


def _entry(
    task: ComparisonTask,
    name: str,
    sparsity: float | None,
    recipe: Recipe,
    control: bool = True,
    draw: int = 0,
) -> Entry:
    place = Place(task.name, name, sparsity, control)
    batches = {p.training.batch for p in recipe if isinstance(p, Train)}
    found: Counter[str] = sum(planned(encode(recipe)), start=Counter())
    if (
        not recipe
        or recipe[-1] != task.measure
        or found != {"steps": task.steps}
        or batches - {task.train.batch}
    ):
        raise InvalidInput(
            f"Expected {name!r} to return a recipe of {task.steps:,} steps in all, of batches of "
            f"{task.train.batch}, that ends with task.measure, got {in_words(found)} of batches of "
            f"{', '.join(map(str, sorted(batches))) or 'none'} and "
            f"{type(recipe[-1]).__name__ if recipe else 'nothing'} at the end; divide the steps among "
            f"its trainings by task.part(steps)."
        )
    # A rate at which a method diverges loses on validation, and ends nothing.
    safe = tuple(replace(p, may_diverge=True) if isinstance(p, Train) else p for p in recipe)
    return Entry(place, task, safe, draw)


def _small(task: ComparisonTask, sparsity: float) -> list[Entry]:
    """The dense network of the largest width that has no more parameters than are left."""
    if task.small is None:
        return []
    left = _left(Size.of(task.model, task.layers), sparsity)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = Size.of(Call.of(task.small, width=middle)).total <= left
        low, high = (middle, high) if fits else (low, middle)
    if not low:
        raise InvalidInput(
            f"Expected a small network of {task.name} with at most {left:,} parameters, got more at "
            f"any width; leave small out, or let it scale further down."
        )
    narrow = replace(task, model=Call.of(task.small, width=low))
    return [_entry(narrow, "dense small", sparsity, dense(narrow))]


def _left(size: Size, sparsity: float) -> int:
    return size.total - round(size.prunable * sparsity)
