"""Phases that alternate between dense and sparse: AC/DC."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwood.allocation import uniform
from boxwood.errors import InvalidInput
from boxwood.granularity import NofM
from boxwood.policies import ACDC


@given(
    begin=st.integers(1, 20), every=st.integers(1, 20), last=st.integers(1, 30), more=st.integers(1, 200)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_phases_alternate_and_end_compressed(begin: int, every: int, last: int, more: int) -> None:
    """Dense first, then phases of ``every`` steps in turn, the last dense one ``last`` long or longer."""
    end = begin + last + more
    policy = ACDC(0.5, begin=begin, end=end, every=every, last=last)
    states = [policy.compressed(t) for t in range(end + 50)]
    assert not any(states[:begin])
    assert states[begin]
    assert not any(states[end - last : end])
    assert all(states[end:])
    changes = [t for t in range(1, end + 50) if states[t] != states[t - 1]]
    assert changes == [t for t in range(end + 50) if policy.due(t)]
    between = [t for t in changes if t < end - last]
    assert between == list(range(begin, end - last, every))


def test_a_hundred_epochs_are_those_of_the_paper() -> None:
    """Warm-up of 10 epochs, phases of 5, the last dense phase from 75 to 85, sparse to the end."""
    policy = ACDC(0.9, begin=10, end=85, every=5, last=10)
    assert [t for t in range(100) if policy.due(t)] == [*range(10, 80, 5), 85]
    assert [policy.compressed(t) for t in (74, 75, 84, 85)] == [True, False, False, True]


def test_masks_are_chosen_afresh() -> None:
    """A compressed phase keeps the largest weights of all, what was pruned before among them."""
    policy = ACDC(0.5, begin=1, end=4, every=1)
    before = {"w": torch.tensor([True, True, False, False])}
    scores = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    assert policy.update(2, before, scores, {})["w"].all()
    assert policy.update(4, before, scores, {})["w"].tolist() == [False, False, True, True]
    assert policy.final == 0.5


def test_n_of_m_phases() -> None:
    """The paper's 2:4 variant."""
    policy = ACDC(0.5, begin=1, end=9, every=2, granularity=NofM(2, 4), allocation=uniform)
    scores: dict[str, Tensor] = {"w": torch.rand(4, 8)}
    mask = policy.update(1, policy.init(scores), scores, {})["w"]
    assert (mask.view(-1, 4).sum(1) == 2).all()


def test_bad_phases_are_refused() -> None:
    """There is a compressed phase before the last dense one."""
    with pytest.raises(InvalidInput, match="a compressed phase before the last decompressed one"):
        ACDC(0.5, begin=10, end=15, every=5)
    with pytest.raises(InvalidInput, match=r"Expected sparsity in \[0, 1\)"):
        ACDC(1.0, begin=1, end=15, every=5)
