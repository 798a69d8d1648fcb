"""Refinement of masks against an obvious version of it, and what it promises."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import unfold

from boxwood._internal.core.allocation import uniform
from boxwood._internal.core.dsnot import dsnot
from boxwood._internal.core.granularity import NofM, PerRow
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.moments import input_moments
from boxwood._internal.model.mask_refinement import refine_masks
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood.criteria import wanda
from boxwood.errors import BoxwoodError


def problem(seed: int, rows: int, columns: int, grouped: NofM | None) -> tuple[Tensor, ...]:
    """Draw weights, a mask, and inputs whose means are not zero; return sums, variances, norms too."""
    chance = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, dtype=torch.float64, generator=chance)
    inputs = torch.randn(40, columns, dtype=torch.float64, generator=chance)
    inputs = inputs * torch.rand(columns, generator=chance) + torch.randn(columns, generator=chance)
    scores = torch.rand(rows, columns, generator=chance)
    if grouped is None:
        mask = scores < 0.5
    else:
        mask = grouped.rank(grouped.pool(scores), None) > 1 - grouped.n / grouped.m
    return weight, mask, inputs.sum(0) / 8, inputs.var(0, correction=0), inputs.norm(dim=0)


def slow(
    weight: Tensor, mask: Tensor, sums: Tensor, variances: Tensor, norms: Tensor, *, cycles: int = 50,
    grouped: NofM | None = None, threshold: float = 0.1,
) -> Tensor:  # fmt: skip
    """One weight at a time, in Python's numbers."""
    mask = mask.clone()
    for w, kept in zip(weight.tolist(), mask, strict=True):
        adds = [a * b for a, b in zip(w, sums.tolist(), strict=True)]
        changed: set[int] = set()
        for _ in range(cycles):
            error = sum(a for a, k in zip(adds, kept.tolist(), strict=True) if not k)
            if abs(error) <= threshold:
                break
            sign = math.copysign(1, error)
            free = [i for i in range(len(w)) if i not in changed]
            pruned = [i for i in free if not kept[i] and sign * adds[i] > 0]
            if not pruned:
                break
            back = max(pruned, key=lambda i: sign * adds[i] / float(variances[i]))
            near = [j for j in free if kept[j]]
            if grouped is None:
                near = [j for j in near if sign * adds[j] < 0]
            else:
                near = [j for j in near if j // grouped.m == back // grouped.m]
            if not near:
                break
            gone = min(near, key=lambda j: abs(w[j]) * float(norms[j]))
            if abs(error - adds[back] + adds[gone]) >= abs(error):
                break
            kept[back], kept[gone] = True, False
            changed |= {back, gone}
    return mask


@pytest.mark.parametrize("grouped", [None, NofM(2, 4), NofM(1, 3)])
@given(st.integers(0, 10_000), st.sampled_from([0, 1, 3, 50]), st.sampled_from([0.0, 0.1, 2.0]))
@settings(max_examples=25, deadline=None)
def test_exchanges_are_those_of_the_obvious_version(
    grouped: NofM | None, seed: int, cycles: int, threshold: float
) -> None:
    """Row by row; the count of each row stays, and the expected error never rises."""
    weight, mask, *inputs = problem(seed, 5, 12, grouped)
    found = dsnot(weight, mask, *inputs, grouped=grouped, cycles=cycles, threshold=threshold)
    assert torch.equal(
        found, slow(weight, mask, *inputs, grouped=grouped, cycles=cycles, threshold=threshold)
    )
    assert torch.equal(found.sum(1), mask.sum(1))
    assert (found ^ mask).sum(1).max() <= 2 * cycles
    errors = [(weight * inputs[0]).masked_fill(each, 0).sum(1).abs() for each in (found, mask)]
    assert (errors[0] <= errors[1]).all()
    done = (found != mask).any(1)
    assert (errors[0] < errors[1])[done].all()
    assert (errors[1][done] > threshold).all()
    if grouped is not None:
        assert (found.view(5, -1, grouped.m).sum(2) == grouped.n).all()


def test_the_rules_by_hand() -> None:
    """What varies least comes back first; what goes has the other sign, and the lowest |w| ‖x‖."""
    weight = torch.tensor([[1.0, 1.0, -2.0, -1.0, 9.0]])
    mask = torch.tensor([[False, False, True, True, True]])
    sums, norms = torch.ones(5), torch.tensor([1.0, 1.0, 1.0, 3.0, 0.1])
    variances = torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0])
    # Δ = 2: weight 1 comes back; of the negative ones, weight 2 scores 2 and weight 3 scores 3. Then
    # Δ = -1, and nothing that is pruned and has not changed is negative.
    assert dsnot(weight, mask, sums, variances, norms).tolist() == [
        [False, True, False, True, True]
    ]
    assert torch.equal(dsnot(weight, mask, sums, variances, norms, threshold=2.0), mask)
    # Without a weight to prune there is no exchange, and with n of m it lies in the same m.
    assert torch.equal(dsnot(weight.abs(), mask, sums, variances, norms), mask)
    pair = torch.tensor([[2.0, 1.0, 5.0, 5.0]]), torch.tensor([[False, True, True, False]])
    found = dsnot(*pair, torch.tensor([1.0, 1.0, 1.0, 0.0]), *torch.ones(2, 4), grouped=NofM(1, 2))
    assert found.tolist() == [[True, False, True, False]]


def test_inputs_that_never_change() -> None:
    """A constant input has no variance: it comes back first. One that is zero adds nothing."""
    weight, mask = (
        torch.tensor([[1.0, 1.0, -0.5, 1.0]]),
        torch.tensor([[False, False, True, False]]),
    )
    sums, variances = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert dsnot(weight, mask, sums, variances, torch.ones(4)).tolist() == [[False, True, False, False]]  # fmt: skip


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 2),
            nn.ReLU(), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4),
        ).double()  # fmt: skip


def batches() -> list[Tensor]:
    chance = torch.Generator().manual_seed(1)
    return list((1 + torch.randn(40, 8, 4, 4, dtype=torch.float64, generator=chance)).split(16))


def test_moments_of_a_convolutions_inputs() -> None:
    """Those under the kernel, of each group, padding and overlaps included."""
    net, images = network(), batches()
    found = input_moments(Calibration(net, {"0.weight": net[0].weight}, images))["0.weight"]
    columns = unfold(torch.cat(images), 3, padding=1).view(40, 2, 36, 16)
    flat = columns.permute(1, 2, 0, 3).flatten(2)
    torch.testing.assert_close(found.sum, flat.sum(2) / 40)
    torch.testing.assert_close(found.variance, flat.var(2, correction=0))
    torch.testing.assert_close(found.norm, flat.norm(dim=2))


@pytest.mark.parametrize("grouped", [None, NofM(2, 4)])
def test_networks(grouped: NofM | None) -> None:
    """Each layer's mean output comes nearer to the dense layer's; counts and the network stay."""
    net = network()
    before = copy.deepcopy(net.state_dict())
    masks = find_masks(
        net, 0.5, criterion=wanda, granularity=grouped or PerRow(), allocation=uniform, batches=batches(),
    )  # fmt: skip
    found = refine_masks(net, masks, batches(), grouped=grouped, threshold=0.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert found.keys() == masks.keys()
    totals = torch.zeros(2, dtype=torch.float64)
    for name, mask in found.items():
        assert torch.equal(mask.flatten(1).sum(1), masks[name].flatten(1).sum(1))
        layer = net.get_submodule(name.removesuffix(".weight"))
        seen: list[Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            for images in batches():
                net(images)
        handle.remove()
        apart = []
        for each in (masks[name], mask):
            other = copy.deepcopy(layer)
            apply_masks_(other, {"weight": each})
            with torch.no_grad():
                difference = torch.cat([layer(x) - other(x) for x in seen])
            apart.append(difference.transpose(0, 1).flatten(1).mean(1).abs())
        assert (apart[1] <= apart[0] + 1e-12).all()
        totals += torch.stack([each.sum() for each in apart])
        if grouped is not None:
            kept = mask.movedim(1, -1).reshape(-1, 4).sum(1)
            assert (kept == 2).all()
    assert totals[1] < 0.7 * totals[0]


def test_refusals() -> None:
    """Settings, shapes and masks that are no n of m."""
    weight, mask, *inputs = problem(0, 3, 8, None)
    for wrong in ({"cycles": -1}, {"threshold": -0.5}, {"threshold": math.nan}):
        with pytest.raises(
            BoxwoodError, match="Expected cycles >= 0 and threshold >= 0, got cycle"
        ):
            dsnot(weight, mask, *inputs, **wrong)
    with pytest.raises(BoxwoodError, match=r"got shapes \(3, 8\), \(3, 7\), \(8,\)"):
        dsnot(weight, mask[:, 1:], *inputs)
    with pytest.raises(BoxwoodError, match=r"Expected a sparsity of 0\.5 with 2:4"):
        dsnot(weight, mask, *inputs, grouped=NofM(2, 4))
    with pytest.raises(BoxwoodError, match="masks named after tensors of the model"):
        refine_masks(network(), {"wrong": mask}, batches())
