"""Train, prune units, retrain: the three-step recipe on whole filters and neurons."""

from dataclasses import replace

from boxwood.core.criteria import magnitude
from boxwood.model.scoring import Criterion
from boxwood.recipes.phase import Recipe
from boxwood.recipes.phases.measure import Measure
from boxwood.recipes.phases.prune_units import PruneUnits
from boxwood.recipes.phases.train import Train
from boxwood.train.loop import Fit


def structural(
    train: Fit,
    retrain: Fit,
    keep: float,
    *,
    criterion: Criterion = magnitude,
    floor: int = 1,
    multiple: int = 1,
    protect: tuple[str, ...] = (),
) -> Recipe:
    """Train, remove units, prove that they can be cut out, and retrain what is left.

    Args:
        train: the dense training.
        retrain: after the removal.
        keep: fraction of units of every group that stay.
        criterion: as for `PruneUnits`, and so are the others.
        floor: units that each group keeps at least.
        multiple: groups keep a multiple of this.
        protect: patterns of parameters whose units stay.

    Example:
        >>> from boxwood.train.optimizers import SGD
        >>> fit = Fit(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> [type(p).__name__ for p in structural(fit, fit, 0.5)]
        ['Train', 'PruneUnits', 'Train', 'Measure']

    Source: Li, Kadav, Durdanovic, Samet and Graf (2017), with the defaults.
    """
    return (
        Train(fit=train, label="dense"),
        PruneUnits(keep=keep, criterion=criterion, floor=floor, multiple=multiple, protect=protect),
        Train(fit=replace(retrain, order=1)),
        Measure(),
    )
