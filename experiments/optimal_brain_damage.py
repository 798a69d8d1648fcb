"""The study of LeCun, Denker and Solla (1990): Optimal Brain Damage on handwritten digits.

    boxwood run experiments/optimal_brain_damage.py:standardised --seeds 5

A tanh network with squared error, at a minimum: without weight decay, where the descent is stopped
at a small gradient, and with a little or some of it, where there is a minimum to arrive at. Each
criterion deletes weights at once, and what it predicts is held against what happens; three of them
delete and retrain, down to 20 % of the weights. `one_mean` and `shifted` repeat the first part with
inputs that share an offset. `run_optimal_brain_damage.py` judges and draws.
"""

import torch
from torch import Tensor, nn

from boxwood import Experiment, Splits
from boxwood._internal.core.criteria import (
    fisher,
    hutchinson,
    magnitude,
    optimal_brain_damage_full,
    random,
)
from boxwood._internal.core.criteria import optimal_brain_damage as obd
from boxwood._internal.data.digits import digits
from boxwood._internal.data.splits import InMemory, fingerprint
from boxwood._internal.model.scoring import Criterion
from boxwood._internal.recipes.optimal_brain_damage import optimal_brain_damage
from boxwood._internal.recipes.phase import Recipe
from boxwood._internal.recipes.phases.descend import Descend
from boxwood._internal.recipes.phases.predict import Predict
from boxwood._internal.train.losses import squared_error

DECAYS = (0.0, 1e-4, 1e-3)
DELETED = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)
RETRAINED = (0.2, 0.4, 0.6, 0.8)
CRITERIA: tuple[tuple[str, Criterion], ...] = (
    ("OBD", obd),
    ("OBD with f''", optimal_brain_damage_full),
    ("Fisher", fisher),
    ("Hutchinson", hutchinson),
    ("magnitude", magnitude),
    ("random", random),
)


def network() -> nn.Sequential:
    """64-40-10 with tanh units, 2,960 weights and 50 biases."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 10))


def standardised_digits() -> Splits:
    """Each pixel with mean 0 and standard deviation 1 over the training examples."""
    inputs, _ = _all(digits().train)
    sd = inputs.std(0, correction=0)
    # A pixel that never varies becomes 0, and says nothing.
    return _mapped("digits, standardised", inputs.mean(0), torch.where(sd > 0, sd, torch.inf))


def shifted_digits() -> Splits:
    """Every pixel in [-0.5, 0.5], as images often are; the paper's white is not zero."""
    inputs, _ = _all(digits().train)
    low, high = inputs.min(), inputs.max()
    return _mapped("digits, shifted", (low + high) / 2, high - low)


def standardised() -> Experiment:
    """Every criterion without retraining; three of them with it."""
    branches = _at_once()
    for decay in DECAYS[:2]:
        for name, criterion in (("OBD", obd), ("magnitude", magnitude), ("random", random)):
            recipe = optimal_brain_damage(
                _dense(decay),
                Descend(loss=squared_error, decay=decay, gradient=1e-2, iterations=500),
                RETRAINED,
                loss=squared_error,
                criterion=criterion,
            )
            branches.append((f"{name} retrained, decay {decay:g}", recipe))
    return Experiment(model=network, data=standardised_digits, branches=tuple(branches))


def one_mean() -> Experiment:
    """The deletions without retraining, with one mean and deviation for all pixels together.

    That is what `digits` returns. The background pixels then lie below zero together.
    """
    return Experiment(model=network, data=digits, branches=tuple(_at_once()))


def shifted() -> Experiment:
    """The deletions without retraining, with all pixels in [-0.5, 0.5]."""
    return Experiment(model=network, data=shifted_digits, branches=tuple(_at_once()))


def _at_once() -> list[tuple[str, Recipe]]:
    return [
        (
            f"{name} at once, decay {decay:g}",
            (
                _dense(decay),
                Predict(criterion=criterion, loss=squared_error, sparsities=DELETED),
            ),
        )
        for decay in DECAYS
        for name, criterion in CRITERIA
    ]


def _dense(decay: float) -> Descend:
    small = 1e-2 if decay == 0 else 1e-3
    return Descend(loss=squared_error, decay=decay, gradient=small, iterations=1000)


def _all(examples: InMemory) -> tuple[Tensor, Tensor]:
    return examples.take(torch.arange(len(examples)))


def _mapped(name: str, offset: Tensor, scale: Tensor) -> Splits:
    data = digits()
    parts = {}
    for part in ("train", "validation", "test"):
        inputs, targets = _all(getattr(data, part))
        parts[part] = InMemory((inputs - offset) / scale, targets)
    identity = fingerprint(data.identity, offset, scale)
    return Splits(name=name, **parts, classes=data.classes, identity=identity)
