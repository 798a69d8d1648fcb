"""Try-and-learn filter pruning and its controls: Huang et al. (2018)."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.graph.units import find_units
from boxwood._internal.model.scoring import Criterion
from boxwood._internal.recipes.phase import Phase, Recipe
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.remove_as_many import RemoveAsMany, RemoveBySensitivity
from boxwood._internal.recipes.phases.search_filters import SearchFilters
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.train.losses import Loss, cross_entropy
from boxwood._internal.train.settings import Training
from boxwood.errors import InvalidInput


def filter_agent(
    train: Training,
    search: SearchFilters,
    finetune: Training,
    *,
    layers: tuple[str, ...],
    measure: Phase | None = None,
) -> Recipe:
    """Train, then for each layer let an agent remove filters and fine-tune, and measure.

    Args:
        train: the dense training, whose validation accuracy is p*.
        search: settings of the search over one layer; ``layer`` and ``reference`` are filled in.
        finetune: after each layer.
        layers: names of groups of units, input side first; see `layers_of`.
        measure: the last phase; `Measure` by default.

    Raises:
        InvalidInput: there are no layers, or one is named twice.

    Example:
        >>> from boxwood.agent import TryAndLearn
        >>> from boxwood.optim import Adam
        >>> training = Training(epochs=1, batch=50, optimizer=Adam(lr=1e-3))
        >>> search = SearchFilters(layer="", search=TryAndLearn(bound=2.0))
        >>> recipe = filter_agent(training, search, training, layers=("conv1.weight", "conv2.weight"))
        >>> [type(phase).__name__ for phase in recipe]
        ['Train', 'SearchFilters', 'Train', 'SearchFilters', 'Train', 'Measure']

    Source: Huang, Zhou, You and Neumann (2018), their algorithm.
    """
    if not layers or len(set(layers)) != len(layers):
        raise InvalidInput(
            f"Expected distinct layer names, got {layers}; boxwood.find_units(model, example)"
            ".groups has their names."
        )
    recipe: tuple[Phase, ...] = (Train(training=train, label="dense"),)
    for place, layer in enumerate(layers, 1):
        recipe += (
            replace(search, layer=layer, reference="dense", label=f"search {layer}"),
            Train(training=replace(finetune, shuffle_index=place), label=f"tuned {layer}"),
        )
    return (*recipe, measure or Measure())


def ranked(recipe: Recipe, criterion: Criterion = magnitude, *, loss: Loss | None = None) -> Recipe:
    """Remove as many filters of each layer as an agent did, but those with the lowest scores.

    Args:
        recipe: made by `filter_agent`; the fine-tunings stay as they are.
        criterion: `magnitude` for the L1 norm of filters, `taylor`, …; `random` for a random
            choice.
        loss: for criteria that need gradients; cross-entropy by default.

    Example:
        >>> from boxwood.agent import TryAndLearn
        >>> from boxwood.optim import Adam
        >>> training = Training(epochs=1, batch=50, optimizer=Adam(lr=1e-3))
        >>> search = SearchFilters(layer="", search=TryAndLearn(bound=2.0))
        >>> agent = filter_agent(training, search, training, layers=("conv1.weight",))
        >>> ranked(agent)[1].like == agent[:2]
        True

    Source: the comparison of Huang, Zhou, You and Neumann (2018), with the L1 norm of Li, Kadav,
    Durdanovic, Samet and Graf (2017).
    """
    return tuple(
        RemoveAsMany(
            layer=phase.layer,
            like=recipe[: place + 1],
            criterion=criterion,
            loss=loss or cross_entropy,
            label=phase.label,
        )
        if isinstance(phase, SearchFilters)
        else phase
        for place, phase in enumerate(recipe)
    )


def by_sensitivity(recipe: Recipe, finetune: Training, *, share: float = 0.125) -> Recipe:
    """Reach an agent's multiply-adds by removing filters where they cost least: a control.

    Args:
        recipe: made by `filter_agent`.
        finetune: training after all removals; for a fair comparison, as long as all fine-tunings of
            the agent together.
        share: as for `RemoveBySensitivity`.

    Example:
        >>> from boxwood.agent import TryAndLearn
        >>> from boxwood.optim import Adam
        >>> training = Training(epochs=1, batch=50, optimizer=Adam(lr=1e-3))
        >>> search = SearchFilters(layer="", search=TryAndLearn(bound=2.0))
        >>> agent = filter_agent(training, search, training, layers=("conv1.weight",))
        >>> [type(phase).__name__ for phase in by_sensitivity(agent, training)]
        ['Train', 'RemoveBySensitivity', 'Train', 'Measure']
    """
    searches = [place for place, phase in enumerate(recipe) if isinstance(phase, SearchFilters)]
    last = recipe[searches[-1]]
    assert isinstance(last, SearchFilters)  # noqa: S101 - chosen so
    removal = RemoveBySensitivity(
        like=recipe[: searches[-1] + 1],
        layers=tuple(phase.layer for phase in recipe if isinstance(phase, SearchFilters)),
        share=share,
        statistics=last.statistics,
        examples=last.examples,
    )
    return (recipe[0], removal, Train(training=replace(finetune, shuffle_index=1)), recipe[-1])


def layers_of(model: Callable[[], nn.Module], example: torch.Tensor) -> tuple[str, ...]:
    """Name the groups of units of a network, input side first.

    Args:
        model: returns the network.
        example: an input.

    Example:
        >>> from boxwood.networks import lenet_300_100
        >>> layers_of(lenet_300_100, torch.zeros(1, 1, 28, 28))
        ('fc1.weight', 'fc2.weight')
    """
    return tuple(group.name for group in find_units(model(), example).groups)
