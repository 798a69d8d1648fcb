"""GraNet, SNFS, MEST and SRigL against each method written down by itself, in lists."""

import math

import pytest
import torch
from torch import Tensor

from boxwood.allocation import uniform
from boxwood.errors import InvalidInput
from boxwood.granularity import Slices
from boxwood.policies import MEST, SNFS, GraNet, SRigL, gmp_star

SHAPES = {"a": (6, 8), "b": (4, 12), "c": (3, 4)}


def drawn(seed: int, *, until: float = math.inf) -> tuple[dict[str, Tensor], ...]:
    """Masks of a quarter of the weights, their sizes, and dense gradients."""
    generator = torch.Generator().manual_seed(seed)
    masks, scores, found = {}, {}, {}
    for name, shape in SHAPES.items():
        sizes = torch.rand(shape, generator=generator, dtype=torch.float64)
        masks[name] = torch.rand(shape, generator=generator) < 0.4
        scores[name] = sizes * masks[name]
        found[name] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return masks, scores, found


def best(values: Tensor, among: Tensor, count: int) -> Tensor:
    """Mask the highest values among some."""
    places = sorted(among.flatten().nonzero().flatten().tolist(), key=lambda i: -float(values.flatten()[i]))  # fmt: skip
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[places[:count]] = True
    return mask.view(values.shape)


def cosine(fraction: float, step: int, until: int) -> float:
    return fraction / 2 * (1 + math.cos(math.pi * step / until))


@pytest.mark.parametrize("seed", range(4))
def test_granet_prunes_all_tensors_together_and_replaces_in_each(seed: int) -> None:
    """One threshold over all tensors, then the least go and the largest gradients come."""
    masks, scores, found = drawn(seed)
    policy = GraNet(0.8, until=400, begin=100, every=100, start=0.5, fraction=0.5)
    rise = 0.8 + (0.5 - 0.8) * (1 - (200 - 100) / (400 - 100)) ** 3
    total = sum(mask.numel() for mask in masks.values())
    every = sorted((float(s) for n in masks for s in scores[n][masks[n]]), reverse=True)
    limit = every[round((1 - rise) * total) - 1]
    after = policy.update(200, masks, scores, found)
    for name, mask in masks.items():
        kept = mask & (scores[name] >= limit)
        moved = int(cosine(0.5, 200, 400) * int(kept.sum()))
        stayed = best(scores[name], kept, int(kept.sum()) - moved)
        assert torch.equal(after[name], stayed | best(found[name].abs(), ~stayed, moved))


@pytest.mark.parametrize("seed", range(4))
def test_sparse_momentum_moves_weights_between_tensors(seed: int) -> None:
    """Shares follow the mean momentum of what is kept; within a tensor the largest momentum grows."""
    masks, scores, found = drawn(seed)
    after = SNFS(0.6, until=400, fraction=0.5).update(100, masks, scores, found)
    stayed, mean, moved = {}, {}, 0
    for name, mask in masks.items():
        kept = int(mask.sum())
        goes = int(cosine(0.5, 100, 400) * kept)
        stayed[name], moved = best(scores[name], mask, kept - goes), moved + goes
        mean[name] = float(found[name].abs()[mask].mean())
    new = {name: after[name] & ~stayed[name] for name in masks}
    assert sum(int(each.sum()) for each in new.values()) == moved
    for name in masks:
        share = moved * mean[name] / sum(mean.values())
        assert abs(int(new[name].sum()) - share) < 1  # none of these tensors fills up
        assert torch.equal(new[name], best(found[name].abs(), ~stayed[name], int(new[name].sum())))


def test_a_full_tensor_hands_its_share_on() -> None:
    """All momentum is in a tensor with one free place; the rest of its share goes to the other."""
    masks = {"a": torch.tensor([True, True, True, False]), "b": torch.arange(20) < 10}
    scores = {"a": torch.tensor([3.0, 2.0, 1.0, 0.0]), "b": torch.rand(20)}
    found = {"a": torch.full((4,), 100.0), "b": torch.full((20,), 1e-3)}
    after = SNFS(0.5, until=10**9, fraction=0.61).update(100, masks, scores, found)
    assert after["a"].all()
    assert sum(int(mask.sum()) for mask in after.values()) == 13


@pytest.mark.parametrize("soft", [False, True])
def test_memory_economic_training_judges_by_weight_and_gradient(soft: bool) -> None:
    """The least of |w| + λ|g| go; what comes is drawn; with a soft bound it comes before others go."""
    policy = MEST(0.75, until=400, every=100, fraction=0.4, soft=soft, scale=0.3, seed=1)
    weights = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    masks = policy.init(weights)
    for step in (100, 200, 300, 400):
        assert policy.due(step) == (step < 400 or soft)
        _, scores, found = drawn(step)
        after = policy.update(step, masks, scores, found)
        for name, mask in masks.items():
            whole = round(0.25 * mask.numel())
            turn = int(cosine(0.4, step, 400) * whole)
            before = int(cosine(0.4, step - 100, 400) * whole) if soft else 0
            assert int(mask.sum()) == whole + before
            judged = scores[name] + 0.3 * found[name].abs()
            stayed = best(judged, mask, whole if soft else whole - turn)
            assert not (stayed & ~after[name]).any()
            assert int(after[name].sum()) == (whole + turn if soft else whole)
        masks = after
    other = MEST(0.75, until=400, every=100, soft=soft, seed=2).init(weights)
    assert any(not torch.equal(other[name], each) for name, each in policy.init(weights).items())


@pytest.mark.parametrize("salient", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_structured_rigl_keeps_the_fan_in_constant(seed: int, salient: float) -> None:
    """Neurons of few salient weights go for good; the others grow to one new fan-in."""
    policy = SRigL(0.75, until=400, fraction=0.5, salient=salient, seed=seed)
    masks = policy.init({name: torch.zeros(shape) for name, shape in SHAPES.items()})
    for step in (100, 200, 300):
        _, scores, found = drawn(seed + step)
        scores = {name: each + 0.1 for name, each in scores.items()}
        after = policy.update(step, masks, scores, found)
        for name, mask in masks.items():
            kept, count = int(mask.sum()), round(0.25 * mask.numel())
            moved = int(cosine(0.5, step, 400) * kept)
            stayed = best(scores[name], mask, kept - moved)
            salients = (stayed | best(found[name].abs(), ~mask, moved)).sum(1).tolist()
            fan_in = int(mask.sum(1).max())
            rows = [i for i, n in enumerate(salients) if mask[i].any() and n >= salient * fan_in]
            rows = rows or [i for i in range(len(mask)) if mask[i].any()]
            new = min(max(round(count / len(rows)), 1), mask.shape[1])
            for i in range(len(mask)):
                row = torch.zeros_like(mask[i])
                if i in rows:
                    keep = best(scores[name][i], stayed[i], new)
                    row = keep | best(found[name].abs()[i], ~stayed[i], new - int(keep.sum()))
                assert torch.equal(after[name][i], row), (name, i)
        masks = after
    if not salient:
        assert all(mask.any(1).all() for mask in masks.values())


def test_filters_are_replaced_as_wholes() -> None:
    """Every policy that takes a granularity keeps whole groups, also where a tensor is nearly full."""
    for kind, settings in ((GraNet, {}), (SNFS, {}), (MEST, {"soft": True}), (MEST, {})):
        policy = kind(0.25, until=400, fraction=0.5, granularity=Slices(), allocation=uniform, **settings)  # fmt: skip
        masks = policy.init({name: torch.zeros(shape) for name, shape in SHAPES.items()})
        for step in (100, 200, 300, 400):
            _, scores, found = drawn(step)
            masks = policy.update(step, masks, scores, found)
            for mask in masks.values():
                assert torch.equal(mask.any(1), mask.all(1))
        kept = {name: int(mask.any(1).sum()) for name, mask in masks.items()}
        assert kind is SNFS or kept == {"a": 4, "b": 3, "c": 2}  # halves to the even neighbour


def test_the_modern_schedule_begins_with_a_large_step() -> None:
    """Half at once, then the cubic rise in small steps, and nothing before."""
    policy = gmp_star(0.9, begin=40, end=100, every=10, allocation=uniform)
    assert [t for t in range(200) if policy.due(t)] == list(range(40, 101, 10))
    rises = [policy.schedule(t) for t in range(40, 101, 10)]
    wanted = [0.9 - 0.4 * (1 - k / 6) ** 3 for k in range(7)]
    assert rises == pytest.approx(wanted)


def test_bad_settings_are_refused() -> None:
    """Each names what is wrong."""
    with pytest.raises(InvalidInput, match=r"Expected initial in \[0, 0.5\], got 0.6"):
        gmp_star(0.5, begin=1, end=9, every=1, initial=0.6)
    with pytest.raises(InvalidInput, match="start <= sparsity and 0 <= begin < until"):
        GraNet(0.5, until=10, start=0.6)
    with pytest.raises(InvalidInput, match=r"Expected momentum in \[0, 1\)"):
        SNFS(0.5, until=10, momentum=1.0)
    with pytest.raises(InvalidInput, match="Expected scale >= 0"):
        MEST(0.5, until=10, scale=-1.0)
    with pytest.raises(InvalidInput, match=r"Expected salient in \[0, 1\]"):
        SRigL(0.5, until=10, salient=2.0)
