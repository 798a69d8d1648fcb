"""Select units by a criterion, and gather the evidence that it needs."""

import warnings
from collections.abc import Callable, Iterable, Sequence

from boxwood._internal.core.arguments import check_kind
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.graph.budgets import Budget
from boxwood._internal.graph.ranking import best_units
from boxwood._internal.graph.scoring import UnitScores, score_units
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.units import Group, Units
from boxwood._internal.model.evidence.calibration import Batches, Calibration, Loss
from boxwood._internal.model.evidence.gathering import COLLECTORS, Evidence, gather
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.model.scoring import Criterion
from boxwood.errors import SelectionWarning


def select_units(
    units: Units,
    keep: float | None = None,
    *,
    budget: Budget | None = None,
    criterion: Criterion = magnitude,
    batches: Batches = (),
    loss: Loss | None = None,
    layers: Layers = linear_and_conv,
    normalise: bool = True,
    ranked_together: bool = False,
    floor: int = 1,
    multiple: int | Callable[[Group], int] = 1,
    protect: Sequence[str] = (),
) -> UnitSelection:
    """Choose the units to keep, by any criterion; its evidence is gathered from batches.

    Args:
        units: of the network.
        keep: fraction of units to keep, in (0, 1], of every group or over all together; 0.5 if
            neither this nor a budget is given.
        budget: instead of ``keep``: keep as many units as this allows.
        criterion: scores weights or filters; the scores of all weights of a unit are added up.
        batches: batches for the criterion, as for `boxwood.find_masks`: pairs (inputs, targets), or
            inputs alone if the criterion needs no loss.
        loss: a function of outputs and targets that returns the mean over a batch, for criteria
            that need gradients.
        layers: the parameters to score, if the criterion needs more than weights.
        normalise: divide scores by the mean of each group, so that groups can be compared.
        ranked_together: rank all groups together; by default each group keeps its share.
        floor: the least number of units that each group keeps.
        multiple: every group keeps a multiple of this many units, if it has as many.
        protect: patterns of parameter names, as in a shell; units that have weights in a matching
            parameter are kept.

    Raises:
        InvalidInput: a number is out of range, a pattern matches nothing, the budget cannot be met,
            or batches or a loss are missing.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from boxwood import find_units
        >>> from boxwood.criteria import wanda
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
        >>> select_units(find_units(net, x), 0.5, criterion=wanda, batches=[x]).removed
        4
    """
    scores = unit_scores(
        units, criterion, batches=batches, loss=loss, layers=layers, normalise=normalise
    )
    return best_units(
        units,
        scores,
        0.5 if keep is None and budget is None else keep,
        budget=budget,
        ranked_together=ranked_together,
        floor=floor,
        multiple=multiple,
        protect=protect,
    )


def unit_scores(
    units: Units,
    criterion: Criterion = magnitude,
    *,
    batches: Batches = (),
    loss: Loss | None = None,
    layers: Layers = linear_and_conv,
    normalise: bool = True,
) -> UnitScores:
    """Score units by any criterion: what it asks for is gathered from batches.

    Args:
        units: of the network.
        criterion: scores weights or filters; the scores of all weights of a unit are added up.
        batches: what is shown to the network: pairs (inputs, targets), or inputs alone.
        loss: a function of outputs and targets that returns the mean over a batch, for criteria
            that need gradients.
        layers: the parameters to score, if the criterion needs more than weights.
        normalise: divide scores by the mean of each group, so that groups can be compared.

    Returns:
        float64 [units], higher is kept.

    Raises:
        InvalidInput: batches or a loss are missing, or a score is not finite.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from boxwood import find_units
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
        >>> unit_scores(find_units(net, torch.ones(1, 1))).shape
        (2,)
    """
    do = "give what find_units(model, example) returns"
    check_kind(units, Units, "the units of a network", do)
    evidence = _evidence(units, criterion, batches, loss, layers)
    return score_units(units, criterion, evidence=evidence, normalise=normalise)


def _evidence(
    units: Units, criterion: Criterion, batches: Batches, loss: Loss | None, layers: Layers
) -> Evidence:
    """Gather what a criterion asks for, of the weights that units own."""
    needs: Iterable[str] = evidence_of(criterion)
    if not set(needs) & set(COLLECTORS):
        return {}
    owned = {name for axis in units.axes for name in axis.names}
    with warnings.catch_warnings():
        # They speak of single weights, where a unit goes with all that it owns.
        warnings.simplefilter("ignore", SelectionWarning)
        weights = {n: p for n, p in layers(units.model).items() if n in owned}
    return gather(needs, Calibration(units.model, weights, batches, loss))
