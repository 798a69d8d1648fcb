"""Train, prune, retrain: what each recipe of Han et al. keeps to."""

from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

from boxwood._internal.core.call import Call
from boxwood._internal.data.digits import digits
from boxwood._internal.data.splits import Splits, from_tensors
from boxwood._internal.model.dead import remove_dead
from boxwood._internal.recipes.phase import Genesis, State
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.recipes.three_step import alternating, iterative, one_shot
from boxwood._internal.runs.runner import run_recipe
from boxwood._internal.runs.store import Store
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.conv_nets import conv_2, conv_4, conv_6
from boxwood._internal.zoo.lenet import lenet_5, lenet_300_100
from boxwood._internal.zoo.torchvision_nets import alexnet, vgg_16

TRAINING = Training(steps=3, batch=4, optimizer=SGD(lr=0.05))


def images() -> Splits:
    chance = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(24, 1, 16, 16, generator=chance), torch.arange(24) % 10
    return from_tensors("noise", (inputs, targets), (inputs, targets), validation=8)


@pytest.mark.parametrize("net", [lenet_300_100, lenet_5, conv_2, conv_4, conv_6, alexnet, vgg_16])
def test_alternating_trains_every_parameter_of_every_network_of_the_papers(
    net: Callable[[], nn.Module],
) -> None:
    """Each frozen pattern names a parameter; what one half freezes the other one trains."""
    if net in (alexnet, vgg_16):
        pytest.importorskip("torchvision")
    with torch.device("meta"):
        halves = alternating(TRAINING, net)(1)
        names = [name for name, _ in net().named_parameters()]
    frozen = []
    for half in halves:
        assert isinstance(half, Train)
        assert half.correct_dropout
        matching = [
            [n for n in names if fnmatchcase(n, pattern)] for pattern in half.training.frozen
        ]
        assert all(matching)
        frozen.append({name for each in matching for name in each})
    assert not frozen[0] & frozen[1]
    if net is not lenet_300_100:
        assert frozen[0] | frozen[1] == set(names)
    assert [half.training.shuffle_index for half in halves if isinstance(half, Train)] == [3, 4]


def test_alternating_moves_one_half_at_a_time(store: Store) -> None:
    """LeNet-5 pruned once: linear layers learn first while convolutions rest, then the reverse."""
    recipe = iterative(TRAINING, alternating(TRAINING, lenet_5), (0.5,), dead=False)
    start = Genesis(model=Call.of(lenet_5, size=16), data=images, seed=0)
    states = [run_recipe(start, recipe[:count], store) for count in (2, 3, 4)]

    def moved(before: State, after: State) -> set[str]:
        return {n for n, t in before.weights.items() if not torch.equal(t, after.weights[n])}

    linear = {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert moved(*states[:2]) == linear
    assert moved(*states[1:]) == set(states[0].weights) - linear


def test_networks_of_one_sparsity_have_as_many_weights_that_do_something(store: Store) -> None:
    """Iterative, one-step and not retrained: the same count, of which no unit is dead."""
    net = Call.of(lenet_300_100, inputs=64)
    start = Genesis(model=net, data=digits, seed=0)
    training = Training(steps=40, batch=30, optimizer=SGD(lr=0.1, weight_decay=1e-3))
    recipes = (
        iterative(training, training, (0.9, 0.99)),
        one_shot(training, training, 0.99),
        one_shot(training, None, 0.99),
    )
    counts = []
    for recipe in recipes:
        state = run_recipe(start, recipe, store)
        facts = state.facts
        counts.append(facts["kept"])
        again = remove_dead(start.network(state.weights), state.masks, digits().shape)
        assert sum(int(mask.sum()) for mask in again.masks.values()) == facts["kept"]
    wanted = round(0.01 * facts["weights"])
    # A unit of the last layer that comes back brings a weight or two along.
    assert all(wanted - 5 <= count <= wanted for count in counts)


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))
