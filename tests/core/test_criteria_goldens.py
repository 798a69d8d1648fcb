"""Criteria and allocations against arithmetic by hand, numpy, and laws of their papers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boxwood import criteria
from boxwood._internal.core.allocation import allocate, global_, uniform
from boxwood._internal.core.call import Call
from boxwood._internal.core.granularity import NofM, PerRow, Slices, total
from boxwood._internal.core.masks import sparsity
from boxwood._internal.core.schedules import Geometric
from boxwood._internal.core.selection import select
from boxwood._internal.model.evidence.activations import (
    feature_rank,
    gate_gradient_square,
    input_norm,
)
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.gradients import flow_gradient, gradient, hessian_gradient
from boxwood._internal.model.oneshot import find_masks, find_masks_in_rounds
from boxwood._internal.model.prunable import linear_and_conv
from boxwood._internal.model.scoring import score
from boxwood._internal.train.losses import cross_entropy, squared_error
from boxwood.errors import BoxwoodError, NoEffect


def wanda_in_numpy(weight: np.ndarray, x: np.ndarray, kept: int) -> np.ndarray:
    """Weights times column norms; in every row the highest stay."""
    scores = np.abs(weight) * np.sqrt((x.reshape(-1, x.shape[-1]) ** 2).sum(0))
    mask = np.zeros(weight.shape, dtype=bool)
    for row in range(len(weight)):
        mask[row, np.argsort(-scores[row], kind="stable")[:kept]] = True
    return mask


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 9), st.data())
@settings(max_examples=30, deadline=None)
def test_wanda(seed: int, rows: int, columns: int, data: st.DataObject) -> None:
    """Over two batches of sequences, it is ten lines of numpy."""
    kept = data.draw(st.integers(1, columns - 1))
    random = np.random.default_rng(seed)
    layer = nn.Linear(columns, rows).double()
    x = random.normal(size=(5, 3, columns))
    masks = find_masks(
        layer,
        1 - kept / columns,
        criterion=criteria.wanda,
        granularity=PerRow(),
        allocation=uniform,
        batches=[torch.from_numpy(x[:2]), torch.from_numpy(x[2:])],
    )
    expected = wanda_in_numpy(layer.weight.detach().numpy(), x, kept)
    assert np.array_equal(masks["weight"].numpy(), expected)


def ria_by_loops(weight: np.ndarray, norms: np.ndarray, power: float) -> np.ndarray:
    """Every weight by itself: what its input and its output have, and how active the input is."""
    scores = np.zeros(weight.shape)
    for out, into in np.ndindex(weight.shape):
        size = abs(weight[out, into])
        by_input = sum(abs(weight[row, into]) for row in range(weight.shape[0]))
        by_output = sum(abs(weight[out, column]) for column in range(weight.shape[1]))
        if size:
            scores[out, into] = (size / by_input + size / by_output) * norms[into] ** power
    return scores


def test_ria_by_hand() -> None:
    """Shares in the columns (sums 4, 2, 0) and rows (4, 2), times roots of 4, 9 and 1."""
    weight = torch.tensor([[3.0, -1.0, 0.0], [-1.0, 1.0, 0.0]])
    norms = torch.tensor([[4.0, 9.0, 1.0]])
    wanted = [[(3 / 4 + 3 / 4) * 2, (1 / 2 + 1 / 4) * 3, 0], [(1 / 4 + 1 / 2) * 2, (1 / 2 + 1 / 2) * 3, 0]]  # fmt: skip
    assert criteria.ria(weight, norms).tolist() == wanted
    alone = [[1.5, 0.75, 0], [0.75, 1, 0]]
    assert criteria.ria(weight, norms, power=0).tolist() == alone
    assert criteria.ria(weight, norms, power=1).tolist() == [[6, 6.75, 0], [3, 9, 0]]
    half = criteria.ria(weight.bfloat16(), norms)  # norms are float32 or wider, and so are scores
    assert half.dtype == torch.float32
    assert half.tolist() == wanted


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=30, deadline=None)
def test_ria(seed: int, rows: int, columns: int, power: float) -> None:
    """Over two batches of sequences, with pruned rows and columns, it is a loop over weights."""
    random = np.random.default_rng(seed)
    layer = nn.Linear(columns, rows).double()
    weight = random.normal(size=(rows, columns)) * (random.random((rows, columns)) < 0.6)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    x = random.normal(size=(5, 3, columns))
    seen = Calibration(
        layer, {"weight": layer.weight}, [torch.from_numpy(x[:2]), torch.from_numpy(x[2:])]
    )
    found = scores_of(layer, Call.of(criteria.ria, power=power), {"input_norm": input_norm(seen)})
    expected = ria_by_loops(weight, np.sqrt((x**2).sum((0, 1))), power)
    np.testing.assert_allclose(found["weight"].numpy(), expected, rtol=1e-12)


def test_ria_of_a_convolution() -> None:
    """It is that of the matrix which the unfolded inputs are multiplied with."""
    random = torch.Generator().manual_seed(0)
    net = nn.Conv2d(3, 4, 2, padding=1).double()
    x = torch.randn(5, 3, 4, 4, generator=random).double()
    seen = Calibration(net, {"weight": net.weight}, [x])
    found = scores_of(net, criteria.ria, {"input_norm": input_norm(seen)})["weight"]
    norms = nn.functional.unfold(x, 2, padding=1).square().sum((0, 2)).sqrt()
    expected = ria_by_loops(net.weight.detach().flatten(1).numpy(), norms.numpy(), 0.5)
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, rtol=1e-12)


def grouped_in_numpy(scores: np.ndarray, n: int, m: int) -> np.ndarray:
    """The n highest of m neighbours along the second axis."""
    last = np.moveaxis(scores, 1, -1)
    groups = last.reshape(-1, m)
    mask = np.zeros(groups.shape, dtype=bool)
    order = np.argsort(-groups, axis=1, kind="stable")[:, :n]
    np.put_along_axis(mask, order, True, axis=1)
    return np.moveaxis(mask.reshape(last.shape), -1, 1)


@given(st.integers(0, 1000), st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 8)]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_n_of_m(seed: int, pattern: tuple[int, int], conv: bool) -> None:
    """N counts what is kept, along input channels, under every scope that keeps the counts equal."""
    n, m = pattern
    shape = (3, 2 * m, 3, 2) if conv else (3, 2 * m)
    values = np.random.default_rng(seed).integers(-3, 4, size=shape) / 4  # ties are the rule
    scores = {"w": torch.from_numpy(values)}
    for allocation in (uniform, global_):
        pooled = {"w": NofM(n, m).pool(scores["w"])}
        keep = allocate(pooled, 1 - n / m, allocation=allocation)
        found = select(scores, keep, NofM(n, m))["w"]
        assert np.array_equal(found.numpy(), grouped_in_numpy(values, n, m))


def test_n_of_m_refuses_what_it_is_not() -> None:
    """Another sparsity, an odd width, or n beyond m."""
    layer = nn.Linear(8, 4)
    with pytest.raises(
        BoxwoodError, match=r"sparsity of 0\.5 with 2:4, .* got masks that keep 10 of 32"
    ):
        find_masks(layer, 0.7, granularity=NofM(2, 4))
    with pytest.raises(BoxwoodError, match=r"multiple of 4 for 2:4, got shape \(2, 6\)"):
        find_masks(nn.Linear(6, 2), 0.5, granularity=NofM(2, 4))
    with pytest.raises(BoxwoodError, match=r"0 < n < m, got n=4, m=2"):
        NofM(4, 2)
    with pytest.raises(BoxwoodError, match=r"with 2, got dims=\(2,\)"):
        find_masks(layer, 0.5, granularity=Slices(dims=(2,)))


def test_two_of_four_again() -> None:
    """Under its own masks 2:4 finds them again, though pruned scores would rank higher."""
    scores = {"w": torch.tensor([[5.0, -1.0, -2.0, 4.0]])}
    within = {"w": torch.tensor([[False, True, True, False]])}
    assert torch.equal(select(scores, {"w": 2}, NofM(2, 4), within)["w"], within["w"])


def test_a_standing_does_not_hide_a_nan() -> None:
    """Scores that are not finite are refused under granularities that rank too."""
    scores = {"w": torch.tensor([[float("nan"), 1.0, 2.0, 3.0]])}
    for granularity in (PerRow(), NofM(2, 4), Slices()):
        with pytest.raises(BoxwoodError, match="finite scores, got 1 NaN"):
            select(scores, {"w": 1}, granularity)


def small() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        inputs = torch.randn(8, 6).double()
    return net, [(inputs, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))]


def scores_of(net: nn.Module, criterion: object, evidence: dict) -> dict[str, Tensor]:
    weights = {name: p.detach() for name, p in linear_and_conv(net).items()}
    return score(weights, criterion, evidence=evidence)


def test_snip_is_the_change_per_fraction_of_a_connection() -> None:
    """|g w| is the derivative of the loss by a gate on the connection."""
    net, batches = small()
    seen = Calibration(net, linear_and_conv(net), batches, cross_entropy)
    found = scores_of(net, criteria.snip, {"gradient": gradient(seen)})
    step = 1e-5
    with torch.no_grad():
        for name, weight in linear_and_conv(net).items():
            for place in [(0, 0), (2, 1)]:
                whole = weight[place].item()
                losses = []
                for gate in (1 + step, 1 - step):
                    weight[place] = gate * whole
                    losses.append(cross_entropy(net(batches[0][0]), batches[0][1]).item())
                weight[place] = whole
                slope = (losses[0] - losses[1]) / (2 * step)
                assert found[name][place].item() == pytest.approx(abs(slope), rel=1e-5)


def test_grasp_drops_what_hinders_the_gradient() -> None:
    """The score is half the derivative of gᵀg by a gate; the paper's drops its largest negative."""
    net, batches = small()
    weights = linear_and_conv(net)
    loss = Call.of(cross_entropy, temperature=200.0)
    seen = Calibration(net, weights, batches, loss)
    found = scores_of(net, criteria.grasp, {"hessian_gradient": hessian_gradient(seen)})

    def flow() -> float:
        value = loss(net(batches[0][0]), batches[0][1])
        return sum(float(g.square().sum()) for g in torch.autograd.grad(value, [*weights.values()]))

    step = 1e-4
    weight = weights["0.weight"]
    for place in [(0, 0), (3, 2)]:
        whole = weight[place].item()
        flows = []
        for gate in (1 + step, 1 - step):
            with torch.no_grad():
                weight[place] = gate * whole
            flows.append(flow())
        with torch.no_grad():
            weight[place] = whole
        slope = (flows[0] - flows[1]) / (2 * step) / 2
        assert found["0.weight"][place].item() == pytest.approx(slope, rel=1e-4, abs=1e-12)
    papers = {name: -score for name, score in found.items()}  # -w ⊙ Hg, the largest are removed
    masks = find_masks(net, 0.5, criterion=criteria.grasp, batches=batches, loss=loss)
    kept = torch.cat([papers[name][mask] for name, mask in masks.items()])
    gone = torch.cat([papers[name][~mask] for name, mask in masks.items()])
    assert kept.max() <= gone.min()


def test_synflow_conserves_flow() -> None:
    """Each layer's scores add up to R, in float64, whatever the data and the signs."""
    net = nn.Sequential(
        nn.Linear(6, 50, bias=False), nn.ReLU(), nn.Linear(50, 4, bias=False), nn.ReLU(),
        nn.Linear(4, 3, bias=False),
    )  # fmt: skip
    seen = Calibration(net, linear_and_conv(net), [torch.full((9, 6), float("nan"))])
    found = scores_of(net, criteria.synflow, {"flow_gradient": flow_gradient(seen)})
    sums = torch.stack([each.sum() for each in found.values()])
    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums, sums[0].expand(3))


def test_synflow_in_rounds_empties_no_layer() -> None:
    """At a sparsity where one round of it, SNIP and magnitude empty a layer, 100 rounds do not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(20, 200, bias=False), nn.ReLU(), nn.Linear(200, 200, bias=False), nn.ReLU(),
            nn.Linear(200, 3, bias=False),
        )  # fmt: skip
    wanted = 0.9995
    settings = {"criterion": criteria.synflow, "batches": [torch.ones(1, 20)]}
    once = find_masks(net, wanted, **settings)
    rounds = find_masks_in_rounds(net, Geometric(final=wanted, end=100), 100, **settings)
    assert min(int(mask.sum()) for mask in once.values()) == 0
    assert min(int(mask.sum()) for mask in rounds.values()) > 0
    assert sum(int(mask.sum()) for mask in rounds.values()) == round((1 - wanted) * 44_600)


def test_rounds() -> None:
    """Masks only shrink, the last round decides, and nothing but the last one warns."""
    net = nn.Linear(10, 10)
    half = find_masks(net, 0.5)
    masks = find_masks_in_rounds(net, Geometric(final=0.75, end=3), 3, masks=None)
    assert sparsity(masks) == 0.75
    further = find_masks_in_rounds(net, Geometric(final=0.75, end=1), 1, masks=half)
    assert not (further["weight"] & ~half["weight"]).any()
    with pytest.warns(NoEffect):
        find_masks_in_rounds(net, Geometric(final=0.0, end=3), 3)
    with pytest.raises(BoxwoodError, match="at least 1 round of pruning, got 0"):
        find_masks_in_rounds(net, Geometric(final=0.5, end=3), 0)


def test_a_gate_is_the_sum_over_its_filter() -> None:
    """Without a norm behind it, ∂E/∂gate is Σ g w over the filter and its bias."""
    net, batches = small()
    weights = linear_and_conv(net)
    seen = Calibration(net, weights, batches, cross_entropy)
    found = gate_gradient_square(seen)["0.weight"]
    slopes = gradient(Calibration(net, dict(net.named_parameters()), batches, cross_entropy))
    sums = (slopes["0.weight"] * net[0].weight).sum(1) + slopes["0.bias"] * net[0].bias
    torch.testing.assert_close(found, sums.detach().square())


def test_a_gate_sits_behind_the_norm() -> None:
    """There ∂E/∂gate is γ ∂E/∂γ + β ∂E/∂β, batch by batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
        ).double()
        nn.init.normal_(net[1].weight)
        nn.init.normal_(net[1].bias)
        x, y = torch.randn(6, 2, 3, 3).double(), torch.tensor([0, 1, 1, 0, 1, 0])
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    found = gate_gradient_square(
        Calibration(net, {"0.weight": net[0].weight}, batches, cross_entropy)
    )
    wanted = torch.zeros(3).double()
    for part in batches:
        norm = {"1.weight": net[1].weight, "1.bias": net[1].bias}
        slopes = gradient(Calibration(net, norm, [part], cross_entropy))
        gate = slopes["1.weight"] * net[1].weight + slopes["1.bias"] * net[1].bias
        wanted += gate.detach().square() / 2
    torch.testing.assert_close(found["0.weight"], wanted)


def test_taylor_sums_over_filters() -> None:
    """Pooled by `total`, a filter's score is Σ (g w)² over its weights, mean over batches."""
    net, [(inputs, targets)] = small()
    batches = [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
    slices = Slices(pooling=total)
    by_hand = torch.zeros(5).double()
    for x, y in batches:
        (slope,) = torch.autograd.grad(cross_entropy(net(x), y), net[0].weight)
        by_hand += (slope * net[0].weight.detach()).square().sum(1) / 2
    masks = find_masks(
        net, 0.4, criterion=criteria.taylor, granularity=slices, allocation=uniform, loss=cross_entropy,
        batches=batches,
    )  # fmt: skip
    assert set(masks["0.weight"].all(1).nonzero().view(-1).tolist()) == set(
        by_hand.argsort(descending=True)[:3].tolist()
    )


def test_fpgm_by_hand() -> None:
    """Summed distances to all other filters, however close they are to each other."""
    weight = torch.tensor([[[[0.0, 0.0]]], [[[3.0, 4.0]]], [[[0.0, 1.0]]]])
    found = criteria.geometric_median(weight).flatten()
    torch.testing.assert_close(found, torch.tensor([6.0, 5 + 18**0.5, 1 + 18**0.5]))
    close = 1e3 + torch.tensor([[0.0], [1e-3], [3e-3]], dtype=torch.float64)
    found = criteria.geometric_median(close.expand(3, 30)).flatten() / 30**0.5
    torch.testing.assert_close(found, torch.tensor([4e-3, 3e-3, 5e-3]).double(), rtol=1e-6, atol=0)


def test_hrank_by_hand() -> None:
    """A map of one value has rank 1, a diagonal one full rank, a dead one rank 0."""
    net = nn.Conv2d(1, 3, 1)
    with torch.no_grad():
        net.weight[:] = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1, 1)
        net.bias[:] = torch.tensor([2.0, 0.0, 0.0])
    images = torch.diag_embed(torch.ones(2, 1, 4))
    found = feature_rank(Calibration(net, {"weight": net.weight}, [images]))
    assert found["weight"].tolist() == [1.0, 4.0, 0.0]


def test_input_norm_of_convolutions() -> None:
    """It is the norm of the unfolded inputs, for grouped, strided and padded convolutions."""
    net = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2).double()
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    found = input_norm(Calibration(net, {"weight": net.weight}, [x[:1], x[1:]]))["weight"]
    columns = nn.functional.unfold(x, 3, padding=1, stride=2).square().sum((0, 2)).sqrt()
    wanted = columns.view(2, 1, 2, 3, 3).expand(2, 3, 2, 3, 3).reshape(6, 2, 3, 3)
    torch.testing.assert_close(found, wanted)


def test_squared_error_and_temperature() -> None:
    """Sums over outputs, means over examples; logits are divided."""
    outputs = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert squared_error(outputs, torch.tensor([0, 1])).item() == 0.25
    hot = cross_entropy(200 * outputs, torch.tensor([0, 1]), temperature=200.0)
    torch.testing.assert_close(hot, cross_entropy(outputs, torch.tensor([0, 1])))
