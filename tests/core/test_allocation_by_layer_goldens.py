"""Allocations by layer against arithmetic by hand and numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from boxwood import criteria
from boxwood._internal.core.allocation import allocate, split
from boxwood._internal.core.allocation_by_layer import OutlierWeighed, erdos_renyi_kernel, lamp
from boxwood._internal.core.granularity import PerRow
from boxwood._internal.core.heavy_tails import HeavyTailed
from boxwood._internal.core.layer_adaptive import layer_adaptive_counts, layer_adaptive_scores
from boxwood._internal.core.selection import select
from boxwood._internal.model.oneshot import find_masks
from boxwood.errors import BoxwoodError


def test_erdos_renyi_kernel_by_hand() -> None:
    """LeNet-5's densities are as the sums of sides; full tensors stay full, counts are exact."""
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)}
    scores = {name: torch.ones(shape) for name, shape in shapes.items()}
    keep = erdos_renyi_kernel(scores, 0.99)
    assert sum(keep.values()) == round(0.01 * 430_500) == 4305
    sides = {"conv1": 31, "conv2": 80, "fc1": 1300, "fc2": 510}
    for name, side in sides.items():
        assert abs(keep[name] - 4305 * side / 1921) < 1
    fuller = erdos_renyi_kernel(scores, 0.5)
    assert fuller["conv1"] == 500
    assert fuller["fc2"] == 5000
    assert fuller["conv2"] == round((215_250 - 5500) * 80 / 1380)
    assert sum(fuller.values()) == 215_250
    with pytest.raises(BoxwoodError, match=r"output dimension .* got 'b' of shape \(3,\)"):
        erdos_renyi_kernel({"b": torch.ones(3)}, 0.5)


def lamp_in_numpy(weights: list[np.ndarray]) -> list[np.ndarray]:
    return [
        np.array([w**2 / (flat[np.abs(flat) >= abs(w)] ** 2).sum() for w in flat])
        for flat in (weight.ravel() for weight in weights)
    ]


@given(st.integers(0, 1000), st.floats(0, 0.99))
@settings(max_examples=30, deadline=None)
def test_lamp(seed: int, wanted: float) -> None:
    """Masks are those of one cut through the paper's scores."""
    random = np.random.default_rng(seed)
    layers = [random.normal(size=n) * scale for n, scale in ((7, 1.0), (12, 0.01), (3, 50.0))]
    scores = {str(i): torch.from_numpy(np.abs(layer)) for i, layer in enumerate(layers)}
    masks = select(scores, allocate(scores, wanted, allocation=lamp))
    adapted = np.concatenate(lamp_in_numpy(layers))
    keep = round((1 - wanted) * 22)
    best = np.zeros(22, dtype=bool)
    best[np.argsort(-adapted, kind="stable")[:keep]] = True
    assert np.array_equal(np.concatenate([mask.numpy() for mask in masks.values()]), best)


def test_lamp_with_ties_and_zeros() -> None:
    """Equal weights score alike, as the formula says; a tensor of zeros scores zero."""
    scores = {"a": torch.tensor([2.0, 2.0, 1.0]), "b": torch.zeros(3)}
    assert lamp(scores, 0.5) == {"a": 3, "b": 0}
    assert lamp(scores, 4 / 6) == {"a": 2, "b": 0}
    within = {"a": torch.tensor([True, False, True])}
    assert lamp(scores, 4 / 6, within) == {"a": 2, "b": 0}


def test_outlier_weighed_by_hand() -> None:
    """Densities lie λ around the mean, where outliers are more; sizes weigh the mean."""
    scores = {
        "many": torch.tensor([10.0] * 2 + [0.1] * 18),
        "few": torch.tensor([10.0] + [0.1] * 19),
        "none": torch.ones(40),
    }
    shares = {"many": 0.1, "few": 0.05, "none": 0.0}
    mean = (20 * 1.0 + 20 * 0.5) / 80
    wanted = {n: 0.4 + 0.2 * (s / 0.1 - mean) for n, s in shares.items()}
    keep = OutlierWeighed(outlier=5, spread=0.1)(scores, 0.6)
    assert sum(keep.values()) == 32
    for name, density in wanted.items():
        assert abs(keep[name] - density * scores[name].numel()) < 1
    flat = {"a": torch.ones(10), "b": torch.ones(10)}
    assert OutlierWeighed()(flat, 0.5) == {"a": 5, "b": 5}
    with pytest.raises(
        BoxwoodError, match=r"outlier > 1 and spread .* got outlier=1, spread=0\.08"
    ):
        OutlierWeighed(outlier=1)


@pytest.mark.parametrize(("sparsity", "densities"), [(0.95, [0.0875, 0.0125]), (0.02, [1.0, 0.96])])
def test_owl_empties_no_layer(sparsity: float, densities: list[float]) -> None:
    """At least a quarter of the mean density is kept, at most everything, and the mean is exact."""
    found = OutlierWeighed().densities({"a": 0.1, "b": 0.0}, {"a": 10, "b": 10}, sparsity)
    assert list(found.values()) == pytest.approx(densities)


def test_owl_with_wanda_rows() -> None:
    """Outliers decide each tensor's share, before rows share it equally."""
    net = nn.Sequential(nn.Linear(20, 10, bias=False), nn.Linear(10, 20, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(0.1).view(-1)[::10] = 10
        net[1].weight.fill_(0.1)
    masks = find_masks(
        net, 0.5, criterion=criteria.wanda, granularity=PerRow(), allocation=OutlierWeighed(spread=0.1),
        batches=[torch.ones(1, 20)],
    )  # fmt: skip
    assert masks["0.weight"].sum(1).tolist() == [12] * 10
    assert masks["1.weight"].sum(1).tolist() == [4] * 20


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5), st.floats(0, 0.99), st.data())  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_allocations_are_exact_under_masks(
    shapes: list[tuple[int, int]], wanted: float, data: st.DataObject
) -> None:
    """The sum is round((1 - s) n); nobody keeps more than there is; less than is left refuses."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    scores = {str(i): torch.rand(shape, generator=generator) for i, shape in enumerate(shapes)}
    masks = {n: torch.rand(s.shape, generator=generator) < 0.8 for n, s in scores.items()}
    keep = round((1 - wanted) * sum(score.numel() for score in scores.values()))
    left = {name: int(mask.sum()) for name, mask in masks.items()}
    heavy = HeavyTailed(tuple((name, 1.5 + int(name)) for name in scores), 0.4)
    for allocation in (erdos_renyi_kernel, OutlierWeighed(1.5, 0.3), heavy):
        assert sum(allocate(scores, wanted, allocation=allocation).values()) == keep
        if keep > sum(left.values()):
            with pytest.raises(BoxwoodError, match=r"keeps at most .* what is pruned stays pruned"):
                allocation(scores, wanted, masks)
            continue
        counts = allocate(scores, wanted, allocation=allocation, masks=masks)
        assert sum(counts.values()) == keep
        assert all(0 <= counts[name] <= left[name] for name in counts)


def test_a_sparsity_is_required() -> None:
    """None of these allocations carries its own."""
    for allocation, name in (
        (erdos_renyi_kernel, "erdos_renyi_kernel"), (lamp, "lamp"), (OutlierWeighed(), "OutlierW"),
    ):  # fmt: skip
        with pytest.raises(
            BoxwoodError, match=rf"a sparsity for the allocation {name}.*, got None"
        ):
            allocate({"w": torch.ones(2, 2)}, None, allocation=allocation)


@given(st.integers(0, 1000), st.integers(0, 60), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=40, deadline=None)
def test_lamp_by_counting_is_lamp_by_scores(seed: int, keep: int, dtype: torch.dtype) -> None:
    """What shards do, sums and counts alone, is what one process does with scores; ties too."""
    chance = torch.Generator().manual_seed(seed)
    scores = {
        "a": torch.randn(40, generator=chance, dtype=dtype).abs(),
        "b": torch.randint(0, 4, (30,), generator=chance).to(dtype),
        "c": 1e-4 * torch.randint(0, 3, (20,), generator=chance).to(dtype),
        "d": torch.zeros(5, dtype=dtype),
    }
    masks = {"a": torch.rand(40, generator=chance) < 0.8}
    counts = layer_adaptive_counts(scores, keep, masks)
    assert counts == split(layer_adaptive_scores(scores), keep, masks)
    assert sum(counts.values()) == keep
