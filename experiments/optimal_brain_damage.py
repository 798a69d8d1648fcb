"""The study of LeCun, Denker and Solla (1990): Optimal Brain Damage on handwritten digits.

    boxwood run experiments/optimal_brain_damage.py:standardised --seeds 5

A tanh network with squared error, in float64, descends to a gradient of at most 1e-6 or as far as its
iterations go: with a weight decay of 0.01 it arrives at a minimum, with less it is still under way,
and without any there is no minimum. What is minimised, predicted and measured is the loss with its
penalty. Each criterion deletes weights at once, and what it predicts is held against what happens;
three of them delete and retrain, down to 20 % of the weights. Chance has three draws in every seed.
`one_mean` and `shifted` repeat the first part with inputs that share an offset.
`run_optimal_brain_damage.py` judges and draws; it takes some 10 CPU minutes for five seeds.
"""

import torch
from torch import Tensor, nn

from boxwood import Experiment
from boxwood._internal.core.examples import InFloat64
from boxwood._internal.data.splits import fingerprint
from boxwood.criteria import Criterion, fisher, hutchinson, magnitude, obd, obd_full, random
from boxwood.data import InMemory, Splits, digits
from boxwood.phases import Descend, Predict
from boxwood.recipes import Call, Recipe, optimal_brain_damage
from boxwood.training import squared_error

DECAYS = (0.0, 1e-4, 1e-3, 1e-2)
OFFSET_DECAYS = (1e-4, 1e-2)  # of inputs that share an offset
RETRAINED_DECAYS = (1e-4, 1e-2)
GRADIENT = 1e-6
"""Of the loss with its penalty, at which a network is at a minimum."""
DELETED = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)
RETRAINED = (0.2, 0.4, 0.6, 0.8)
SECOND_ORDER: tuple[tuple[str, Criterion], ...] = (
    ("OBD", obd),
    ("OBD with f''", obd_full),
    ("Fisher", fisher),
    ("Hutchinson", hutchinson),
)
CHANCE: tuple[tuple[str, Criterion], ...] = (
    ("random", random),
    ("random 1", Call.of(random, draw=1)),
    ("random 2", Call.of(random, draw=2)),
)


def network() -> nn.Sequential:
    """64-40-10 with tanh units, 2,960 weights and 50 biases, in float64."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 10))
    return net.double()


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
    branches = _at_once(DECAYS)
    for decay in RETRAINED_DECAYS:
        for name, criterion in (("OBD", _penalised(obd, decay)), ("magnitude", magnitude), *CHANCE):
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
    branches = tuple(_at_once(OFFSET_DECAYS))
    return Experiment(model=network, data=one_mean_digits, branches=branches)


def shifted() -> Experiment:
    """The deletions without retraining, with all pixels in [-0.5, 0.5]."""
    branches = tuple(_at_once(OFFSET_DECAYS))
    return Experiment(model=network, data=shifted_digits, branches=branches)


def _at_once(decays: tuple[float, ...]) -> list[tuple[str, Recipe]]:
    branches: list[tuple[str, Recipe]] = []
    for decay in decays:
        second_order = [(name, _penalised(each, decay)) for name, each in SECOND_ORDER]
        for name, criterion in (*second_order, ("magnitude", magnitude), *CHANCE):
            predict = Predict(
                criterion=criterion, loss=squared_error, decay=decay, sparsities=DELETED
            )
            branches.append((f"{name} at once, decay {decay:g}", (_dense(decay), predict)))
    return branches


def _penalised(criterion: Criterion, decay: float) -> Criterion:
    return Call.of(criterion, decay=decay)


def _dense(decay: float) -> Descend:
    # More iterations with less decay move the gradient no further down than some 1e-3.
    iterations = 8000 if decay >= 1e-2 else 1500
    return Descend(loss=squared_error, decay=decay, gradient=GRADIENT, iterations=iterations)


def one_mean_digits() -> Splits:
    """The digits as `digits` returns them, in float64."""
    return _mapped("digits, one mean", torch.zeros(()), torch.ones(()))


def _all(examples: InMemory) -> tuple[Tensor, Tensor]:
    return examples.take(torch.arange(len(examples)))


def _mapped(name: str, offset: Tensor, scale: Tensor) -> Splits:
    data = digits()
    parts = {}
    for part in ("train", "validation", "test"):
        inputs, targets = _all(getattr(data, part))
        parts[part] = InFloat64(InMemory((inputs - offset) / scale, targets))
    identity = fingerprint(data.identity, offset, scale)
    return Splits(name=name, **parts, classes=data.classes, identity=identity)
