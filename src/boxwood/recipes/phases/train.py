"""Train under the masks as they are."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from boxwood.core import spec
from boxwood.model.dropout import corrected_dropout, set_dropout_
from boxwood.recipes.phase import State, World, state_of
from boxwood.train.loop import Fit, fit_
from boxwood.train.metrics import accuracy


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train the network; what is pruned stays zero.

    Args:
        fit: how.
        correct_dropout: scale dropout rates by the connections that are left, as Han et al. do.
        label: a name for later phases.

    Source of ``correct_dropout``: Han, Pool, Tran and Dally (2015), section 3.2, equation 2.
    """

    revision: ClassVar[int] = 0

    fit: Fit
    correct_dropout: bool = False
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Train; the facts hold the loss and the validation accuracy of every epoch."""
        model = world.network(state)
        if self.correct_dropout:
            set_dropout_(model, corrected_dropout(model, state.masks))

        def watch(network: nn.Module) -> dict[str, float]:
            return {"validation": accuracy(network, world.data.validation).fraction}

        history = fit_(
            model,
            world.data.train,
            self.fit,
            seed=world.seed,
            masks=state.masks,
            watch=watch,
            checkpoints=world.checkpoints,
            progress=world.progress,
        )
        return state_of(model, state.masks, {"history": history, "epochs": self.fit.epochs})
