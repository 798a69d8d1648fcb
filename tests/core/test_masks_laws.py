"""Masks keep what they say through every operation on them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwood._internal.core.masks import (
    apply,
    apply_,
    combine,
    kept,
    pack,
    sparsity,
    unpack,
    validate,
)
from boxwood.errors import BoxwoodError


@st.composite
def masks(draw: st.DrawFn) -> Tensor:
    """Draw a mask of 0 to 3 dimensions, maybe empty."""
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    many = int(torch.tensor(shape).prod()) if shape else 1
    flat = draw(st.lists(st.booleans(), min_size=many, max_size=many))
    return torch.tensor(flat, dtype=torch.bool).view(tuple(shape))


@given(masks())
@settings(deadline=None)
def test_packing_round_trip(mask: Tensor) -> None:
    """Bits hold a mask of any shape, eight weights to a byte."""
    bits = pack({"w": mask})
    assert bits["w"].dtype == torch.uint8
    assert bits["w"].numel() == -(-mask.numel() // 8)
    assert torch.equal(unpack(bits, {"w": mask.shape})["w"], mask)


def test_packing_is_in_c_order() -> None:
    """The layout in memory does not matter: a transposed mask is packed in its own order."""
    mask = torch.tensor([[True, False], [True, True], [False, False]]).t()
    assert pack({"w": mask})["w"].tolist() == [0b010011]


@given(masks(), st.data())
@settings(deadline=None)
def test_combining_is_an_intersection(mask: Tensor, data: st.DataObject) -> None:
    """Commutative, idempotent, and it keeps what both keep; masks of one side stay."""
    other = mask.clone().bernoulli_(0.5, generator=torch.Generator().manual_seed(0))
    only = torch.tensor([True, False])
    both = combine({"w": mask, "v": only}, {"w": other})
    assert torch.equal(both["w"], mask & other)
    assert torch.equal(both["v"], only)
    assert torch.equal(combine({"w": other}, {"w": mask})["w"], both["w"])
    assert torch.equal(combine({"w": mask}, {"w": mask})["w"], mask)


@given(masks())
@settings(deadline=None)
def test_counts(mask: Tensor) -> None:
    """Kept and pruned add up."""
    assert kept({"w": mask, "v": mask}) == 2 * int(mask.sum())
    expected = 1 - int(mask.sum()) / mask.numel() if mask.numel() else 0.0
    assert sparsity({"w": mask}) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_applying_leaves_no_trace(dtype: torch.dtype) -> None:
    """Positive zeros where False, even of NaN and of negatives; the rest bit for bit."""
    weight = torch.tensor([float("nan"), float("inf"), -1.0, -2.0, -0.0], dtype=dtype)
    mask = torch.tensor([False, False, False, True, True])
    tensors = {"w": weight, "other": weight.clone()}
    new = apply(tensors, {"w": mask})
    assert not torch.signbit(new["w"][:3]).any()
    assert torch.equal(new["w"], torch.tensor([0, 0, 0, -2, 0], dtype=dtype))
    assert torch.signbit(new["w"][4])
    assert new["other"] is tensors["other"]
    assert weight[0].isnan()
    apply_(tensors, {"w": mask})
    assert torch.equal(weight, new["w"])


def test_refusals() -> None:
    """A mask that does not fit its tensor is refused, and says how."""
    tensors = {f"w{i}": torch.ones(2) for i in range(9)}
    yes = torch.ones(2, dtype=torch.bool)
    with pytest.raises(BoxwoodError, match=r"a mask for 'x', .* none of its 9 tensors \(w0.*, …\)"):
        validate(tensors, {"x": yes})
    with pytest.raises(BoxwoodError, match=r"bool mask for 'w0', got torch\.float32; use `mask !="):
        apply(tensors, {"w0": yes.float()})
    with pytest.raises(BoxwoodError, match=r"shape \(2,\) for 'w0', got \(3,\); make the mask"):
        apply_(tensors, {"w1": ~yes, "w0": torch.ones(3, dtype=torch.bool)})
    assert tensors["w1"].tolist() == [1, 1]
    with pytest.raises(BoxwoodError, match=r"Expected a mask of shape \(2,\)"):
        combine({"w": yes}, {"w": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(BoxwoodError, match=r"a shape for the mask 'w', got shapes for v; load"):
        unpack(pack({"w": yes}), {"v": (2,)})
    with pytest.raises(BoxwoodError, match=r"2 bytes for the mask 'w' of shape \(3, 3\), got 1"):
        unpack(pack({"w": yes}), {"w": (3, 3)})
