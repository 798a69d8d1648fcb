"""Train, prune, retrain: the recipes of Han, Pool, Tran and Dally (2015)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from boxwood._internal.core.allocation import Allocation, global_
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.generators import own_random_numbers
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.model.layer_kinds import linear_kinds
from boxwood._internal.model.prunable import parameter_names
from boxwood._internal.model.scoring import Criterion
from boxwood._internal.recipes.phase import Recipe
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.rewind import Reinitialise
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.recipes.training_budget import checked_length
from boxwood._internal.train.settings import Training

Retraining = Callable[[int], Recipe]
"""The round (0, 1, …) to the phases that retrain after it."""


def dense(train: Training, *, as_long_as: Recipe | None = None) -> Recipe:
    """Train without pruning: the reference of every comparison.

    Args:
        train: how, and how long.
        as_long_as: a recipe whose last network was trained for longer, such as one that retrains;
            the dense training then has the same number of epochs or steps, with its learning-rate
            schedule stretched over them.

    Raises:
        InvalidInput: that recipe's training is counted in other units than ``train``.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=10, batch=60, optimizer=SGD(lr=0.1))
        >>> [type(p).__name__ for p in dense(training)]
        ['Train', 'Measure']
        >>> dense(training, as_long_as=iterative(training, training, (0.5, 0.8)))[0].training.epochs
        30
    """
    if as_long_as is not None:
        unit = "steps" if train.epochs is None else f"epochs of batches of {train.batch}"
        length = train.start_at + checked_length(as_long_as, unit)
        train = (
            replace(train, steps=length, stop_at=None)
            if train.epochs is None
            else replace(train, epochs=length, stop_at=None)
        )
    return (Train(training=train, label="dense"), Measure())


def iterative(
    train: Training,
    retraining: Training | Retraining,
    sparsities: Sequence[float],
    *,
    criterion: Criterion = magnitude,
    allocation: Allocation = global_,
    granularity: Granularity = Elements(),
    dead: bool = True,
) -> Recipe:
    """Train, then prune and retrain at each of several rising sparsities, and measure after every round.

    One sparsity is the three-step recipe; several are the iterative one.

    Args:
        train: the dense training.
        retraining: how to retrain: phases, or a function of the round, such as `alternating`
            returns.
        sparsities: total fraction of zeros after each round.
        criterion: as for `boxwood.find_masks`; ``magnitude_over_std`` ranks by quality × std.
        allocation: as for `boxwood.find_masks`.
        granularity: as for `boxwood.find_masks`.
        dead: remove dead neurons after every pruning, and count them as pruned: each of
            ``sparsities`` is met without them. For plain feed-forward networks.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> [type(p).__name__ for p in iterative(training, training, (0.5,), dead=False)]
        ['Train', 'Prune', 'Train', 'Measure']

    Source: Han, Pool, Tran and Dally (2015), sections 3 and 3.4.
    """
    phases: Recipe = (Train(training=train, label="dense"),)
    for round_, sparsity in enumerate(sparsities):
        phases += (
            Prune(
                sparsity=sparsity,
                criterion=criterion,
                allocation=allocation,
                granularity=granularity,
                effective=dead,
            ),
        )
        phases += (*_retrain(retraining, round_), Measure(label=f"round-{round_ + 1}"))
    return phases


def one_shot(
    train: Training,
    retraining: Training | Retraining | None,
    sparsity: float,
    *,
    criterion: Criterion = magnitude,
    allocation: Allocation = global_,
    granularity: Granularity = Elements(),
    dead: bool = True,
) -> Recipe:
    """Train, prune once to the final sparsity, and retrain, or not with ``retraining=None``.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.1))
        >>> [type(p).__name__ for p in one_shot(training, None, 0.5, dead=False)]
        ['Train', 'Prune', 'Measure']
    """
    pruned = (
        Train(training=train, label="dense"),
        Prune(
            sparsity=sparsity,
            criterion=criterion,
            allocation=allocation,
            granularity=granularity,
            effective=dead,
        ),
    )
    after = () if retraining is None else _retrain(retraining, 0)
    return (*pruned, *after, Measure())


def reinitialised(recipe: Recipe, train: Training) -> Recipe:
    """Train the network that a recipe found from fresh initial weights: the control.

    Args:
        recipe: ends with the masks in question.
        train: the training from scratch.

    Source: Han, Pool, Tran and Dally (2015), section 3.3: keeping the survivors is better.
    """
    return (*recipe, Reinitialise(), Train(training=train), Measure())


def alternating(retrain: Training, model: Callable[[], nn.Module]) -> Retraining:
    """Retrain locally: the linear layers with all others frozen, then the reverse.

    A network with only linear layers, or without any, is retrained as a whole, twice.

    Args:
        retrain: used for both halves, with its epochs or steps each; dropout is corrected, as after
            every pruning of these recipes.
        model: returns the network that is pruned.

    Example:
        >>> from boxwood.optim import SGD
        >>> from boxwood.networks import lenet_5, lenet_300_100
        >>> training = Training(epochs=1, batch=60, optimizer=SGD(lr=0.01))
        >>> [half.training.frozen[0] for half in alternating(training, lenet_5)(0)]
        ['conv1.weight', 'fc1.weight']
        >>> [half.training.frozen for half in alternating(training, lenet_300_100)(0)]
        [(), ()]

    Source: Han, Pool, Tran and Dally (2015), section 3.3: local pruning and co-adaptation.
    """
    with own_random_numbers():
        network = model()
    layers = [module for module in network.modules() if isinstance(module, linear_kinds())]
    linear = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}
    names = parameter_names(network)
    within = tuple(name for name, parameter in names.items() if id(parameter) in linear)
    without = tuple(name for name in names if name not in within)
    halves = (without, within) if without and within else ((), ())

    def phases(round_: int) -> Recipe:
        return tuple(
            Train(
                training=replace(retrain, frozen=frozen, shuffle_index=2 * round_ + half + 1),
                correct_dropout=True,
            )
            for half, frozen in enumerate(halves)
        )

    return phases


def _retrain(retraining: Training | Retraining, round_: int) -> Recipe:
    if isinstance(retraining, Training):
        # Each round sees the examples in an order of its own; 0 is the dense training's.
        return (
            Train(training=replace(retraining, shuffle_index=round_ + 1), correct_dropout=True),
        )
    return retraining(round_)
