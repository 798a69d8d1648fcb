"""Train to a minimum under the current masks."""

from dataclasses import asdict, dataclass
from typing import ClassVar

from boxwood._internal.core import spec
from boxwood._internal.core.examples import InBatches
from boxwood._internal.recipes.phase import State, World, state_of
from boxwood._internal.train.losses import Loss
from boxwood._internal.train.minimum import minimise_


@dataclass(frozen=True, kw_only=True)
class Descend:
    """Train the network to a minimum of the training loss; pruned weights stay zero.

    Args:
        loss: outputs and targets to the mean over a batch.
        decay: strength of a penalty ``decay · Σ w²`` on all parameters; a small one gives the loss
            a minimum.
        gradient: stop when the gradient's norm is at most this; below about 1e-4 the network and
            its inputs must be float64: ``.double()`` and
            `InFloat64`.
        iterations: of L-BFGS at most.
        batch: examples at a time; it changes memory only.
        label: a name for later phases.

    Source: LeCun, Denker and Solla (1990), section 2: second derivatives give the rise of the loss
    only at a minimum.
    """

    revision: ClassVar[int] = 1  # 0: steps of little curvature taught L-BFGS nothing

    loss: Loss
    decay: float = 0.0
    gradient: float = 1e-3
    iterations: int = 2000
    batch: int = 2048
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Train; the facts hold the loss, the norm of its gradient and the iterations."""
        model = world.network(state)
        minimum = minimise_(
            model,
            InBatches(world.data.train, self.batch),
            self.loss,
            masks=state.masks,
            decay=self.decay,
            gradient=self.gradient,
            iterations=self.iterations,
        )
        return state_of(model, state.masks, asdict(minimum))
