"""Selection keeps exactly as many as asked, the highest first, ties in order."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwood._internal.core import selection
from boxwood._internal.core.allocation import allocate, global_
from boxwood._internal.core.radix_select import Threshold
from boxwood._internal.core.selection import candidates, count_above, kth_largest, select
from boxwood.errors import BoxwoodError

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
FEW = st.sampled_from([0, 1 << 15])
"""Up to how many scores are partitioned; more are counted in a histogram."""
# Few distinct values, so that ties are the rule; both zeros, and denormals of float32.
VALUES = st.sampled_from([-2.5, -1.0, -0.0, 0.0, 1e-40, 0.5, 1.0, 1.0078125, 3.0, -1e-40])


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor | None, int]:
    """Draw scores, maybe masks so far, and a count."""
    many = draw(st.integers(1, 40))
    numbers = st.floats(-1e4, 1e4, width=32) if draw(st.booleans()) else VALUES
    values = draw(st.lists(numbers, min_size=many, max_size=many))
    score = torch.tensor(values, dtype=torch.float64).to(draw(st.sampled_from(DTYPES)))
    inside = None
    if draw(st.booleans()):
        inside = torch.tensor(draw(st.lists(st.booleans(), min_size=many, max_size=many)))
    most = many if inside is None else int(inside.sum())
    return score, inside, draw(st.integers(0, most))


def naive(score: Tensor, inside: Tensor | None, keep: int) -> Tensor:
    """Sort stably, highest first, and take the first."""
    order = torch.argsort(score.double(), descending=True, stable=True)
    if inside is not None:
        order = order[inside[order]]
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[order[:keep]] = True
    return mask


@given(problems(), st.sampled_from([1, 3, 7, 1 << 20]), FEW)
@settings(max_examples=300, deadline=None)
def test_selection_is_a_stable_sort(
    problem: tuple[Tensor, Tensor | None, int], chunk: int, few: int
) -> None:
    """The mask is that of a stable sort, for every float type, sign, chunk size and way."""
    score, inside, keep = problem
    within = None if inside is None else {"w": inside}
    with patch.object(selection, "_CHUNK", chunk), patch.object(selection, "_FEW", few):
        mask = select({"w": score}, {"w": keep}, masks=within)["w"]
    assert torch.equal(mask, naive(score, inside, keep))
    assert int(mask.sum()) == keep


@given(problems(), problems(), st.sampled_from([2, 1 << 20]), FEW, st.data())
@settings(max_examples=150, deadline=None)
def test_the_threshold_is_the_kth_of_all_tensors(
    first: tuple[Tensor, Tensor | None, int],
    second: tuple[Tensor, Tensor | None, int],
    chunk: int,
    few: int,
    data: st.DataObject,
) -> None:
    """Ranked together, of one float type or of two, k scores lie at or above the k-th."""
    scores = {"a": first[0], "b": second[0]}
    ranked = torch.cat([score.double() for score in scores.values()]).sort(descending=True).values
    k = data.draw(st.integers(1, len(ranked)))
    with patch.object(selection, "_CHUNK", chunk), patch.object(selection, "_FEW", few):
        limit = kth_largest(scores, k)
        above = [count_above(score, limit.value) for score in scores.values()]
        at_least = [count_above(score, limit.value, or_equal=True) for score in scores.values()]
    assert limit.value == ranked[k - 1].item()
    assert limit.ties == k - int((ranked > limit.value).sum())
    assert sum(above) + limit.ties == k
    assert sum(at_least) == int((ranked >= limit.value).sum())


@given(problems(), problems(), FEW, st.data())
@settings(max_examples=300, deadline=None)
def test_a_tensor_is_selected_alike_with_and_without_others(
    first: tuple[Tensor, Tensor | None, int],
    second: tuple[Tensor, Tensor | None, int],
    few: int,
    data: st.DataObject,
) -> None:
    """What one tensor keeps depends on its own count alone, also where a threshold is shared."""
    scores = {"a": first[0], "b": second[0], "c": first[0].flip(0)}
    within = {n: m for n, m in (("a", first[1]), ("b", second[1])) if m is not None}
    most = candidates(scores, within)
    keep = {name: data.draw(st.integers(0, most[name])) for name in scores}
    if data.draw(st.booleans()):
        keep = allocate(scores, data.draw(st.floats(0, 0.9)), allocation=global_)
        keep = {name: min(count, most[name]) for name, count in keep.items()}
    with patch.object(selection, "_FEW", few):
        masks = select(scores, keep, masks=within)
    for name, score in scores.items():
        assert torch.equal(masks[name], naive(score, within.get(name), keep[name]))


def test_not_finite_scores_are_refused_in_every_tensor() -> None:
    """A tensor whose count is right at the threshold of the tensor before is looked at as well."""
    scores = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([float("nan"), 2.5, 1.0])}
    with pytest.raises(BoxwoodError, match="finite scores, got 1 NaN or infinite value in 'b'"):
        select(scores, {"a": 2, "b": 1})


def test_shapes_and_layouts() -> None:
    """A transposed tensor is ranked in C order of its own indices."""
    score = torch.tensor([[1.0, 1.0], [1.0, 2.0]]).t()
    assert select({"w": score}, {"w": 2})["w"].tolist() == [[True, False], [False, True]]


def test_large_tensors_cross_chunks() -> None:
    """With the real chunk size, the count is exact and the smallest kept beats the largest not."""
    score = torch.randn((1 << 20) + 77, generator=torch.Generator().manual_seed(0))
    mask = select({"w": score}, {"w": 12_345})["w"]
    assert int(mask.sum()) == 12_345
    assert score[mask].min() > score[~mask].max()


@pytest.mark.parametrize("few", [0, 1 << 15])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_scores_are_refused(
    bad: float, dtype: torch.dtype, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN and infinite scores have no rank, unless they are pruned already."""
    monkeypatch.setattr(selection, "_FEW", few)
    scores = {"w": torch.tensor([1.0, bad, 2.0], dtype=dtype)}
    for keep in (0, 1, 3):
        with pytest.raises(BoxwoodError, match="finite scores, got 1 NaN or infinite value in 'w'"):
            select(scores, {"w": keep})
    within = {"w": torch.tensor([True, False, True])}
    assert select(scores, {"w": 1}, masks=within)["w"].tolist() == [False, False, True]


def test_the_largest_finite_scores_are_finite() -> None:
    """The extremes of a float type are ranked, not refused."""
    for dtype in DTYPES:
        ends = torch.tensor([torch.finfo(dtype).min, torch.finfo(dtype).max], dtype=dtype)
        assert select({"w": ends}, {"w": 1})["w"].tolist() == [False, True]


def test_nothing_is_kept_of_nothing() -> None:
    """Keeping none needs no threshold; an empty tensor has an empty mask."""
    assert kth_largest({"w": torch.ones(2)}, 0) == Threshold(None)
    assert select({"w": torch.ones(0, 3)}, {"w": 0})["w"].shape == (0, 3)
    assert candidates({"w": torch.ones(2), "v": torch.ones(3)}) == {"w": 2, "v": 3}


@pytest.mark.parametrize("keep", [-1, 3])
def test_impossible_counts_are_refused(keep: int) -> None:
    """More than there is, or less than nothing, cannot be kept."""
    with pytest.raises(BoxwoodError, match=f"between 0 and 2 of 'w', got {keep}"):
        select({"w": torch.ones(2)}, {"w": keep})


def test_integers_are_refused() -> None:
    """Scores are floats."""
    with pytest.raises(
        BoxwoodError, match=r"float scores for 'w', of 16 bits or more, got torch\.int64; convert"
    ):
        select({"w": torch.ones(2, dtype=torch.int64)}, {"w": 1})
