"""Exponents of spectra whose law is known, and the sparsities that they give."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boxwood._internal.core.allocation import allocate
from boxwood._internal.core.heavy_tails import HeavyTailed, tail_exponent
from boxwood._internal.model.oneshot import find_masks
from boxwood.errors import BoxwoodError


def with_spectrum(eigenvalues: np.ndarray, columns: int, seed: int) -> Tensor:
    """Draw a matrix W whose WᵀW has these eigenvalues, and random directions."""
    chance = torch.Generator().manual_seed(seed)
    rows = len(eigenvalues)
    left = torch.linalg.qr(torch.randn(rows, rows, dtype=torch.float64, generator=chance)).Q
    right = torch.linalg.qr(torch.randn(columns, columns, dtype=torch.float64, generator=chance)).Q
    return left * torch.tensor(eigenvalues).sqrt() @ right[:rows]


def slow_exponent(weight: np.ndarray) -> float:
    """Hill's estimate for each λ_min near the peak, and the nearest power law among them."""
    eigenvalues = np.sort(np.linalg.svd(weight, compute_uv=False) ** 2)
    counts, edges = np.histogram(np.log10(eigenvalues), bins=100)
    start = 10 ** edges[counts.argmax()]
    fits = []
    for place, least in enumerate(eigenvalues[:-1]):
        if 0.95 * start <= least <= 1.5 * start:
            tail = eigenvalues[place:]
            alpha = 1 + len(tail) / np.log(tail / least).sum()
            law = 1 - (tail / least) ** (1 - alpha)
            fits.append((np.abs(law - np.arange(len(tail)) / len(tail)).max(), alpha))
    return min(fits)[1]


@pytest.mark.parametrize("alpha", [1.5, 2.5, 4.0])
def test_the_exponent_of_a_power_law_is_found(alpha: float) -> None:
    """Eigenvalues at the quantiles of a density λ^-α give α, within 4 %."""
    quantiles = (np.arange(200) + 0.5) / 200
    weight = with_spectrum((1 - quantiles) ** (-1 / (alpha - 1)), 240, seed=0)
    assert tail_exponent(weight) == pytest.approx(alpha, rel=0.04)


@given(st.integers(0, 1000), st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_the_exponent_is_that_of_the_obvious_version(seed: int, scale: float) -> None:
    """And it changes neither with the scale of the weights nor with turning the matrix around."""
    weight = torch.randn(30, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = tail_exponent(weight)
    assert found == pytest.approx(slow_exponent(weight.numpy()), rel=1e-6)
    assert tail_exponent(10**scale * weight.T) == pytest.approx(found, rel=1e-6)


def test_by_hand() -> None:
    """Two eigenvalues at 1 and one each at e and e²: α = 1 + 4/3."""
    weight = torch.diag(torch.tensor([1.0, 1.0, math.e, math.e**2], dtype=torch.float64).sqrt())
    assert tail_exponent(weight) == pytest.approx(1 + 4 / 3)
    # A kernel's positions count together, and what is zero by rounding does not.
    kernel = torch.stack([weight, torch.zeros(4, 4, dtype=torch.float64)], 2)
    assert tail_exponent(kernel) == pytest.approx(1 + 4 / 3)
    assert tail_exponent(torch.eye(3)) == math.inf


def test_the_linear_map_by_hand() -> None:
    """From 0.7 to 1.3 times, then scaled to the total, which sizes weigh."""
    exponents = (("heavy", 2.0), ("middle", 3.0), ("light", 4.0))
    sizes = {"heavy": 100, "middle": 100, "light": 200}
    allocation = HeavyTailed(exponents, spread=0.3)
    factor = 0.6 * 400 / (70 + 100 + 260)
    wanted = {"heavy": 1 - 0.7 * factor, "middle": 1 - factor, "light": 1 - 1.3 * factor}
    assert allocation.densities(sizes, 0.6) == pytest.approx(wanted)
    scores = {name: torch.rand(size) for name, size in sizes.items()}
    keep = allocate(scores, 0.6, allocation=allocation)
    assert sum(keep.values()) == 160
    assert all(abs(keep[name] - wanted[name] * sizes[name]) < 1 for name in sizes)
    even = HeavyTailed(exponents, spread=0.0).densities(sizes, 0.6)
    assert even == pytest.approx(dict.fromkeys(sizes, 0.4))
    alike = HeavyTailed((("a", 2.0), ("b", math.inf)), spread=0.3)
    assert alike.densities({"a": 5, "b": 5}, 0.5) == {"a": 0.5, "b": 0.5}


def test_one_exponent_far_above_all_others() -> None:
    """Scaled to the total, its tensor would lose 1.26 of 1: it keeps a quarter of the mean density."""
    exponents = tuple((str(i), 10.0 if i == 19 else 2.0) for i in range(20))
    sizes = dict.fromkeys(dict(exponents), 10)
    found = HeavyTailed(exponents, spread=0.3).densities(sizes, 0.7)
    assert found["19"] == pytest.approx(0.075)
    assert found["0"] == pytest.approx((0.3 * 20 - 0.075) / 19)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(1.1, 9)), min_size=1, max_size=6),
    st.floats(0, 0.99),
    st.floats(0, 0.99),
)
@settings(max_examples=80, deadline=None)
def test_the_total_is_kept(layers: list[tuple[int, float]], sparsity: float, spread: float) -> None:
    """Whatever the exponents: no density is below 0 or above 1, and a smaller α is never sparser."""
    sizes = {str(i): size for i, (size, _) in enumerate(layers)}
    allocation = HeavyTailed(tuple((str(i), a) for i, (_, a) in enumerate(layers)), spread)
    densities = allocation.densities(sizes, sparsity)
    total = sum(sizes.values())
    assert sum(densities[n] * sizes[n] for n in sizes) == pytest.approx((1 - sparsity) * total)
    assert all((1 - sparsity) / 4 - 1e-12 <= density <= 1 for density in densities.values())
    ordered = sorted(sizes, key=dict(allocation.exponents).__getitem__)
    assert all(densities[a] >= densities[b] - 1e-12 for a, b in pairwise(ordered))  # fmt: skip
    scores = {name: torch.rand(size) for name, size in sizes.items()}
    assert sum(allocation(scores, sparsity).values()) == round((1 - sparsity) * total)


def test_as_an_allocation() -> None:
    """A matrix of few strong directions stays denser than a random one, with any criterion."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40))
        steep = with_spectrum(np.exp(np.arange(40) / 2.0), 40, seed=0).float()
    net[0].weight.data = steep
    weights = {name: p.detach() for name, p in net.named_parameters() if p.dim() == 2}
    masks = find_masks(net, 0.5, allocation=HeavyTailed.of(weights, spread=0.2))
    counts = [int(mask.sum()) for mask in masks.values()]
    assert counts == [round(1600 * 0.6), round(1600 * 0.4)]


def test_refusals() -> None:
    """Vectors, zeros, settings out of range, and tensors without an exponent."""
    with pytest.raises(BoxwoodError, match=r"for their spectra, got shape \(3,\)"):
        tail_exponent(torch.ones(3))
    for wrong in (torch.zeros(2, 2), torch.full((2, 2), math.nan)):
        with pytest.raises(BoxwoodError, match="Expected finite weights that are not all zero"):
            tail_exponent(wrong)
    with pytest.raises(
        BoxwoodError, match=r"spread in \[0, 1\) and exponents above 1, got spread=1"
    ):
        HeavyTailed((), spread=1.0)
    with pytest.raises(BoxwoodError, match=r"got spread=0\.3 and \{'a': 1\.0\}"):
        HeavyTailed((("a", 1.0),))
    with pytest.raises(BoxwoodError, match="exponent for every tensor, got none for 'b'"):
        HeavyTailed((("a", 2.0),))({"b": torch.ones(2)}, 0.5)
    with pytest.raises(BoxwoodError, match="a sparsity for the allocation HeavyTailed, got None"):
        HeavyTailed((("a", 2.0),))({"a": torch.ones(2)}, None)
