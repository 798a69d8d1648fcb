"""First guesses that are wrong are answered in words, with what would have been right."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import boxwood
from boxwood._internal.core.spec import decode, encode
from boxwood._internal.core.trust import EVERYTHING
from boxwood.errors import BoxwoodError

X = torch.ones(2, 8)
GUESSES: dict[str, tuple[Callable[[Any], object], str]] = {
    "a criterion's name": (lambda n: boxwood.find_masks(n, 0.5, criterion="magnitude"), "criterion, got 'magnitude'; give the function: boxwood.criteria.magnitude"),
    "an allocation's name": (lambda n: boxwood.find_masks(n, 0.5, allocation="uniform"), "give the function: boxwood.allocation.uniform"),
    "a pattern's name": (lambda n: boxwood.find_masks(n, 0.5, granularity="2:4"), "granularity, got '2:4'; give one such as"),
    "a parameter's name": (lambda n: boxwood.find_masks(n, 0.5, layers="0.weight"), r"give layers=Named\(\('0.weight',\)\)"),
    "names of parameters": (lambda n: boxwood.find_masks(n, 0.5, layers=["0.weight"]), r"give layers=Named\(\('0.weight',\)\)"),
    "the wrong way round": (lambda n: boxwood.find_masks(0.5, n), "Expected a network, got 0.5"),
    "a class": (lambda _: boxwood.find_masks(nn.Linear, 0.5), r"got the class Linear; make one of it first: Linear\(…\)"),
    "a number as schedule": (lambda _: boxwood.policies.Gradual(0.9), r"schedule, from step to sparsity, got 0.9; give one such as Cubic"),
    "a number as policy": (lambda n: boxwood.SparseTraining(n, sgd(n), 0.9), "Expected a policy, got 0.9"),
    "a class as policy": (lambda n: boxwood.SparseTraining(n, sgd(n), boxwood.policies.RigL), "Expected a policy, got the class RigL"),
    "no optimizer": (lambda n: boxwood.MaskBinding(n, boxwood.find_masks(n, 0.5)), "optimizer as the second argument, got a value of type dict"),
    "no masks": (lambda n: boxwood.MaskBinding(n, sgd(n)), "masks by parameter name, got None; give what boxwood.find_masks returns"),
    "masks and optimizer": (lambda n: boxwood.MaskBinding(n, boxwood.find_masks(n, 0.5), sgd(n)), "optimizer as the second argument"),
    "a fraction to project": (lambda n: boxwood.apply_masks_(n, 0.5), "masks by parameter name, got 0.5"),
    "lists as masks": (lambda n: boxwood.apply_masks_(n, {"0.weight": [True]}), "a bool tensor for each name, got a value of type list for '0.weight'"),
    "a fraction to shrink by": (lambda n: boxwood.shrink(n, 0.5), r"or an example input, got 0.5; give shrink\(model, example, keep=0.5\), or what select_units\(find_units"),
    "masks to shrink by": (lambda n: boxwood.shrink(n, boxwood.find_masks(n, 0.5)), "the units that stay or an example input, got masks or weights by parameter name"),
    "units to shrink by": (lambda n: boxwood.shrink(n, boxwood.find_units(n, X)), "got all units of a network; choose with select_units"),
    "a selection and a fraction": (lambda n: boxwood.shrink(n, boxwood.select_units(boxwood.find_units(n, X), 0.5), 0.5), "got keep=0.5 as well; leave keep out"),
    "batches for a fraction": (lambda n: boxwood.shrink(n, X, [X]), r"a fraction of units in \(0, 1\], got a value of type list; .*batches for the repair as data="),
    "one tensor as data": (lambda n: boxwood.shrink(n, X, data=X), r"Expected batches of inputs, got a value of type Tensor; give a DataLoader"),
    "units of a class": (lambda _: boxwood.find_units(nn.Linear, X), "got the class Linear"),
    "a budget's fraction": (lambda n: boxwood.select_units(boxwood.find_units(n, X), budget=0.5), r"Expected a budget, got 0.5; give Budget\(0.5, multiply_adds\)"),
    "a budget the other way": (lambda _: boxwood.budgets.Budget(boxwood.budgets.parameters, 0.5), r"a budget in \(0, 1\], got a value of type function"),
    "a budget's name": (lambda _: boxwood.budgets.Budget(0.5, "parameter"), "give the function: boxwood._internal.graph.budgets.parameters"),
    "a network for its units": (lambda n: boxwood.select_units(n, 0.5), "the units of a network, got a value of type Sequential"),
    "a class to compile": (lambda _: boxwood.compile(nn.Linear, X), "got the class Linear"),
    "branches without names": (lambda n: boxwood.Experiment(model=lambda: n, data=lambda: 0, branches=("a",)), r"branches as \(name, recipe\) pairs or a dict"),
    "arguments of another function": (lambda _: boxwood.recipes.Call.of(nn.Linear, 1, 2, True, None, None, 7), "arguments that Linear takes, got others"),
}  # fmt: skip


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1)


@pytest.mark.parametrize("guess", GUESSES)
def test_a_guess_is_answered(guess: str) -> None:
    call, words = GUESSES[guess]
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(BoxwoodError, match=words):
        call(net)


def test_guesses_that_work() -> None:
    """The first setting of a schedule or policy by its place, branches as a dict, classes as calls."""
    assert boxwood.schedules.Cubic(0.9, end=4) == boxwood.schedules.Cubic(final=0.9, end=4)
    assert boxwood.policies.RigL(0.9, until=4) == boxwood.policies.RigL(sparsity=0.9, until=4)
    cubic = boxwood.schedules.Cubic(0.9, end=4)
    assert boxwood.policies.Gradual(cubic) == boxwood.policies.Gradual(schedule=cubic)
    made = boxwood.recipes.Call.of(nn.Linear, 8, out_features=4)
    assert made().weight.shape == (4, 8)
    assert decode(encode(made), trust=EVERYTHING) == made
    training = boxwood.training.Training(steps=1, batch=1, optimizer=boxwood.optim.SGD(lr=0.1))
    pair = ("dense", boxwood.recipes.dense(train=training))
    study = boxwood.Experiment(model=made, data=int, branches={"dense": pair[1]})
    assert study == boxwood.Experiment(model=made, data=int, branches=(pair,))
