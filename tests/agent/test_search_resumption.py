"""A search over filters resumes at any update, byte for byte."""

from dataclasses import replace

import pytest

from boxwood._internal.agent.search import best_rewarded, thresholded
from boxwood._internal.core.call import Call
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import World, state_of
from boxwood._internal.recipes.phases.search_filters import SearchFilters
from boxwood._internal.zoo.cifar_nets import small_vgg
from boxwood.agent import TryAndLearn
from boxwood.recipes import Genesis

GENESIS = Genesis(model=Call.of(small_vgg, widths=(6, 8)), data=digits, seed=3)
PHASE = SearchFilters(
    layer="conv2.weight",
    search=TryAndLearn(bound=60.0, updates=6, certainty=1.0),
    statistics=1,
    examples=100,
)


@pytest.mark.parametrize("choose", [thresholded, best_rewarded])
@pytest.mark.parametrize("stop", [1, 4])
def test_a_search_goes_on_from_any_update(stop, choose, stopped_is_undisturbed):
    """Masks, weights and episodes after a stop are those without one."""
    dense = state_of(GENESIS.build(), {}, {})
    phase = replace(PHASE, search=replace(PHASE.search, choose=choose))

    def world(checkpoints=None) -> World:
        return World(
            genesis=GENESIS, data=digits(), earlier=lambda _: dense, checkpoints=checkpoints
        )

    stopped_is_undisturbed(phase, dense, world, stop)
