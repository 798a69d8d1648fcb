"""Every criterion of the table under every granularity and allocation."""

import importlib.util
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch

from boxwood._internal.core.allocation import Allocation, ByName, global_, uniform
from boxwood._internal.core.allocation_by_layer import OutlierWeighed, erdos_renyi_kernel, lamp
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import (
    Elements,
    Granularity,
    NofM,
    PerRow,
    Slices,
    largest,
    total,
)
from boxwood._internal.model.prunable import linear_and_conv
from boxwood.errors import BoxwoodError

_SPEC = importlib.util.spec_from_file_location(
    "criteria_table", Path(__file__).parent / "criteria_table.py"
)
table = importlib.util.module_from_spec(_SPEC)
sys.modules["criteria_table"] = table  # dataclasses look their module up
_SPEC.loader.exec_module(table)
ROWS, Row, make, pruned = table.ROWS, table.Row, table.make, table.pruned

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
        with pytest.raises(
            BoxwoodError, match=r"not negative for lamp, got some below zero in '.*'; use"
        ):
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
