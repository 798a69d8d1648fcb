"""Remove whole units (filters, channels, heads, hidden units), as masks over all their weights."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from boxwood._internal.core import spec
from boxwood._internal.core.chance import draws, seeded
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.examples import InBatches
from boxwood._internal.core.masks import Masks, combine, sparsity
from boxwood._internal.core.seeds import seed_for
from boxwood._internal.data.splits import Splits
from boxwood._internal.graph.budgets import Budget
from boxwood._internal.graph.constraints import Kept
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.ranking import best_units
from boxwood._internal.graph.reference import restatements
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.surgery import cuts_of
from boxwood._internal.graph.units import Units, find_units
from boxwood._internal.model.evidence.calibration import Loss
from boxwood._internal.model.oneshot import apply_masks_
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.model.scoring import Criterion
from boxwood._internal.recipes.phase import State, World, state_of
from boxwood._internal.recipes.unit_selection import unit_scores
from boxwood._internal.train.metrics import device_of
from boxwood.errors import InvalidInput

_BATCH = 250


@dataclass(frozen=True, kw_only=True)
class PruneUnits:
    """Prune units. The state has them as masks, and the facts have the result of the equivalence check.

    Training continues under the masks, on the original network. This is equivalent to training the
    smaller network, as the check in the facts shows. `boxwood.shrink` builds the smaller network.

    Args:
        keep: fraction of units of every group that stay; None with a budget.
        budget: a limit instead.
        criterion: scores weights or filters; the scores of all weights of a unit are added up. As
            for `Prune`, one that
            scores by chance takes its numbers from the run's seed.
        floor, multiple, protect, ranked_together: as for `boxwood.select_units`.
        normalise: as for `boxwood.structure.score_units`.
        layers: the parameters to score, if the criterion needs more than weights.
        loss: a function of outputs and targets that returns the mean over a batch, for criteria
            that need gradients.
        evidence: number of training examples, from the first on, that such criteria see.
        label: a name for later phases.
    """

    keep: float | None = None
    budget: Budget | None = None
    criterion: Criterion = magnitude
    floor: int = 1
    multiple: int = 1
    protect: tuple[str, ...] = ()
    ranked_together: bool = False
    normalise: bool = spec.field(True, legacy=True)
    layers: Layers = spec.field(linear_and_conv, legacy=linear_and_conv)  # noqa: RUF009
    loss: Loss | None = spec.field(None, legacy=None)  # noqa: RUF009 - a declaration
    evidence: int = spec.field(1000, legacy=1000)
    label: str = spec.field("", identity=False)

    @property
    def revision(self) -> int:
        """1 for criteria that score by chance: their numbers were once the same for every seed."""
        return int(draws(self.criterion))

    def run(self, state: State, world: World) -> State:
        """Prune; the facts hold what each group keeps, and the report."""
        model = world.network(state)
        found = units_of(model, world.data)
        scores = unit_scores(
            found,
            seeded(self.criterion, seed_for(world.seed, "criterion")),
            batches=InBatches(world.data.train, _BATCH, self.evidence),
            loss=self.loss,
            layers=self.layers,
            normalise=self.normalise,
        )
        selection = best_units(
            found,
            scores,
            self.keep,
            budget=self.budget,
            floor=self.floor,
            multiple=self.multiple,
            protect=self.protect,
            ranked_together=self.ranked_together,
        )
        return remove(model, selection, state)


def remove(model: nn.Module, selection: UnitSelection, state: State) -> State:
    """Write a removal as masks, after a check that it can be cut out.

    Args:
        model: with the weights of the state; what is removed becomes zero in it.
        selection: what stays of it.
        state: whose masks stay too.

    Returns:
        Weights, masks, and facts: what each group keeps, and the report.

    Raises:
        InvalidInput: statistics of a normalisation span what is removed.
    """
    if restatements(selection):
        raise InvalidInput(
            f"Expected a network whose statistics span no removed channels, got "
            f"{restatements(selection)[0]}; shrink it with boxwood.shrink, and train "
            "the smaller network."
        )
    report = check_equivalence(model, shrink(model, selection), selection)
    masks = combine(state.masks, masks_of(selection))
    apply_masks_(model, masks)
    facts = {
        "kept": {g.name: int(selection.kept[g.units].sum()) for g in selection.units.groups},
        "sparsity": sparsity(masks),
        "equivalent": report.equivalent,
        "units": list(report.units),
        "parameters": list(report.parameters),
        "multiply_adds": list(report.multiply_adds),
    }
    return state_of(model, masks, facts)


def units_of(model: nn.Module, data: Splits) -> Units:
    """Find the units of a network, on the first validation examples."""
    example, _ = data.validation.take(torch.arange(min(2, len(data.validation))))
    return find_units(model, example.to(device_of(model)))


def kept_under(found: Units, masks: Masks) -> Kept:
    """Say which units masks leave: all but those of which every weight is masked.

    Raises:
        InvalidInput: the masks take more away than whole units.

    Example:
        >>> import boxwood
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> selection = boxwood.select_units(find_units(net, torch.ones(1, 1)), 0.5)
        >>> (kept_under(selection.units, masks_of(selection)) == selection.kept).all()
        np.True_
    """
    kept = np.ones(len(found), dtype=np.bool_)
    for axis in found.axes:
        mask = masks.get(axis.names[0])
        if mask is not None:
            gone = ~mask.movedim(axis.dim, 0).reshape(mask.shape[axis.dim], -1).any(1)
            lost = axis.units[gone.cpu().numpy()]
            kept[lost[lost >= 0]] = False
    whole = masks_of(UnitSelection(found, kept))
    for name, mask in masks.items():
        if int(mask.sum()) != int(whole.get(name, torch.ones_like(mask)).sum()):
            raise InvalidInput(
                f"Expected masks that take whole units away, got one of {name!r} with "
                f"{int((~mask).sum())} single weights masked; remove units first, weights last."
            )
    return kept


def masks_of(selection: UnitSelection) -> dict[str, torch.Tensor]:
    """Write what is kept of units as masks over the parameters that lose something.

    Example:
        >>> import boxwood
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> selection = boxwood.select_units(find_units(net, torch.ones(1, 1)), 0.5)
        >>> {name: int(mask.sum()) for name, mask in masks_of(selection).items()}
        {'0.weight': 1, '1.weight': 1}
    """
    masks = {}
    for name, cuts in cuts_of(selection).items():
        if name in selection.units.shapes:
            mask = torch.ones(selection.units.shapes[name], dtype=torch.bool)
            for dim, indices in cuts:
                stays = torch.zeros(mask.shape[dim], dtype=torch.bool)
                stays[indices] = True
                mask &= stays.view([-1 if axis == dim else 1 for axis in range(mask.dim())])
            masks[name] = mask
    return masks
