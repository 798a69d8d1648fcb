"""Remove neurons and filters that pruning left without inputs or without outputs."""

from dataclasses import dataclass
from typing import ClassVar

from boxwood._internal.core import spec
from boxwood._internal.core.masks import sparsity
from boxwood._internal.model.dead import remove_dead_
from boxwood._internal.recipes.phase import State, World, state_of


@dataclass(frozen=True, kw_only=True)
class RemoveDead:
    """Prune the remaining inputs and outputs of dead units until there are none; the network's outputs do not change.

    Source: Han, Pool, Tran and Dally (2015), section 3.5.
    Differs from the paper: removed at once rather than left to weight decay, and the constant that
    a unit without inputs emits moves into the next bias.
    """

    revision: ClassVar[int] = 0

    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Remove; the facts hold how many units went, and which constants had to stay."""
        model = world.network(state)
        done = remove_dead_(model, state.masks, world.data.shape)
        facts = {
            "removed": dict(done.removed),
            "kept_constant": dict(done.kept_constant),
            "sparsity": sparsity(done.masks),
        }
        return state_of(model, done.masks, facts)
