"""Reset the remaining weights to their values from an earlier phase, or to fresh ones."""

from dataclasses import dataclass
from typing import ClassVar

from boxwood._internal.core import spec
from boxwood._internal.core.masks import apply
from boxwood._internal.recipes.phase import State, World, state_of


@dataclass(frozen=True, kw_only=True)
class Rewind:
    """Reset the weights to those of an earlier phase, under the current masks.

    Args:
        to: label of that phase, or ``"genesis"``.
        label: a name for later phases.

    Source: Frankle and Carbin (2019), section 1.
    """

    revision: ClassVar[int] = 0

    to: str = "genesis"
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Rewind."""
        return State(apply(world.earlier(self.to).weights, state.masks), state.masks)


@dataclass(frozen=True, kw_only=True)
class Reinitialise:
    """Draw fresh initial weights under the current masks: the control of keeping the weights.

    Args:
        index: which of the seed's initialisations; 0 is the one that the run started from.
        label: a name for later phases.

    Source: Han, Pool, Tran and Dally (2015), section 3.3; Frankle and Carbin (2019), section 1.
    """

    revision: ClassVar[int] = 0

    index: int = 1
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Draw the weights."""
        fresh = state_of(world.genesis.build(self.index), state.masks, {})
        return State(apply(fresh.weights, state.masks), state.masks)
