"""The sparsity that is met once dead units are gone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from boxwood._internal.core.masks import kept
from boxwood._internal.model.dead import remove_dead
from boxwood._internal.model.effective import without_dead
from boxwood._internal.model.oneshot import find_masks
from boxwood.criteria import magnitude, magnitude_over_std


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 10**6), st.floats(0.05, 0.99), st.sampled_from([magnitude, magnitude_over_std])
)
def test_the_sparsity_is_met_without_dead_units(
    seed: int, sparsity: float, criterion: object
) -> None:
    """No more weights stay than were asked for, and one unit more would be too many."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))

    def choose(at: float) -> dict[str, torch.Tensor]:
        return find_masks(net, at, criterion=criterion)

    wanted = kept(choose(sparsity))
    at_once = remove_dead(net, choose(sparsity), (6,))
    done = without_dead(net, choose, sparsity, (6,))
    assert kept(at_once.masks) <= kept(done.masks) <= wanted
    # What a unit that comes back brings along is at most its inputs and outputs.
    assert wanted - kept(done.masks) <= 12 + 9 + 6
    again = remove_dead(net, done.masks, (6,))
    assert kept(again.masks) == kept(done.masks)
