"""Methods and controls for comparisons: each a function of a task and a sparsity that returns a recipe.

All take the task's steps, all trainings of a recipe together. Those that begin with a dense training
give it half of them, and the other half to retraining, at the same rate and along the same schedule
(learning-rate rewinding, Renda, Frankle and Carbin 2020).
"""

from collections.abc import Callable
from typing import Any

from boxwood._internal.core.allocation import Allocation, global_, uniform
from boxwood._internal.core.allocation_by_layer import erdos_renyi_kernel, lamp
from boxwood._internal.core.alternating_policies import ACDC
from boxwood._internal.core.criteria.gradients import grasp, snip, synflow, taylor
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.growing_policies import MEST, SNFS, GraNet
from boxwood._internal.core.policies import Gradual, Policy, Static, gmp_star
from boxwood._internal.core.replacing_policies import SET, RigL
from boxwood._internal.core.returning_policies import MovementPruning, TopKAST
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.core.shuffles import within_layers
from boxwood._internal.model.scoring import Criterion
from boxwood._internal.recipes.at_initialisation import prune_at_initialisation
from boxwood._internal.recipes.phase import Phase, Recipe
from boxwood._internal.recipes.phases.controls import ShuffleMasks
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.recipes.task import ComparisonTask, Method

_EVIDENCE = 1000
_UPDATES = 20
"""Updates of masks in a training; the first comes after a twentieth of it."""


def three_step(
    allocation: Allocation = global_, criterion: Criterion = magnitude, *between: Phase
) -> Method:
    """Return the method that trains, prunes once, and retrains for as long.

    Args:
        allocation: how the sparsity is distributed.
        criterion: scores the weights.
        between: phases after the pruning.

    Source: Han, Pool, Tran and Dally (2015), with the rates of Renda, Frankle and Carbin (2020).
    """

    def recipe(task: ComparisonTask, sparsity: float) -> Recipe:
        seen = criterion is not magnitude
        prune = Prune(
            sparsity=sparsity, criterion=criterion, allocation=allocation, layers=task.layers,
            loss=task.train.loss if seen else None, evidence=_EVIDENCE if seen else None,
        )  # fmt: skip
        return _halves(task, prune, *between)

    return recipe


def at_start(criterion: Criterion) -> Method:
    """Return the method that prunes the untrained network and trains what is left."""

    def recipe(task: ComparisonTask, sparsity: float) -> Recipe:
        return prune_at_initialisation(
            task.train, sparsity, criterion=criterion, layers=task.layers, measure=task.measure
        )

    return recipe


def under(policy: Callable[[float, int, int], Policy]) -> Method:
    """Return the method that trains under a policy.

    Args:
        policy: the sparsity, the step from which masks stay (three quarters of the training) and the
            steps between updates, to a policy.
    """

    def recipe(task: ComparisonTask, sparsity: float) -> Recipe:
        every = max(1, task.steps // _UPDATES)
        until = max(2 * every, 3 * task.steps // 4 // every * every)
        return (Train(training=task.pruned_by(policy(sparsity, until, every))), task.measure)

    return recipe


def acdc(task: ComparisonTask, sparsity: float) -> Recipe:
    """AC/DC in the proportions of the paper: ten phases of a twentieth, the last one twice as long.

    Source: Peste, Iofinova, Vladu and Alistarh (2021), section 4.
    """
    phase = max(1, task.steps // 20)
    policy = ACDC(sparsity, begin=2 * phase, end=17 * phase, every=phase, last=2 * phase)
    return (Train(training=task.pruned_by(policy)), task.measure)


def dense(task: ComparisonTask) -> Recipe:
    """The control that prunes nothing, trained for as long."""
    return (Train(training=task.train, label="dense"), task.measure)


def trained_on(task: ComparisonTask) -> Recipe:
    """The control that is trained as three-step methods are, but not pruned between the halves."""
    return _halves(task)


def random_places(draw: int) -> Method:
    """Return the control that keeps as many weights of each layer as global magnitude, at random places.

    Args:
        draw: which of the seed's random masks.
    """
    return three_step(
        global_, magnitude, ShuffleMasks(how=within_layers, values="dense", index=draw)
    )


def _halves(task: ComparisonTask, *between: Phase) -> Recipe:
    first = task.steps // 2
    return (
        Train(training=task.part(first), label="dense"),
        *between,
        Train(training=task.part(task.steps - first, shuffle_index=1)),
        task.measure,
    )


def _gradual(allocation: Allocation) -> Callable[[float, int, int], Policy]:
    def policy(sparsity: float, until: int, every: int) -> Policy:
        schedule = Cubic(final=sparsity, begin=2 * every, end=until)
        return Gradual(schedule=schedule, every=every, allocation=allocation)

    return policy


def _replacing(kind: Callable[..., Policy], **settings: Any) -> Callable[[float, int, int], Policy]:
    return lambda sparsity, until, every: kind(sparsity, until=until, every=every, **settings)


METHODS: dict[str, Method] = {
    "three-step, LAMP": three_step(lamp),
    "three-step, ERK": three_step(erdos_renyi_kernel),
    "three-step, Taylor": three_step(global_, taylor),
    "gradual, layer-wise": under(_gradual(uniform)),
    "gradual, global": under(_gradual(global_)),
    "GMP*": under(
        lambda sparsity, until, every: gmp_star(
            sparsity, begin=2 * every, end=until, every=every, initial=min(0.5, sparsity)
        )
    ),
    "AC/DC": acdc,
    "GraNet": under(_replacing(GraNet)),
    "RigL": under(_replacing(RigL, allocation=erdos_renyi_kernel)),
    "SET": under(_replacing(SET, allocation=erdos_renyi_kernel)),
    "SNFS": under(_replacing(SNFS)),
    "MEST": under(_replacing(MEST)),
    "Top-KAST": under(
        lambda sparsity, until, every: TopKAST(  # noqa: ARG005 - it has no end
            sparsity, backward_sparsity=0.8 * sparsity, every=every
        )
    ),
    "movement, with return": under(
        lambda sparsity, until, every: MovementPruning(
            Cubic(final=sparsity, begin=2 * every, end=until), every=every
        )
    ),
    "static, ERK": under(
        lambda sparsity, until, every: Static(sparsity, allocation=erdos_renyi_kernel)  # noqa: ARG005
    ),
    "SNIP": at_start(snip),
    "GraSP": at_start(grasp),
    "SynFlow": at_start(synflow),
}
"""Methods by name; a comparison may take some of them, and others."""

CONTROLS: dict[str, Method | tuple[Method, ...]] = {
    "magnitude, global": three_step(global_),
    "magnitude, layer-wise": three_step(uniform),
    "random places": tuple(random_places(draw) for draw in (1, 2, 3)),
}
"""Controls by name, next to the dense ones; of several draws the mean counts."""
