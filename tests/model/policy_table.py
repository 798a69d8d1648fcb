"""Every policy of masks that change while a network trains, for what is held to all of them."""

from typing import Any

from boxwood.criteria import taylor
from boxwood.granularity import NofM
from boxwood.policies import (
    ACDC,
    MEST,
    SET,
    SNFS,
    SRSTE,
    STR,
    Gradual,
    GraNet,
    LayerByLayer,
    MovementPruning,
    RigL,
    SRigL,
    Static,
    TopKAST,
)
from boxwood.schedules import Cubic


def policies(*, end: int, every: int) -> dict[str, Any]:
    """Make one of each kind, whose masks change every so often until an end.

    Args:
        end: step after which masks stay.
        every: steps from one update to the next; only STR's masks change at each step.
    """
    turns = {"until": end, "every": every}
    schedule = Cubic(final=0.8, end=end)
    return {
        "Static": Static(sparsity=0.5),
        "SET": SET(sparsity=0.5, **turns),
        "RigL": RigL(sparsity=0.5, **turns),
        "MEST": MEST(sparsity=0.5, **turns),
        "SNFS": SNFS(sparsity=0.5, **turns),
        "SRigL": SRigL(sparsity=0.5, **turns),
        "GraNet": GraNet(sparsity=0.5, **turns),
        "Gradual": Gradual(schedule=schedule, every=every),
        "Gradual by Taylor": Gradual(schedule=schedule, every=every, criterion=taylor),
        "LayerByLayer": LayerByLayer(final=0.8, end=end, every=every),
        "MovementPruning": MovementPruning(schedule=schedule, every=every),
        "TopKAST": TopKAST(0.8, backward_sparsity=0.5, every=every),
        "SRSTE": SRSTE(NofM(2, 4), every=every),
        "ACDC": ACDC(0.5, begin=every, end=every * end, every=every),
        "STR": STR(initial=-2.0, decay=0.01),
    }
