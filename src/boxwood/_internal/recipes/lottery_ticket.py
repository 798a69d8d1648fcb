"""Lottery tickets: prune, put the survivors back to their initial values, train again.

A ticket is ``train, (prune, rewind, train) × levels``. Its controls take the ticket's recipe and a
level, keep everything up to the pruning of that level, and go on differently, so they share what
the ticket computed.

Source: Frankle and Carbin (2019); Frankle, Dziugaite, Roy and Carbin (2019, 2020) for rewinding.
"""

from collections.abc import Callable
from dataclasses import replace

from boxwood._internal.core.allocation import ByName
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.core.shuffles import Shuffle, within_layers
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.recipes.phase import Phase, Recipe
from boxwood._internal.recipes.phases.controls import AddNoise, MasksFrom, Resample, ShuffleMasks
from boxwood._internal.recipes.phases.interpolate import Interpolate
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.prune import Prune
from boxwood._internal.recipes.phases.rewind import Reinitialise, Rewind
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.train.settings import Training
from boxwood.errors import InvalidInput

Pruning = Callable[[int], Prune]
"""A level (1, 2, …) to the phase that prunes as far as that level goes."""


def layerwise_rates(*rates: tuple[str, float], granularity: Granularity = Elements()) -> Pruning:
    """Prune each layer by itself; each level removes a fraction of its remaining weights.

    A layer of n weights keeps ``round((1 - rate)^level · n)`` at ``level``. The count starts from
    the whole layer, so rounding errors do not accumulate.

    Args:
        rates: (pattern, rate) pairs; the first match counts, no match leaves a layer dense.
        granularity: as for `boxwood.find_masks`; its groups are what is counted.

    Example:
        >>> layerwise_rates(("fc3*", 0.1), ("fc*", 0.2))(2).allocation.sparsities[1][0]
        'fc*'

    Source: Frankle and Carbin (2019), section 2: the output layer at half the rate.
    """
    return lambda level: Prune(
        sparsity=None,
        allocation=ByName(tuple((name, _sparsity(rate, level)) for name, rate in rates)),
        granularity=granularity,
    )


def global_rate(
    rate: float, layers: Layers = linear_and_conv, *, granularity: Granularity = Elements()
) -> Pruning:
    """Prune all layers by one ranking; each level removes a fraction of the remaining weights.

    Args:
        rate: fraction of the remaining weights that each level prunes.
        layers: which weights are ranked, such as `conv`; the others stay.
        granularity: as for `boxwood.find_masks`; its groups are what is counted.

    Example:
        >>> round(global_rate(0.2)(3).sparsity, 3)
        0.488

    Source: Frankle and Carbin (2019), section 4: global pruning of the deeper networks.
    """
    return lambda level: Prune(
        sparsity=_sparsity(rate, level), layers=layers, granularity=granularity
    )


def lottery_ticket(
    *, train: Training, prune: Pruning, levels: int, rewind: int = 0, test_at: tuple[int, ...] = ()
) -> Recipe:
    """Find a ticket by iterative pruning: ``train, (prune, rewind, train) × levels``.

    Kept weights are reset to θ_k, and training runs again from step k with a new optimizer, at that
    step's learning rate and position in the data. θ_k is computed separately, by repeating the
    first k steps of the dense training bit for bit; so all k share that training.

    Args:
        train: the dense training, and that of every level.
        prune: `layerwise_rates` or `global_rate`.
        levels: how often to prune.
        rewind: k, in epochs or steps as the length of ``train`` is; 0 is the initialisation.
        test_at: as for `Train`, of all trainings and those of the controls.

    Raises:
        InvalidInput: k is outside the training, or there is less than one level.

    Example:
        >>> from boxwood.optim import Adam
        >>> training = Training(steps=50_000, batch=60, optimizer=Adam(lr=1.2e-3))
        >>> ticket = lottery_ticket(train=training, prune=layerwise_rates(("*", 0.2)), levels=1)
        >>> [type(phase).__name__ for phase in ticket]
        ['Train', 'Measure', 'Prune', 'Rewind', 'Train', 'Measure']

    Source: Frankle and Carbin (2019), section 1; rewinding to k > 0: Frankle, Dziugaite, Roy and
    Carbin (2019), section 3.
    """
    start, beginning = _start(train, rewind, test_at)
    again = Train(training=replace(train, start_at=rewind), test_at=test_at)
    return beginning + _levels(prune, levels, (Rewind(to=start),), again)


def one_shot_ticket(
    *, train: Training, prune: Pruning, level: int, rewind: int = 0, test_at: tuple[int, ...] = ()
) -> Recipe:
    """Find a ticket by pruning once, to the sparsity of ``level`` of the iterative one.

    Args:
        train: the dense training, and that of the ticket.
        prune: `layerwise_rates` or `global_rate`.
        level: whose sparsity is reached at once.
        rewind: as for `lottery_ticket`.
        test_at: as for `lottery_ticket`.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(steps=100, batch=60, optimizer=SGD(lr=0.1))
        >>> len(one_shot_ticket(train=training, prune=global_rate(0.2), level=7))
        6

    Source: Frankle and Carbin (2019), section 2, one-shot pruning.
    """
    start, beginning = _start(train, rewind, test_at)
    again = Train(training=replace(train, start_at=rewind), test_at=test_at)
    return (*beginning, prune(level), Rewind(to=start), *_trained(again, level))


def continued_training(
    *, train: Training, prune: Pruning, levels: int, again: Training | None = None
) -> Recipe:
    """Prune without rewinding: the remaining weights keep their trained values.

    Args:
        train: the dense training.
        prune: `layerwise_rates` or `global_rate`.
        levels: how often to prune.
        again: the training of every level; by default that of the dense network. ``replace(train,
            start_at=k)`` rewinds only the learning rate, to step k.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(steps=100, batch=60, optimizer=SGD(lr=0.1))
        >>> phases = continued_training(train=training, prune=global_rate(0.2), levels=1)
        >>> [type(phase).__name__ for phase in phases]
        ['Train', 'Measure', 'Prune', 'Train', 'Measure']

    Source: Frankle and Carbin (2019), the appendix on continued training; learning-rate rewinding:
    Renda, Frankle and Carbin (2020), section 3.
    """
    return _start(train, 0)[1] + _levels(prune, levels, (), Train(training=again or train))


def reinitialised_ticket(ticket: Recipe, level: int, *, index: int = 1) -> Recipe:
    """Train the ticket's masks from fresh initial values.

    Args:
        ticket: a recipe of `lottery_ticket` or `one_shot_ticket`.
        level: whose masks are taken.
        index: which of the seed's initialisations; 0 is the ticket's own.

    Raises:
        InvalidInput: the ticket does not reach that level.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(steps=100, batch=60, optimizer=SGD(lr=0.1))
        >>> ticket = lottery_ticket(train=training, prune=global_rate(0.2), levels=2)
        >>> [type(phase).__name__ for phase in reinitialised_ticket(ticket, 1)[2:]]
        ['Prune', 'Reinitialise', 'Train', 'Measure']

    Source: Frankle and Carbin (2019), section 2.
    """
    return _instead(ticket, level, Reinitialise(index=index), start_at=0)


def random_ticket(
    ticket: Recipe, level: int, *, how: Shuffle = within_layers, index: int = 1
) -> Recipe:
    """Train the same number of weights at random positions, from their initial values.

    Args:
        ticket: a recipe of `lottery_ticket` or `one_shot_ticket`.
        level: how many weights.
        how: `within_layers` keeps each layer's count, `evenly` gives layers one sparsity, and
            `over_all_layers` keeps the total alone.
        index: which of the seed's random masks.

    Source: Frankle and Carbin (2019), the appendix on randomly sampled sparse networks.
    """
    return _instead(ticket, level, ShuffleMasks(how=how, index=index), start_at=0)


def resampled_ticket(ticket: Recipe, level: int, *, index: int = 1) -> Recipe:
    """Train the ticket's masks from values drawn from the ticket's own initial ones.

    Args:
        ticket: a recipe of `lottery_ticket` or `one_shot_ticket`.
        level: whose masks are taken.
        index: which of the seed's draws.

    Source: Frankle and Carbin (2019), the appendix on the distribution of a ticket's initialisation.
    """
    return _instead(ticket, level, Resample(index=index), start_at=0)


def masked_at_start(ticket: Recipe, level: int) -> Recipe:
    """Train the weights that are largest at the start, with the ticket's count in each layer.

    Args:
        ticket: a recipe of `lottery_ticket` or `one_shot_ticket`.
        level: how many weights.

    Source: Frankle and Carbin (2019), the appendix that prunes networks before training.
    """
    return _instead(ticket, level, MasksFrom(), start_at=0)


def noisy_ticket(ticket: Recipe, level: int, scale: float, *, index: int = 1) -> Recipe:
    """Train the ticket from its initial values plus noise.

    Args:
        ticket: a recipe of `lottery_ticket` or `one_shot_ticket`.
        level: whose masks are taken.
        scale: of the noise, in standard deviations of a layer's initial weights.
        index: which of the seed's draws.

    Source: Frankle and Carbin (2019), the appendix on noise added to a ticket's initialisation.
    """
    return _instead(ticket, level, AddNoise(scale=scale, index=index), start_at=0)


def instability(train: Training, *, rewind: int = 0, points: int = 30) -> Recipe:
    """Train two copies from θ_k in different orders, and measure the line between them.

    Args:
        train: the dense training.
        rewind: k, in epochs or steps as the length of ``train`` is.
        points: on the line.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(steps=100, batch=60, optimizer=SGD(lr=0.1))
        >>> [type(phase).__name__ for phase in instability(training)[2:]]
        ['Rewind', 'Train', 'Measure', 'Rewind', 'Train', 'Measure', 'Interpolate']

    Source: Frankle, Dziugaite, Roy and Carbin (2020), section 2.
    """
    start, beginning = _start(train, rewind)
    return beginning + _copies(train, rewind, start, points)


def ticket_instability(ticket: Recipe, level: int, *, points: int = 30) -> Recipe:
    """Train two copies of a ticket in different orders, and measure the line between them.

    Args:
        ticket: a recipe of `lottery_ticket` or `one_shot_ticket`.
        level: whose masks are taken.
        points: on the line.

    Raises:
        InvalidInput: the ticket does not reach that level, or does not rewind.

    Source: Frankle, Dziugaite, Roy and Carbin (2020), section 4.
    """
    found, after = _up_to(ticket, level)
    start = next((phase.to for phase in ticket[len(found) :] if isinstance(phase, Rewind)), None)
    if start is None:
        raise InvalidInput(
            f"Expected a ticket that rewinds after level {level}, got one that keeps its trained "
            f"values; give a recipe of lottery_ticket or one_shot."
        )
    return found + _copies(after.training, after.training.start_at, start, points)


def _sparsity(rate: float, level: int) -> float:
    return float(1 - (1 - rate) ** level)


def _start(train: Training, rewind: int, test_at: tuple[int, ...] = ()) -> tuple[str, Recipe]:
    """Label of θ_k, and the phases up to the trained dense network."""
    whole = Train(training=train, test_at=test_at, label="dense")
    dense: Recipe = (whole, Measure(label="level-0"))
    if not rewind:
        return "genesis", dense
    early = Train(training=replace(train, stop_at=rewind), label="early")
    return "early", (*dense, Rewind(to="genesis"), early, Rewind(to="dense"))


def _levels(prune: Pruning, levels: int, values: Recipe, after: Train) -> Recipe:
    if levels < 1:
        raise InvalidInput(
            f"Expected at least one level of pruning, got levels={levels}; levels=1 prunes once."
        )
    phases: Recipe = ()
    for level in range(1, levels + 1):
        phases += (prune(level), *values, *_trained(after, level))
    return phases


def _trained(after: Train, level: int) -> Recipe:
    return (after, Measure(label=f"level-{level}"))


def _up_to(ticket: Recipe, level: int) -> tuple[Recipe, Train]:
    """Phases up to the pruning of a level, and the training that follows it."""
    for index, phase in enumerate(ticket):
        trainings = (each for each in ticket[index:] if isinstance(each, Train))
        levels = (each.label for each in ticket[index:] if isinstance(each, Measure))
        if isinstance(phase, Prune) and next(levels, None) == f"level-{level}":
            return ticket[: index + 1], next(trainings)
    raise InvalidInput(
        f"Expected a level that the ticket reaches, got {level}; give the recipe more levels."
    )


def _instead(ticket: Recipe, level: int, values: Phase, *, start_at: int) -> Recipe:
    """Go on from the pruning of a level with other values or masks, and train from the start."""
    found, after = _up_to(ticket, level)
    after = replace(after, training=replace(after.training, start_at=start_at))
    return (*found, values, *_trained(after, level))


def _copies(train: Training, rewind: int, start: str, points: int) -> Recipe:
    phases: Recipe = ()
    for shuffle_index, label in ((1, "copy-1"), (2, "copy-2")):
        copy = Train(
            training=replace(train, start_at=rewind, shuffle_index=shuffle_index), label=label
        )
        phases += (Rewind(to=start), copy, Measure(label=label))
    return (*phases, Interpolate(other="copy-1", points=points, label="line"))
