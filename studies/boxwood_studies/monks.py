"""The three MONK's problems of Thrun et al. (1991): rules about robots of six attributes."""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from boxwood._internal.core.seeds import generator_for
from boxwood.errors import InvalidInput

VALUES = (3, 3, 2, 3, 4, 2)
"""How many values each attribute has: 432 robots in all."""

TRAINING = (124, 169, 122)
"""Training examples of each problem, as published."""

WRONG = 6
"""Training examples of the third problem whose label is wrong, 5 % of them, as published."""


class Monk(NamedTuple):
    """One problem: what is learnt from, and all robots with their true labels to test on.

    Args:
        inputs: float64 [training, 17]: a one for the value of each attribute, zeros for the others.
        targets: float64 [training], 0 or 1.
        all_inputs: float64 [432, 17].
        all_targets: float64 [432].
    """

    inputs: Tensor
    targets: Tensor
    all_inputs: Tensor
    all_targets: Tensor


def monk(problem: int, seed: int = 0) -> Monk:
    """Draw the training examples of a problem from all robots, without replacement.

    The published training sets are three draws of these numbers; ours are drawn by seed, so that seeds
    differ in their examples too. The labels of `WRONG` of the third problem's are inverted.

    Args:
        problem: 1, 2 or 3.
        seed: of the draw.

    Example:
        >>> [len(monk(problem).targets) for problem in (1, 2, 3)]
        [124, 169, 122]

    Source: Thrun et al. (1991), "The MONK's problems", chapter 1.
    """
    if problem not in (1, 2, 3):
        raise InvalidInput(f"Expected problem 1, 2 or 3, got {problem}; choose one of them.")
    robots = torch.tensor(list(product(*(range(1, count + 1) for count in VALUES))))
    whole = torch.cat(
        [torch.eye(count)[robots[:, k] - 1] for k, count in enumerate(VALUES)], dim=1
    ).double()
    truth = _RULES[problem - 1](robots).double()
    order = torch.randperm(len(robots), generator=generator_for(seed, f"monk {problem}"))
    chosen = order[: TRAINING[problem - 1]]
    targets = truth[chosen].clone()
    if problem == 3:
        # The order is random already.
        targets[:WRONG] = 1 - targets[:WRONG]
    return Monk(whole[chosen], targets, whole, truth)


def _first(a: Tensor) -> Tensor:
    """Head and body are alike, or the jacket is red."""
    return (a[:, 0] == a[:, 1]) | (a[:, 4] == 1)


def _second(a: Tensor) -> Tensor:
    """Exactly two attributes have their first value."""
    return (a == 1).sum(1) == 2


def _third(a: Tensor) -> Tensor:
    """The jacket is green and a sword is held, or the jacket is not blue and the body no octagon."""
    return ((a[:, 4] == 3) & (a[:, 3] == 1)) | ((a[:, 4] != 4) & (a[:, 1] != 3))


_RULES: tuple[Callable[[Tensor], Tensor], ...] = (_first, _second, _third)
