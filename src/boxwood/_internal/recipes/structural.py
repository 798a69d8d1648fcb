"""Train, prune units, retrain: the three-step recipe on whole filters and neurons, and network slimming."""

from dataclasses import replace

from boxwood._internal.core.criteria.filters import network_slimming
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.model.prunable import conv, norm_scales
from boxwood._internal.model.scoring import Criterion
from boxwood._internal.recipes.phase import Recipe
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.prune_units import PruneUnits
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.train.settings import Training


def structural(
    train: Training,
    retrain: Training,
    keep: float,
    *,
    criterion: Criterion = magnitude,
    floor: int = 1,
    multiple: int = 1,
    protect: tuple[str, ...] = (),
) -> Recipe:
    """Train, remove units, check the smaller network, and retrain.

    Args:
        train: the dense training.
        retrain: after the removal.
        keep: fraction of units of every group that stay.
        criterion: as for `PruneUnits`, and so are the others.
        floor: the least number of units that each group keeps.
        multiple: groups keep a multiple of this.
        protect: patterns of parameters whose units stay.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> [type(p).__name__ for p in structural(training, training, 0.5)]
        ['Train', 'PruneUnits', 'Train', 'Measure']

    Source: Li, Kadav, Durdanovic, Samet and Graf (2017), with the defaults.
    """
    prune = PruneUnits(
        keep=keep, criterion=criterion, floor=floor, multiple=multiple, protect=protect
    )
    return _around(prune, train, retrain)


def slimming(
    train: Training,
    retrain: Training,
    keep: float,
    *,
    l1: float = 1e-4,
    floor: int = 1,
    multiple: int = 1,
    protect: tuple[str, ...] = (),
) -> Recipe:
    """Train with a penalty on the scales of batch norms, remove the filters of the smallest, retrain.

    The penalty is ``λ · Σ |γ|`` over all batch norms; filters are ranked over the whole network.

    Args:
        train: the dense training; the penalty is added to it.
        retrain: after the removal, without a penalty.
        keep: fraction of all filters that stay.
        l1: λ, in units of the loss.
        floor: filters that each layer keeps at least.
        multiple: layers keep a multiple of this.
        protect: patterns of parameters whose filters stay.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> [type(p).__name__ for p in slimming(training, training, 0.5)]
        ['Train', 'PruneUnits', 'Train', 'Measure']

    Source: Liu, Li, Shen, Huang, Yan and Zhang (2017), section 3; λ is 1e-4 to 1e-5 there.
    Differs from the paper: layers that a residual sum ties together lose the same filters, ranked
    by the sum of their γ, where the paper selects channels in front of each block.
    """
    prune = PruneUnits(
        keep=keep,
        criterion=network_slimming,
        layers=conv,
        ranked_together=True,
        normalise=False,
        floor=floor,
        multiple=multiple,
        protect=protect,
    )
    return _around(
        prune,
        replace(train, regularisation=replace(train.regularisation, l1=l1, l1_layers=norm_scales)),
        retrain,
    )


def _around(prune: PruneUnits, train: Training, retrain: Training) -> Recipe:
    dense, again = (
        Train(training=train, label="dense"),
        Train(training=replace(retrain, shuffle_index=1)),
    )
    return (dense, prune, again, Measure())
