"""The recipe of Huang et al. on a net that trains in a second, and what it is compared with."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from boxwood._internal.agent.search import TryAndLearn
from boxwood._internal.core.call import Call
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.filter_agent import by_sensitivity, filter_agent, layers_of, ranked
from boxwood._internal.recipes.phase import State, World
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.search_filters import Recovery, SearchFilters
from boxwood._internal.zoo.cifar_nets import small_vgg
from boxwood.criteria import magnitude, random, taylor
from boxwood.errors import BoxwoodError
from boxwood.optim import SGD, Adam
from boxwood.recipes import Genesis
from boxwood.runs import Store, run_recipe
from boxwood.training import Training

NET = Call.of(small_vgg, widths=(6, 8))
LAYERS = ("conv1.weight", "conv2.weight")
TRAINING = Training(epochs=3, batch=60, optimizer=Adam(lr=5e-3))
SEARCH = SearchFilters(
    layer="", search=TryAndLearn(bound=60.0, updates=6, certainty=1.0), statistics=1, examples=100
)
AGENT = filter_agent(TRAINING, SEARCH, replace(TRAINING, epochs=1), layers=LAYERS)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("runs"))


def _after(store: Store, recipe, phases: int, seed: int = 0) -> State:
    return run_recipe(Genesis(model=NET, data=digits, seed=seed), recipe[:phases], store)


def test_layers_are_named_input_side_first():
    """The layers of a net are the groups of its units, in the order of its forward pass."""
    assert layers_of(NET, torch.zeros(1, 1, 8, 8)) == LAYERS
    with pytest.raises(BoxwoodError, match="Expected distinct layer names"):
        filter_agent(TRAINING, SEARCH, TRAINING, layers=("conv1.weight", "conv1.weight"))


def test_what_is_removed_is_proved_logged_and_stays_removed(store):
    """Every search checks its removal; later phases keep it; the log says what was tried."""
    first, second = _after(store, AGENT, 2), _after(store, AGENT, 4)
    for state, layer, filters in ((first, "conv1.weight", 6), (second, "conv2.weight", 8)):
        assert state.facts["equivalent"]
        assert len(state.facts["episodes"]) == 6
        for number, episode in enumerate(state.facts["episodes"]):
            assert (episode["layer"], episode["update"]) == (layer, number)
            assert all(len(text) == filters for text in episode["tried"])
            assert episode["kept"] == [text.count("1") for text in episode["tried"]]
            assert len(episode["drop"]) == len(episode["reward"]) == 5
        rows = state.masks[layer].flatten(1).any(1)
        assert int(rows.sum()) == state.facts["kept"][layer] < filters
    assert second.facts["kept"]["conv1.weight"] == first.facts["kept"]["conv1.weight"]
    end = _after(store, AGENT, len(AGENT))
    assert all(not end.weights[name][~mask].any() for name, mask in end.masks.items())
    assert second.facts["reference"] == first.facts["reference"]


def test_the_reference_is_the_original_network(store):
    """p* is the dense network's accuracy on what rewards are made of, recovered as every try is."""
    dense, searched = _after(store, AGENT, 1), _after(store, AGENT, 2)
    net = small_vgg(widths=(6, 8)).eval()
    net.load_state_dict(dict(dense.weights))
    Recovery(digits().train, None, 1, 0)(net)
    inputs, targets = digits().validation.take(torch.arange(100))
    assert searched.facts["reference"] == int((net(inputs).argmax(1) == targets).sum()) / 100


@pytest.mark.parametrize("criterion", [magnitude, taylor, random])
def test_others_remove_as_many(store, criterion):
    """Layer by layer the same counts, and with the L1 norm the filters of least norm go."""
    other = ranked(AGENT, criterion)
    agent, ranking = _after(store, AGENT, 2), _after(store, other, 2)
    assert ranking.facts["kept"] == agent.facts["kept"]
    assert ranking.facts["equivalent"]
    kept = ranking.masks["conv1.weight"].flatten(1).any(1)
    if criterion is magnitude:
        norms = _after(store, AGENT, 1).weights["conv1.weight"].abs().sum((1, 2, 3))
        assert norms[kept].min() > norms[~kept].max()
    end = _after(store, other, 4)
    assert end.facts["kept"] == _after(store, AGENT, 4).facts["kept"]


def test_chance_follows_the_seed_of_the_run(store):
    """Two seeds do not remove the same filters by the same numbers, nor do two draws of one seed."""

    def chosen(seed: int, draw: int) -> str:
        recipe = ranked(AGENT, Call.of(random, draw=draw))
        return str(_after(store, recipe, 4, seed).masks["conv2.weight"].flatten(1).any(1))

    assert len({chosen(seed, 0) for seed in range(3)}) > 1
    assert len({chosen(0, draw) for draw in range(3)}) > 1


def test_sensitivity_meets_the_multiply_adds(store):
    """Removal by sensitivity ends at no more multiply-adds than the agent's network has."""
    recipe = by_sensitivity(AGENT, TRAINING)
    agent, other = _after(store, AGENT, 4), _after(store, recipe, 2)
    assert other.facts["multiply_adds"][1] <= agent.facts["multiply_adds"][1]
    assert other.facts["steps"]
    assert other.facts["equivalent"]


def test_an_unknown_layer_is_named(store):
    """The error lists the layers that there are."""
    search = replace(SEARCH, layer="conv3.weight")
    with pytest.raises(
        BoxwoodError,
        match=r"got 'conv3.weight'; choose one of conv1.weight, conv2",
    ):
        run_recipe(Genesis(model=NET, data=digits), (AGENT[0], search), store)


def test_two_processes_search_as_one_does(store, quick_processes):
    """The facts do not depend on how many processes try."""
    dense = _after(store, AGENT, 1)
    brief = Training(steps=2, batch=60, optimizer=SGD(lr=0.01))
    how = replace(SEARCH.search, updates=2)
    phase = replace(SEARCH, layer="conv1.weight", recover=brief, search=how)
    world = World(genesis=Genesis(model=NET, data=digits), data=digits(), earlier=lambda _: dense)
    assert replace(phase, processes=2).run(dense, world).facts == phase.run(dense, world).facts


def test_overlap_is_measured_where_it_is_asked_for(store):
    """For segmentation the last phase writes the mean intersection over union too."""
    facts = _after(store, (AGENT[0], Measure(overlap=True)), 2).facts
    assert 0 < facts["mean_iou"] <= facts["test"]["correct"] / facts["test"]["total"]
    assert isinstance(NET(), nn.Module)
