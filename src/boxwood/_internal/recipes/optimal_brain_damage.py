"""Delete the weights whose removal costs least by the second derivatives of the loss, and retrain."""

from collections.abc import Sequence
from dataclasses import replace

from boxwood._internal.core.allocation import Allocation, global_
from boxwood._internal.core.call import Call
from boxwood._internal.core.criteria.curvature import obd as saliency
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.model.scoring import Criterion
from boxwood._internal.recipes.phase import Phase, Recipe
from boxwood._internal.recipes.phases.descend import Descend
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.train.losses import Loss
from boxwood._internal.train.settings import Training


def optimal_brain_damage(
    train: Training | Descend,
    retrain: Training | Descend,
    sparsities: Sequence[float],
    *,
    loss: Loss,
    criterion: Criterion | None = None,
    allocation: Allocation = global_,
    granularity: Granularity = Elements(),
    layers: Layers = linear_and_conv,
    examples: int | None = None,
) -> Recipe:
    """Train to a minimum, then delete, retrain and measure at each of several rising sparsities.

    Standardise every input by itself. If many inputs share an offset, as with one mean for all
    pixels, the off-diagonal terms that the method ignores are larger than the diagonal, and
    magnitude does better.

    Args:
        train: the dense training; `Descend` goes to a minimum, where the theory holds.
        retrain: the training after each deletion.
        sparsities: total fraction of zeros after each.
        loss: the mean over a batch, whose second derivatives count.
        criterion: `boxwood.criteria.obd` of the loss that `Descend`
            minimises, its penalty included, if None; or another to compare it with.
        allocation: as for `boxwood.find_masks`.
        granularity: as for `boxwood.find_masks`.
        layers: as for `boxwood.find_masks`.
        examples: number of training examples that the criterion sees; None for all.

    Example:
        >>> from boxwood.training import squared_error
        >>> go = Descend(loss=squared_error)
        >>> steps = optimal_brain_damage(go, go, (0.3, 0.6), loss=squared_error)
        >>> [type(phase).__name__ for phase in steps][:5]
        ['Descend', 'Measure', 'Prune', 'Descend', 'Measure']

    Source: LeCun, Denker and Solla (1990), section 2.3.
    Differs from the paper: biases are not deleted unless ``layers`` says so. A deleted weight stays
    deleted; the paper also tries to let it adapt again, or to shrink it instead.
    """
    decay = train.decay if isinstance(train, Descend) else 0.0
    criterion = criterion or (Call.of(saliency, decay=decay) if decay else saliency)
    phases: Recipe = (_training(train, 0), Measure(label="dense"))
    for round_, sparsity in enumerate(sparsities, 1):
        phases += (
            Prune(
                sparsity=sparsity,
                criterion=criterion,
                allocation=allocation,
                granularity=granularity,
                layers=layers,
                loss=loss,
                evidence=examples,
            ),
            _training(retrain, round_),
            Measure(label=f"{sparsity:g}"),
        )
    return phases


def _training(how: Training | Descend, round_: int) -> Phase:
    if isinstance(how, Descend):
        return how
    # Each round sees the examples in an order of its own; 0 is the dense training's.
    return Train(training=replace(how, shuffle_index=how.shuffle_index + round_))
