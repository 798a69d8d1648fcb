"""Counts add up exactly, whatever shares them out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwood._internal.core.allocation import (
    AtLeast,
    ByName,
    allocate,
    global_,
    std_quality,
    uniform,
)
from boxwood._internal.core.selection import select
from boxwood.criteria import magnitude_over_std
from boxwood.errors import BoxwoodError


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Tensor]:
    """Draw a few tensors of scores with ties, of one float type or of several."""
    scores = {}
    for index in range(draw(st.integers(1, 4))):
        values = draw(st.lists(st.integers(0, 6), min_size=1, max_size=20))
        dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
        # Sevenths are rounded differently by each of the types.
        scores[f"layer{index}"] = (torch.tensor(values, dtype=torch.float64) / 7).to(dtype)
    return scores


SPARSITIES = st.floats(0, 1, exclude_max=True)


@given(networks(), SPARSITIES)
@settings(deadline=None)
def test_global_counts_are_exact_and_the_best(scores: dict[str, Tensor], sparsity: float) -> None:
    """The total is exact, and what is kept is the top of one stable ranking of all."""
    keep = allocate(scores, sparsity)
    everything = torch.cat([score.double() for score in scores.values()])
    total = round((1 - sparsity) * len(everything))
    assert sum(keep.values()) == total
    best = torch.zeros(len(everything), dtype=torch.bool)
    best[everything.argsort(descending=True, stable=True)[:total]] = True
    assert torch.equal(torch.cat(list(select(scores, keep).values())), best)


@given(networks(), SPARSITIES)
@settings(deadline=None)
def test_uniform_counts(scores: dict[str, Tensor], sparsity: float) -> None:
    """Every tensor keeps the same fraction, rounded."""
    expected = {name: round((1 - sparsity) * score.numel()) for name, score in scores.items()}
    assert allocate(scores, sparsity, allocation=uniform) == expected


@given(networks(), SPARSITIES, SPARSITIES)
@settings(deadline=None)
def test_pruning_further_stays_inside(
    scores: dict[str, Tensor], first: float, second: float
) -> None:
    """A sparsity is the total: 0.5 after 0.5 is 0.5, and later masks lie inside earlier ones."""
    low, high = sorted((first, second))
    masks = select(scores, allocate(scores, low))
    again = select(scores, allocate(scores, low, masks=masks), masks=masks)
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())
    further = select(scores, allocate(scores, high, masks=masks), masks=masks)
    direct = select(scores, allocate(scores, high))
    assert all(torch.equal(further[name], mask) for name, mask in direct.items())


@given(networks(), SPARSITIES, st.integers(1, 4), st.sampled_from([global_, uniform]))
@settings(deadline=None)
def test_the_floor(
    scores: dict[str, Tensor], sparsity: float, floor: int, allocation: object
) -> None:
    """No tensor falls below the floor, the total stays, and nobody else gains."""
    before = allocate(scores, sparsity, allocation=allocation)
    least = {name: min(floor, score.numel()) for name, score in scores.items()}
    if sum(before.values()) < sum(least.values()):
        with pytest.raises(BoxwoodError, match=f"floor that leaves room .* got floor={floor}"):
            allocate(scores, sparsity, allocation=allocation, floor=floor)
        return
    after = allocate(scores, sparsity, allocation=allocation, floor=floor)
    assert list(after) == list(scores)
    assert sum(after.values()) == sum(before.values())
    for name, count in after.items():
        assert least[name] <= count <= max(before[name], least[name])


def test_a_floor_leaves_a_uniform_scope_uniform() -> None:
    """Lifting one tiny tensor costs the others one weight, not their shares."""
    scores = {"a": torch.rand(100), "b": 10 + torch.rand(100), "c": torch.ones(1)}
    assert allocate(scores, 0.9, allocation=uniform, floor=1) == {"a": 9, "b": 10, "c": 1}


def test_by_name_takes_the_first_pattern_and_leaves_the_rest() -> None:
    """What no pattern matches keeps what it has."""
    scores = {"conv1": torch.ones(8), "conv2": torch.ones(8), "fc": torch.ones(10)}
    within = {"fc": torch.arange(10) < 7}
    allocation = ByName((("conv1", 0.75), ("conv*", 0.5)))
    assert allocate(scores, None, allocation=allocation, masks=within) == {
        "conv1": 2,
        "conv2": 4,
        "fc": 7,
    }


def test_at_least_counts_what_reaches_the_threshold() -> None:
    """Equal counts as reaching, and what is pruned already does not count."""
    scores = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.ones(2)}
    within = {"a": torch.tensor([True, True, True, False])}
    allocation = AtLeast((("a", 2.0),))
    assert allocate(scores, None, allocation=allocation) == {"a": 3, "b": 2}
    assert allocate(scores, None, allocation=allocation, masks=within) == {"a": 2, "b": 2}


@given(st.floats(0, 3))
@settings(deadline=None)
def test_quality_times_std(quality: float) -> None:
    """`std_quality` is `AtLeast` over `magnitude_over_std`, tensor by tensor."""
    weights = {"fc1": torch.tensor([-1.0, 2.0, 3.0, -5.0]), "fc2": torch.tensor([1.0, -1.0])}
    counts = std_quality(weights, (("fc*", quality),))
    assert counts == {
        name: int((magnitude_over_std(weight).double() >= quality).sum())
        for name, weight in weights.items()
    }


def test_refusals() -> None:
    """A sparsity where none belongs, none where one does, and patterns that match nothing."""
    scores = {"fc": torch.ones(4)}
    half = {"fc": torch.tensor([True, True, False, False])}
    for allocation in (uniform, global_):
        with pytest.raises(
            BoxwoodError, match=rf"a sparsity for the allocation {allocation.__name__}, got N"
        ):
            allocate(scores, None, allocation=allocation)
    for allocation in (ByName((("fc", 0.5),)), AtLeast((("fc", 0.5),))):
        with pytest.raises(BoxwoodError, match=r"sparsity=None with the allocation .*, got 0\.5"):
            allocate(scores, 0.5, allocation=allocation)
        with pytest.raises(BoxwoodError, match=r"match a tensor, got .*, which matches none of w"):
            allocate({"w": torch.ones(4)}, None, allocation=allocation)
    with pytest.raises(BoxwoodError, match=r"sparsity of 'fc' in \[0, 1\), got 1\.0"):
        ByName((("fc", 1.0),))
    with pytest.raises(BoxwoodError, match=r"at least 0\.5, which is pruned already, got 0\.25"):
        allocate(scores, 0.25, masks=half)
    with pytest.raises(BoxwoodError, match="at most the 2 weights left in 'fc', got one that keep"):
        allocate(scores, 0.25, allocation=uniform, masks=half)
