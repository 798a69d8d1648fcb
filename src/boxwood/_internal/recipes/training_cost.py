"""Estimate the cost of a training: multiply-adds, and hours on a card of known speed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from boxwood._internal.core.generators import own_random_numbers
from boxwood._internal.core.spec import encode
from boxwood._internal.model.counting import count_layers
from boxwood._internal.recipes.phase import Recipe
from boxwood._internal.recipes.training_budget import planned
from boxwood.errors import InvalidInput

PASSES = 3
"""Forward, and twice as much backward: by the inputs of each layer, and by its weights."""


@dataclass(frozen=True)
class Card:
    """A graphics card, by what its maker states.

    Args:
        name: as it is called.
        bfloat16: multiply-adds per second in bfloat16 (float16 where it has none), of dense
            matrices.
        float32: in float32, as torch computes convolutions and products by default.
    """

    name: str
    bfloat16: float
    float32: float


CARDS = {
    "t4": Card("NVIDIA T4", 32.5e12, 4.05e12),
    "v100": Card("NVIDIA V100", 62.5e12, 7.85e12),
    "a100": Card("NVIDIA A100", 156e12, 9.75e12),
    "rtx4090": Card("NVIDIA RTX 4090", 82.5e12, 41.3e12),
    "h100": Card("NVIDIA H100 SXM", 494.5e12, 33.5e12),
    "h200": Card("NVIDIA H200", 494.5e12, 33.5e12),
}
"""Half of the makers' operations per second: a multiply-add is two of them."""


def forward_cost(model: Callable[[], nn.Module], shape: Sequence[int]) -> int:
    """Count the multiply-adds of one example of a dense network.

    Args:
        model: returns a new network.
        shape: of one input, without the batch.

    Example:
        >>> forward_cost(lambda: nn.Linear(4, 3), (4,))
        12
    """
    with own_random_numbers():
        network = model()
    return sum(layer.multiply_adds for layer in count_layers(network, torch.zeros(1, *shape)))


def training_costs(recipe: Recipe, forward: int, examples: int | None = None) -> list[int]:
    """Count the multiply-adds of each phase's training, as if its network were dense.

    ``3 · forward`` for each example of each step: cards skip no zeros. Evaluation, a teacher's
    passes and phases without a training count for nothing.

    Args:
        recipe: any.
        forward: multiply-adds of one example.
        examples: of the training part, where trainings are counted in epochs.

    Raises:
        InvalidInput: a training is counted in epochs, and ``examples`` is not given.

    Example:
        >>> from boxwood.optim import SGD
        >>> from boxwood.recipes import dense
        >>> from boxwood.training import Training
        >>> training_costs(dense(Training(steps=10, batch=2, optimizer=SGD(lr=0.1))), forward=100)
        [6000, 0]
    """
    costs = []
    for phase, amount in zip(encode(recipe), planned(encode(recipe)), strict=True):
        batch, seen = (phase.get("training") or {}).get("batch", 0), 0
        for unit, length in amount.items():
            if unit == "steps":
                seen += length * batch
            elif examples is None:
                raise InvalidInput(
                    f"Expected the number of training examples for a training of {length} {unit}, "
                    f"got none; count its length in steps, or make its data available."
                )
            else:
                seen += length * examples
        costs.append(PASSES * forward * seen)
    return costs


def hours(recipe: Recipe, costs: Sequence[int], card: Card, utilisation: float) -> float:
    """Return the hours that the trainings of a recipe take on a card.

    Args:
        recipe: any.
        costs: of its phases, see `training_costs`.
        card: which.
        utilisation: the fraction of the card's speed that is reached, in (0, 1].

    Example:
        >>> from boxwood.optim import SGD
        >>> from boxwood.recipes import dense
        >>> from boxwood.training import Training
        >>> recipe = dense(Training(steps=10, batch=2, optimizer=SGD(lr=0.1)))
        >>> hours(recipe, [9_750_000_000_000_000 * 36, 0], CARDS["a100"], 1.0)
        10.0
    """
    seconds = 0.0
    for phase, cost in zip(recipe, costs, strict=True):
        seconds += cost / utilisation / _speed(phase, card)
    return seconds / 3600


def _speed(phase: Any, card: Card) -> float:
    training = getattr(phase, "training", None)
    in_half = training is not None and training.computation.bfloat16
    return card.bfloat16 if in_half else card.float32
