"""Laws that the scores and the evidence of every criterion in the table keep."""

import copy
import importlib.util
import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwood import criteria
from boxwood._internal.core import spec
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.gathering import COLLECTORS, gather
from boxwood._internal.model.oneshot import find_masks
from boxwood._internal.model.prunable import linear_and_conv
from boxwood._internal.model.scoring import score
from boxwood.errors import BoxwoodError

_SPEC = importlib.util.spec_from_file_location(
    "criteria_table", Path(__file__).parent / "criteria_table.py"
)
table = importlib.util.module_from_spec(_SPEC)
sys.modules["criteria_table"] = table  # dataclasses look their module up
_SPEC.loader.exec_module(table)
CASES, ROWS, Row, batches, make, scores_of, squared = (
    table.CASES,
    table.ROWS,
    table.Row,
    table.batches,
    table.make,
    table.scores_of,
    table.squared,
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


@pytest.mark.parametrize(("row", "net"), CASES)
def test_what_is_pruned_counts_as_zero(row: Row, net: Callable[[], nn.Module]) -> None:
    """Evidence under masks is that of the network with zeros in it."""
    if row.criterion in (criteria.movement, criteria.woodfisher, criteria.cap):
        pytest.skip("its evidence is a training's, or what is pruned has no part in its blocks")
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
