"""The conformance table: one row per criterion, and the laws that every row keeps.

To add a criterion, add a row: the criterion, what its scores promise, and the networks it is for.
"""

import copy
import inspect
import re
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwood import criteria
from boxwood._internal.core import spec
from boxwood._internal.core.allocation import Allocation, ByName, global_, uniform
from boxwood._internal.core.allocation_by_layer import OutlierWeighed, erdos_renyi_kernel, lamp
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.call import Call
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.core.granularity import (
    Elements,
    Granularity,
    NofM,
    PerRow,
    Slices,
    largest,
    total,
)
from boxwood._internal.core.masks import Masks
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.gathering import COLLECTORS, gather
from boxwood._internal.model.evidence.movement import TrackMovement
from boxwood._internal.model.oneshot import find_masks
from boxwood._internal.model.prunable import linear_and_conv
from boxwood._internal.model.scoring import Criterion, score
from boxwood.errors import BoxwoodError


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1).mean()


def chain() -> nn.Module:
    """A plain chain: convolution, pooling, linear layers."""
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 4),
    )  # fmt: skip


class Residual(nn.Module):
    """Grouped, strided and dilated convolutions with norms, and a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.norm2 = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)
        self.norm3 = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm1(self.first(x)))
        x = x + torch.relu(self.norm2(self.second(x)))
        return self.drop(self.norm3(self.last(x))).mean((2, 3))


@dataclass(frozen=True)
class Row:
    """A criterion and what it promises.

    Args:
        signed: scores may be negative.
        networks: those that can give its evidence.
        degree: scores grow as scale**degree if the weight alone grows.
    """

    criterion: Criterion
    signed: bool = False
    per_filter: bool = False
    networks: tuple[Callable[[], nn.Module], ...] = (chain, Residual)
    degree: int = 1

    def __str__(self) -> str:
        return getattr(self.criterion, "function", self.criterion).__name__


ROWS = (
    Row(criteria.magnitude),
    Row(Call.of(criteria.magnitude, p=2), degree=2),
    Row(criteria.random, degree=0),
    Row(criteria.magnitude_over_std, degree=0),
    Row(criteria.magnitude_over_survivor_std, degree=0),
    Row(criteria.snip),
    Row(criteria.grasp, signed=True),
    Row(criteria.synflow),
    Row(criteria.taylor, degree=2),
    Row(criteria.movement, signed=True, degree=0),
    Row(criteria.gradient_magnitude, degree=0),
    Row(criteria.obd, networks=(chain,), degree=2),
    Row(criteria.obd_full, signed=True, networks=(chain,), degree=2),
    Row(criteria.fisher, degree=2),
    Row(criteria.hutchinson, signed=True, degree=2),
    Row(criteria.obs, degree=2),
    Row(criteria.wanda),
    Row(criteria.ria, degree=0),
    Row(criteria.geometric_median, per_filter=True),
    Row(criteria.network_slimming, per_filter=True, networks=(Residual,), degree=0),
    Row(criteria.rank_of_features, per_filter=True, networks=(Residual,), degree=0),
    Row(criteria.taylor_gate, per_filter=True, degree=0),
)
CASES = [pytest.param(row, net, id=f"{row}-{net.__name__}") for row in ROWS for net in row.networks]
GRANULARITIES: tuple[Granularity, ...] = (
    Elements(),
    Slices(),
    Slices(dims=(1,), pooling=total),
    Slices(dims=(0, 1), pooling=largest),
    PerRow(),
    NofM(2, 4),
    Blocks(1, 4),
)
SCOPES: tuple[Allocation, ...] = (global_, uniform, erdos_renyi_kernel, lamp, OutlierWeighed(2.0))


def named(value: object) -> str:
    """Name a case the same in every process: a function's ``repr`` holds its address."""
    return re.sub(r"<function (\w+) at 0x\w+>", r"\1", repr(value))


def make(net: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = net()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, -1, 1)
                nn.init.normal_(module.running_mean)
    return model


def batches(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 4, 4, 4, generator=generator).to(dtype),
            torch.randn(n, 4, generator=generator).to(dtype),
        )
        for n in (5, 3)
    ]


def tracked(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Movement of two steps, taken on a copy."""
    trained = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)
    track = TrackMovement(optimizer, linear_and_conv(trained))
    for inputs, targets in batches(next(model.parameters()).dtype):
        optimizer.zero_grad()
        squared(trained(inputs), targets).backward()
        optimizer.step()
    return track.evidence()


def scores_of(row: Row, model: nn.Module, masks: Masks | None = None) -> dict[str, Tensor]:
    weights = linear_and_conv(model)
    dtype = next(model.parameters()).dtype
    seen = Calibration(model, weights, batches(dtype), squared, masks)
    given = tracked(model) if "weight_movement" in evidence_of(row.criterion) else None
    found = gather(evidence_of(row.criterion), seen, given)
    detached = {name: weight.detach() for name, weight in weights.items()}
    return score(detached, row.criterion, masks=masks, evidence=found)


def pruned(row: Row, model: nn.Module, sparsity: float | None, **settings: Any) -> Masks:
    if "weight_movement" in evidence_of(row.criterion):
        settings["evidence"] = tracked(model)
    return find_masks(
        model, sparsity, criterion=row.criterion, loss=squared, batches=batches(), **settings
    )


@pytest.mark.parametrize(("row", "net"), CASES)
def test_scores_fit_and_are_finite(row: Row, net: Callable[[], nn.Module]) -> None:
    """Scores have the weights' shapes, are finite, detached, and as signed as they promise."""
    model = make(net)
    scores = scores_of(row, model)
    for name, weight in linear_and_conv(model).items():
        assert scores[name].shape == weight.shape
        assert scores[name].isfinite().all()
        assert not scores[name].requires_grad
        assert row.signed or (scores[name] >= 0).all()
        if row.per_filter:
            assert (scores[name].flatten(1) == scores[name].flatten(1)[:, :1]).all()
    assert any((each != 0).any() for each in scores.values())


@pytest.mark.parametrize(("row", "net"), CASES)
def test_gathering_leaves_no_trace(row: Row, net: Callable[[], nn.Module]) -> None:
    """Weights, buffers, gradients, modes, hooks, requires_grad and random numbers stay."""
    model = make(net)
    model.train()
    next(model.children()).eval()
    first = next(model.parameters())
    first.requires_grad_(False)
    last = list(model.parameters())[-1]
    last.grad = torch.ones_like(last)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identities = {name: p.data_ptr() for name, p in model.named_parameters()}
    random = torch.get_rng_state()
    half = {name: torch.rand_like(p) < 0.7 for name, p in linear_and_conv(model).items()}
    torch.set_rng_state(random)
    scores_of(row, model, half)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert identities == {name: p.data_ptr() for name, p in model.named_parameters()}
    assert [p.grad is None for p in model.parameters()][:-1] == [True] * (len(identities) - 1)
    assert torch.equal(last.grad, torch.ones_like(last))
    assert not first.requires_grad
    assert model.training
    assert not next(model.children()).training
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize(("row", "net"), CASES)
def test_scores_repeat(row: Row, net: Callable[[], nn.Module]) -> None:
    """Asked twice, whatever the global random numbers, the scores are the same."""
    model = make(net)
    first = scores_of(row, model)
    torch.manual_seed(99)
    again = scores_of(row, model)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(("row", "net"), CASES)
def test_scores_follow_the_filters(row: Row, net: Callable[[], nn.Module]) -> None:
    """With filters of the last layer in another order, its scores are in that order."""
    if row.criterion in (criteria.random, criteria.hutchinson, criteria.movement):
        pytest.skip("it looks at places, or at a training")
    model, moved = make(net).double(), make(net).double()
    order = torch.tensor([2, 0, 3, 1])
    tail = [module for module in moved.modules() if hasattr(module, "weight")]
    head = next(i for i, module in enumerate(tail) if len(module.weight) == 4)
    with torch.no_grad():
        for module in tail[head:]:
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.dim():
                    tensor.copy_(tensor[order])
    name = list(linear_and_conv(model))[-1]
    swapped = [(x, y[:, order]) for x, y in batches(torch.float64)]
    found = scores_of(row, model)[name]
    weights = linear_and_conv(moved)
    seen = Calibration(moved, weights, swapped, squared)
    evidence = gather(evidence_of(row.criterion), seen)
    again = score({n: w.detach() for n, w in weights.items()}, row.criterion, evidence=evidence)
    torch.testing.assert_close(again[name], found[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_the_degree_in_the_weight(row: Row, scale: float) -> None:
    """With the evidence held fixed, scores grow by a known power of the weight's scale."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    evidence: dict[str, Any] = {
        "weight": weight,
        "name": "w",
        "mask": torch.ones(6, 5, dtype=torch.bool),
    }
    filters = {"norm_scale", "feature_rank", "gate_gradient_square"}
    for kind in COLLECTORS:
        shape = (6,) if kind in filters else (6, 5)
        evidence[kind] = torch.rand(shape, dtype=torch.float64, generator=generator) + 0.1
    needs = evidence_of(row.criterion)
    scores = row.criterion(*(evidence[need] for need in needs))
    evidence["weight"] = scale * weight
    scaled = row.criterion(*(evidence[need] for need in needs))
    torch.testing.assert_close(scaled, scale**row.degree * scores)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=named)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_granularity(row: Row, granularity: Granularity) -> None:
    """Half of the groups stay, exactly, and groups live or die as one."""
    model = make(row.networks[-1])
    masks = pruned(row, model, 0.5, granularity=granularity, allocation=uniform)
    for name, weight in linear_and_conv(model).items():
        mask = masks[name]
        assert mask.dtype == torch.bool
        assert mask.shape == weight.shape
        groups = granularity.pool(torch.ones(weight.shape)).numel()
        assert int(mask.sum()) == round(0.5 * groups) * weight.numel() // groups
        if isinstance(granularity, Slices):
            others = [dim for dim in range(mask.dim()) if dim not in granularity.dims]
            shares = mask.float().mean(others) if others else mask.float()
            assert ((shares == 0) | (shares == 1)).all()
        if isinstance(granularity, Blocks):
            assert torch.equal(granularity.spread(granularity.alive(mask), mask.shape), mask)


@pytest.mark.parametrize("allocation", SCOPES, ids=named)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_scope(row: Row, allocation: Allocation) -> None:
    """The total is exact under every allocation; lamp refuses scores that may be negative."""
    model = make(row.networks[-1])
    size = sum(weight.numel() for weight in linear_and_conv(model).values())
    if row.signed and allocation is lamp:
        with pytest.raises(BoxwoodError, match=r"not negative for lamp, got -.* in '.*'; take"):
            pruned(row, model, 0.7, allocation=allocation)
        return
    masks = pruned(row, model, 0.7, allocation=allocation)
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.3 * size)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_pruning_further(row: Row) -> None:
    """What is pruned stays pruned, for groups too, and the sparsity is the total."""
    model = make(row.networks[-1])
    for granularity in (Elements(), PerRow(), Slices(), Blocks(1, 4)):
        first = pruned(row, model, 0.25, granularity=granularity, allocation=uniform)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            further = pruned(
                row, model, 0.5, granularity=granularity, allocation=uniform, masks=first
            )
        for name, mask in further.items():
            assert not (mask & ~first[name]).any()
            groups = granularity.pool(torch.ones(mask.shape)).numel()
            assert int(mask.sum()) == round(0.5 * groups) * mask.numel() // groups


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_scopes_by_name_and_floors(row: Row) -> None:
    """Patterns and floors work for every criterion."""
    model = make(row.networks[-1])
    last = list(linear_and_conv(model))[-1]
    masks = pruned(row, model, None, allocation=ByName(((last, 0.75),)))
    assert int(masks[last].sum()) == round(0.25 * masks[last].numel())
    assert all(mask.all() for name, mask in masks.items() if name != last)
    assert all(int(mask.sum()) >= 3 for mask in pruned(row, model, 0.95, floor=3).values())


@pytest.mark.parametrize(("row", "net"), CASES)
def test_what_is_pruned_counts_as_zero(row: Row, net: Callable[[], nn.Module]) -> None:
    """Evidence under masks is that of the network with zeros in it."""
    if row.criterion is criteria.movement:
        pytest.skip("its evidence is a training's")
    model = make(net)
    generator = torch.Generator().manual_seed(3)
    masks = {
        name: torch.rand(weight.shape, generator=generator) < 0.6
        for name, weight in linear_and_conv(model).items()
    }
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in linear_and_conv(zeroed).items():
            weight.masked_fill_(~masks[name], 0)
    seen = Calibration(model, linear_and_conv(model), batches(), squared, masks)
    alike = Calibration(zeroed, linear_and_conv(zeroed), batches(), squared)
    needs = evidence_of(row.criterion)
    first, second = gather(needs, seen), gather(needs, alike)
    for kind, tensors in first.items():
        assert all(torch.equal(tensors[name], second[kind][name]) for name in tensors)


class Stream:
    """Batches made as they are asked for, each only once the one before it is gone."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        last: weakref.ref | None = None
        for inputs, targets in batches():
            assert last is None or last() is None
            fresh = inputs.clone()
            last = weakref.ref(fresh)
            yield fresh, targets
            del fresh


@pytest.mark.parametrize(("row", "net"), CASES)
def test_one_batch_at_a_time(row: Row, net: Callable[[], nn.Module]) -> None:
    """Nothing holds on to a batch, or to its graph, when the next one is asked for."""
    if row.criterion is not criteria.movement:
        model = make(net)
        gather(
            evidence_of(row.criterion),
            Calibration(model, linear_and_conv(model), Stream(), squared),
        )


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_evidence_needs_batches(row: Row) -> None:
    """A criterion that asks for evidence is refused without batches, or without a loss."""
    needs = set(evidence_of(row.criterion)) & set(COLLECTORS)
    model = make(row.networks[-1])
    if not needs:
        find_masks(model, 0.5, criterion=row.criterion)
        return
    with pytest.raises(BoxwoodError, match=r"got (none|None); (give|attach)"):
        find_masks(model, 0.5, criterion=row.criterion)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_criterion_is_data(row: Row) -> None:
    """It is written into recipes by its public name, and read again."""
    written = spec.encode(row.criterion)
    assert spec.decode(written) == row.criterion
    assert "boxwood.criteria:" in str(written)
    assert criteria.__dict__[str(row)].__doc__.count("Source: ") == 1


def test_every_criterion_has_a_row() -> None:
    """Nothing that is exported is missing from the table, and no collector is without a user."""
    listed = {name for name in criteria.__all__ if inspect.isfunction(getattr(criteria, name))}
    assert {str(row) for row in ROWS} == listed
    used = {need for row in ROWS for need in evidence_of(row.criterion)}
    assert used == {*COLLECTORS, "weight", "mask", "name"}
