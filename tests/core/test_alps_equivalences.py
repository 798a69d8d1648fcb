"""ALPS against an obvious version of it, SparseGPT, and the best of all masks, in float64."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boxwood._internal.core.alps import alps, descend
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import NofM
from boxwood._internal.core.surgeon import adjust, sparse_gpt
from boxwood._internal.model.reconstruct import prune_by_alps
from boxwood.errors import BoxwoodError


def problem(seed: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Draw weights and a Hessian of inputs with strong correlations and of various sizes."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(columns, 2 * columns, dtype=torch.float64, generator=generator)
    root += torch.randn(1, 2 * columns, dtype=torch.float64, generator=generator)
    root *= torch.randn(columns, 1, dtype=torch.float64, generator=generator).exp()
    hessian = root @ root.T
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(columns)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator), hessian


def error(weight: Tensor, hessian: Tensor, new: Tensor) -> float:
    return float(torch.einsum("rn,nm,rm->", new - weight, hessian, new - weight))


def slow_alps(dense: np.ndarray, hessian: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """The rounds with a new inverse in each, without scaling by more than a diagonal of ones."""
    scale = np.sqrt(np.diag(hessian))
    hessian, dense, rho = hessian / np.outer(scale, scale), dense * scale, 0.1

    def project(weights: np.ndarray) -> np.ndarray:
        mask = np.zeros(weights.size, dtype=bool)
        mask[np.argsort(-(weights.ravel() ** 2), kind="stable")[:keep]] = True
        return mask.reshape(weights.shape)

    begin = dense * project(dense), np.zeros_like(dense), project(dense)
    target, dual, before = begin
    moved = False
    for turn in range(1, 301):
        inverse = np.linalg.inv(hessian + rho * np.eye(len(hessian)))
        weights = (dense @ hessian - dual + rho * target) @ inverse
        mask = project(weights + dual / rho)
        target = (weights + dual / rho) * mask
        dual = dual + rho * (weights - target)
        if turn % 3 == 0:
            changed = (mask != before).sum() / keep
            moved, before = moved or changed > 0.005, mask
            if moved and not changed:
                break
            if moved:
                rho *= 1.3 if changed > 0.1 else 1.2 if changed > 0.005 else 1.1
            else:
                rho, (target, dual, before) = rho / 5, begin
    found = np.zeros_like(dense)
    for row, kept, wanted in zip(found, mask, dense @ hessian, strict=True):
        row[kept] = np.linalg.solve(hessian[np.ix_(kept, kept)], wanted[kept])
    return found / scale, mask


@given(st.integers(0, 10_000), st.floats(0.3, 0.9))
@settings(max_examples=25, deadline=None)
def test_alps_is_the_obvious_version(seed: int, sparsity: float) -> None:
    """Masks agree, and weights once conjugate gradients have come to their end."""
    weight, hessian = problem(seed, 6, 12)
    keep = round((1 - sparsity) * weight.numel())
    found, mask = alps(weight, hessian, keep, refinements=40)
    slow, wanted = slow_alps(weight.numpy(), hessian.numpy(), keep)
    assert np.array_equal(mask.numpy(), wanted)
    np.testing.assert_allclose(found.numpy(), slow, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9, NofM(2, 4), NofM(1, 4), Blocks(1, 4)])
@pytest.mark.parametrize("seed", range(5))
def test_alps_leaves_less_error_than_sparse_gpt(seed: int, sparsity: float | NofM | Blocks) -> None:
    """By a tenth at least, and less than SparseGPT's masks with the best weights for them."""
    weight, hessian = problem(seed, 32, 48)
    grouped = None if isinstance(sparsity, float) else sparsity
    if isinstance(grouped, NofM):
        keep = weight.numel() * grouped.n // grouped.m
    else:
        keep = weight.numel() // 8 if grouped else round((1 - sparsity) * weight.numel())
    found, mask = alps(weight, hessian, keep, grouped=grouped)
    other, theirs = sparse_gpt(weight, hessian, keep, grouped=grouped)
    assert mask.sum() == theirs.sum()
    assert error(weight, hessian, found) < 0.9 * error(weight, hessian, other)
    assert error(weight, hessian, found) < error(weight, hessian, adjust(weight, hessian, theirs))
    best = error(weight, hessian, adjust(weight, hessian, mask))
    assert best * (1 - 1e-9) <= error(weight, hessian, found) <= 1.001 * best


def test_alps_often_finds_the_best_of_all_masks() -> None:
    """Of one row with four of eight weights, in more than half of twenty draws; SparseGPT never does."""
    ours = theirs = 0
    for seed in range(20):
        weight, hessian = problem(seed, 1, 8)
        costs = []
        for kept in combinations(range(8), 4):
            mask = torch.zeros(1, 8, dtype=torch.bool)
            mask[0, list(kept)] = True
            costs.append(error(weight, hessian, adjust(weight, hessian, mask)))
        found, other = (
            error(weight, hessian, by(weight, hessian, 4)[0]) for by in (alps, sparse_gpt)
        )
        assert min(found, other) >= min(costs) * (1 - 1e-9)
        ours += found <= min(costs) * (1 + 1e-9)
        theirs += other <= min(costs) * (1 + 1e-9)
    assert ours > 10
    assert theirs == 0


@pytest.mark.parametrize("keep", [0, 1, 35, 72])
def test_counts_are_exact(keep: int) -> None:
    """Also where nothing or everything stays, which leaves the weights as they are."""
    weight, hessian = problem(1, 6, 12)
    found, mask = alps(weight, hessian, keep)
    assert int(mask.sum()) == keep
    assert not found[~mask].any()
    if keep == 72:
        torch.testing.assert_close(found, weight)


@pytest.mark.parametrize(("grouped", "keep"), [(NofM(2, 4), 72), (Blocks(1, 4), 15), (Blocks(2, 3), 9)])  # fmt: skip
def test_groups_lie_along_the_inputs(grouped: NofM | Blocks, keep: int) -> None:
    """At each of two positions of a kernel by itself, where blocks at the edge are smaller."""
    inputs = 12 if isinstance(grouped, NofM) else 10
    weight, hessian = problem(2, 6, 2 * inputs)
    mask = alps(weight, hessian, keep, grouped=grouped, inputs=inputs)[1]
    shown = mask.view(6, 2, inputs).transpose(1, 2)
    if isinstance(grouped, NofM):
        assert (mask.view(6, -1, 4).sum(2) == 2).all()
    else:
        alive = grouped.alive(shown)
        assert int(alive.sum()) == keep
        assert torch.equal(grouped.spread(alive, tuple(shown.shape)), shown)


@given(st.integers(0, 10_000), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_conjugate_gradients_end_at_the_exact_solution(seed: int, columns: int) -> None:
    """After as many steps as there are columns, and no step raises the error."""
    weight, hessian = problem(seed, 3, columns)
    scale = hessian.diagonal().sqrt()
    hessian, weight = hessian / torch.outer(scale, scale), weight * scale
    mask = torch.rand(3, columns, generator=torch.Generator().manual_seed(seed)) < 0.6
    errors = [
        error(weight, hessian, descend(weight, hessian, weight, mask, steps))
        for steps in range(columns + 3)
    ]
    assert all(after <= before * (1 + 1e-9) + 1e-12 for before, after in pairwise(errors))  # fmt: skip
    found = descend(weight, hessian, weight, mask, columns + 3)
    torch.testing.assert_close(found, adjust(weight, hessian, mask), rtol=1e-6, atol=1e-7)


def test_weights_of_inputs_that_are_always_zero_go_first() -> None:
    """As by SparseGPT; the counts stay exact."""
    net = nn.Linear(8, 4).double()
    inputs = torch.randn(20, 8, dtype=torch.float64)
    inputs[:, 3] = 0
    net.weight.data[:, 3] = 100
    done = prune_by_alps(net, 0.5, [inputs])
    assert int(done.masks["weight"].sum()) == 16
    assert not done.masks["weight"][:, 3].any()
    assert not done.weights["weight"][:, 3].any()


def test_grouped_convolutions_and_refusals() -> None:
    """Channel groups share the count; what does not fit is refused by name."""
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 6)).double()
    inputs = [torch.randn(30, 8, 4, 4, dtype=torch.float64)]
    done = prune_by_alps(net, 0.5, inputs, grouped=NofM(2, 4))
    assert (done.masks["0.weight"].sum(1) == 2).all()
    assert (done.masks["2.weight"].view(6, 8, 4).sum(2) == 2).all()
    with pytest.raises(BoxwoodError, match=r"multiples of 3 for 1:3 by ALPS, got '0\.weight'"):
        prune_by_alps(net, 2 / 3, inputs, grouped=NofM(1, 3))
    weight, hessian = problem(0, 2, 4)
    for wrong in ({"keep": 9}, {"rho": 0.0}, {"rounds": 0}, {"refinements": -1}):
        with pytest.raises(BoxwoodError, match=r"Expected keep in \[0, 8\], rho > 0, rounds >= 1"):
            alps(weight, hessian, **{"keep": 4, **wrong})
