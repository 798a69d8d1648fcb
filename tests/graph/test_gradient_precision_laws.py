"""A wrong gradient is found whatever type of floats a network computes in, and rounding is none."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ROWS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Crooked(nn.Module):
    """Its backward pass multiplies the gradient of one weight by a factor; its forward does not.

    Args:
        inside: type into which the hidden layer is converted; None for none.
        only: the one type that its code runs in; None for any.
    """

    def __init__(self, inside=None, only=None):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)
        self.inside, self.only, self.factor, self.entry = inside, only, 1.0, (0, 0)

    def forward(self, x):
        if self.only is not None and self.a.weight.dtype != self.only:
            raise TypeError("no kernel for this type")
        weight = self.a.weight * 1
        if weight.requires_grad:
            weight.register_hook(self._crooked)
        hidden = torch.tanh(nn.functional.linear(x, weight, self.a.bias))
        if self.inside is not None:
            hidden = hidden.to(self.inside).exp().to(x.dtype)
        return self.b(hidden)

    def _crooked(self, gradient):
        if self.factor == 1:
            return gradient
        changed = gradient.clone()
        changed[self.entry] *= self.factor
        return changed


def checked(own, inside, entry, factor, only=None):
    torch.manual_seed(0)
    net = Crooked(inside, only).eval().to(own)
    selection = select_units(find_units(net, ROWS.to(own)), 0.5)
    small = shrink(net, selection)
    small.factor, small.entry = factor, entry
    return check_equivalence(net, small, selection)


@settings(deadline=None, max_examples=60)
@given(
    own=st.sampled_from(TYPES),
    inside=st.sampled_from((None, *TYPES)),
    entry=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    factor=st.sampled_from((0.95, 1.05)),
)
def test_a_gradient_that_is_off_by_five_percent_is_found(own, inside, entry, factor):
    """Of one kept weight, whichever it is; the outputs are right."""
    found = checked(own, inside, entry, factor)
    assert all(trial.equal for trial in found.trials)
    assert not found.equivalent, str(found)


@pytest.mark.parametrize("inside", [None, *TYPES])
@pytest.mark.parametrize("own", TYPES)
def test_right_gradients_agree_in_every_type(own, inside):
    found = checked(own, inside, (0, 0), 1.0)
    assert found.equivalent, str(found)
    assert found.gradients.difference is not None
    assert found.gradients.tolerance <= 1e-4


@pytest.mark.parametrize("entry", [(0, 0), (1, 2), (3, 1)])
def test_single_precision_finds_it_where_a_network_runs_in_nothing_finer(entry):
    """Five percent of an entry is more than the rounding that is allowed there."""
    right = checked(torch.float32, None, entry, 1.0, torch.float32)
    assert right.equivalent, str(right)
    assert right.gradients.tolerance == 1e-3
    assert not checked(torch.float32, None, entry, 1.05, torch.float32).equivalent


@pytest.mark.parametrize("own", [torch.float16, torch.bfloat16])
def test_gradients_that_run_in_half_precision_alone_are_said_to_show_nothing(own):
    """Their rounding may be as large as what is wrong; outputs are compared all the same."""
    found = checked(own, None, (0, 0), 1.05, own)
    assert found.gradients.difference is None
    assert "not compared: they differ by 0.0" in str(found)
    assert f"which may be rounding in {str(own).removeprefix('torch.')}" in str(found)
    assert all(trial.equal for trial in found.trials)
