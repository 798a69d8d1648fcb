"""Remove whole units: filters, channels, heads and hidden units, as masks over all that they own."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from boxwood.core import spec
from boxwood.core.criteria import magnitude
from boxwood.core.errors import BoxwoodError
from boxwood.core.masks import combine, sparsity
from boxwood.graph.keep import Budget, Keep
from boxwood.graph.reference import restatements
from boxwood.graph.surgery import cuts_of
from boxwood.graph.units import units
from boxwood.graph.verify import shrink, verify
from boxwood.model.oneshot import project_
from boxwood.model.scoring import Criterion
from boxwood.recipes.phase import State, World, state_of


@dataclass(frozen=True, kw_only=True)
class PruneUnits:
    """Prune units; the state holds them as masks, and the facts the proof that they can be cut.

    Training goes on under the masks, on the network as it is written; by the law that the facts
    state, that is training the smaller network. `boxwood.graph.verify.shrink` cuts it out.

    Args:
        keep: fraction of units of every group that stay; None with a budget.
        within: a budget instead.
        criterion: scores weights; what a unit owns is added up.
        floor, multiple, protect, ranked_together: as for `boxwood.graph.keep.keep_best`.
        label: a name for later phases.
    """

    revision: ClassVar[int] = 0

    keep: float | None = None
    within: Budget | None = None
    criterion: Criterion = magnitude
    floor: int = 1
    multiple: int = 1
    protect: tuple[str, ...] = ()
    ranked_together: bool = False
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Prune; the facts hold what each group keeps, and the certificate."""
        model = world.network(state)
        example, _ = world.data.validation.take(torch.arange(min(2, len(world.data.validation))))
        kept = units(model, example.to(world.device)).keep_best(
            self.keep,
            within=self.within,
            criterion=self.criterion,
            floor=self.floor,
            multiple=self.multiple,
            protect=self.protect,
            ranked_together=self.ranked_together,
        )
        if restatements(kept):
            raise BoxwoodError(
                f"Expected a network whose statistics span no removed channels, got "
                f"{restatements(kept)[0]}; shrink it with boxwood.graph.verify.shrink, and train "
                "the smaller network."
            )
        certificate = verify(model, shrink(model, kept), kept)
        masks = combine(state.masks, masks_of(kept))
        project_(model, masks)
        facts = {
            "kept": {g.name: int(kept.kept[g.units].sum()) for g in kept.units.groups},
            "sparsity": sparsity(masks),
            "proved": certificate.proved,
            "units": list(certificate.units),
            "parameters": list(certificate.parameters),
            "multiply_adds": list(certificate.multiply_adds),
        }
        return state_of(model, masks, facts)


def masks_of(keep: Keep) -> dict[str, torch.Tensor]:
    """Write what is kept of units as masks over the parameters that lose something.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> keep = units(net, torch.ones(1, 1)).keep_best(0.5)
        >>> {name: int(mask.sum()) for name, mask in masks_of(keep).items()}
        {'0.weight': 1, '1.weight': 1}
    """
    masks = {}
    for name, cuts in cuts_of(keep).items():
        if name in keep.units.shapes:
            mask = torch.ones(keep.units.shapes[name], dtype=torch.bool)
            for dim, indices in cuts:
                stays = torch.zeros(mask.shape[dim], dtype=torch.bool)
                stays[indices] = True
                mask &= stays.view([-1 if axis == dim else 1 for axis in range(mask.dim())])
            masks[name] = mask
    return masks
