"""Deleting and adjusting against the exact solution on small quadratics, in float64."""

import copy
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import NofM
from boxwood._internal.core.surgeon import adjust, inverse_by_recursion, remove_weights, sparse_gpt
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.curvature import damped, input_gram
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood._internal.model.prunable import Named, linear
from boxwood._internal.model.reconstruct import load_, prune_and_reconstruct, reconstruct
from boxwood.errors import BoxwoodError


def problem(seed: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Draw weights and a Hessian with strong correlations."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(columns, 2 * columns, dtype=torch.float64, generator=generator)
    root += torch.randn(1, 2 * columns, dtype=torch.float64, generator=generator)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator), root @ root.T


def rise(hessian: Tensor, step: Tensor) -> Tensor:
    return 0.5 * torch.einsum("rn,nm,rm->", step, hessian, step)


def best(weight: Tensor, hessian: Tensor, mask: Tensor) -> Tensor:
    """Least squares for one row, straight from the stationarity of the kept weights."""
    found = torch.zeros_like(weight)
    inside = mask.nonzero().view(-1)
    if len(inside):
        block = hessian[inside[:, None], inside[None, :]]
        found[inside] = torch.linalg.inv(block) @ (hessian[inside] @ weight)
    return found


@given(st.integers(0, 10_000), st.integers(2, 9), st.data())
@settings(max_examples=40, deadline=None)
def test_surgery_is_exact(seed: int, size: int, data: st.DataObject) -> None:
    """Deleted one by one, the rest ends at the constrained minimum; the predicted rises add up."""
    (weight,), hessian = problem(seed, 1, size)
    keep = data.draw(st.integers(0, size))
    done = remove_weights(weight, torch.linalg.inv(hessian), keep)
    assert int(done.mask.sum()) == keep
    torch.testing.assert_close(done.weight, best(weight, hessian, done.mask))
    actual = rise(hessian, (done.weight - weight)[None])
    torch.testing.assert_close(done.rise.sum(), actual, rtol=1e-8, atol=1e-12)
    again = adjust(weight[None], hessian, done.mask[None])[0]
    torch.testing.assert_close(again, done.weight)


def test_the_first_deletion_is_the_best_of_all() -> None:
    """No other single weight costs less; and no adjustment of the rest does better."""
    (weight,), hessian = problem(3, 1, 8)
    done = remove_weights(weight, torch.linalg.inv(hessian), 7)
    costs = []
    for q in range(8):
        mask = torch.arange(8) != q
        costs.append(float(rise(hessian, (best(weight, hessian, mask) - weight)[None])))
    assert int((~done.mask).nonzero()) == costs.index(min(costs))
    assert float(done.rise[0]) == pytest.approx(min(costs))


def test_greedy_is_near_the_best_set() -> None:
    """Greedy deletion costs at least what the best set costs; over ten, less than magnitude's."""
    totals = torch.zeros(2)
    for seed in range(10):
        (weight,), hessian = problem(seed, 1, 8)
        costs = []
        for kept in combinations(range(8), 4):
            mask = torch.zeros(8, dtype=torch.bool)
            mask[list(kept)] = True
            costs.append(float(rise(hessian, (best(weight, hessian, mask) - weight)[None])))
        greedy = float(remove_weights(weight, torch.linalg.inv(hessian), 4).rise.sum())
        small = weight.abs() >= weight.abs().sort().values[4]
        magnitude = float(rise(hessian, (best(weight, hessian, small) - weight)[None]))
        assert greedy >= min(costs) - 1e-9
        totals += torch.tensor([greedy, magnitude])
    assert totals[0] < totals[1]


def test_the_recursion_inverts() -> None:
    """Example by example it arrives at the inverse of the mean outer product plus α."""
    gradients = torch.randn(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hessian = gradients.T @ gradients / 30 + 0.01 * torch.eye(6, dtype=torch.float64)
    found = inverse_by_recursion(gradients, alpha=0.01)
    torch.testing.assert_close(found, torch.linalg.inv(hessian), rtol=1e-9, atol=1e-9)


def slow_sparse_gpt(weight: Tensor, hessian: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """One row, one block: the exact surgeon's update of the later weights, by inverting H anew."""
    size = len(weight)
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(size)]
    scores = torch.stack(
        [w**2 / inverse[0, 0] for w, inverse in zip(weight, inverses, strict=True)]
    )
    mask = torch.zeros(size, dtype=torch.bool)
    mask[scores.argsort(descending=True, stable=True)[:keep]] = True
    left = weight.clone()
    for j in range(size):
        if not mask[j]:
            inverse = inverses[j]
            left[j:] -= left[j] / inverse[0, 0] * inverse[:, 0]
    return left * mask, mask


@given(st.integers(0, 10_000), st.integers(2, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_sparse_gpt_on_one_row(seed: int, size: int, data: st.DataObject) -> None:
    """With one block its Cholesky factor does what inverting the rest of H anew does."""
    weight, hessian = problem(seed, 1, size)
    keep = data.draw(st.integers(0, size))
    found, mask = sparse_gpt(weight, hessian, keep, block=size)
    slow, wanted = slow_sparse_gpt(weight[0], hessian, keep)
    assert torch.equal(mask[0], wanted)
    torch.testing.assert_close(found[0], slow, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("deleted", [1, 3, 5])
def test_sparse_gpt_is_the_exact_surgeon_where_later_weights_are_all_that_stay(
    deleted: int,
) -> None:
    """If the first columns go, everything that stays is adjusted: the constrained minimum."""
    weight, hessian = problem(7, 4, 8)
    weight[:, :deleted] *= 1e-3
    found, mask = sparse_gpt(weight, hessian, 4 * (8 - deleted), block=8)
    assert not mask[:, :deleted].any()
    torch.testing.assert_close(found, adjust(weight, hessian, mask), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("block", [1, 3, 8, 64])
def test_sparse_gpt_keeps_exactly_and_beats_zeroing(block: int) -> None:
    """Counts are exact for every block; the error is below zeroing's, above the minimum."""
    weight, hessian = problem(11, 16, 24)
    found, mask = sparse_gpt(weight, hessian, 131, block=block)
    assert int(mask.sum()) == 131
    assert (found[~mask] == 0).all()
    reached = rise(hessian, found - weight)
    assert reached < rise(hessian, weight * mask - weight)
    assert reached >= rise(hessian, adjust(weight, hessian, mask) - weight) - 1e-9
    assert torch.equal(sparse_gpt(weight, hessian, weight.numel(), block=block)[0], weight)


def test_sparse_gpt_in_groups() -> None:
    """Of every four columns each row keeps two; blocks are cut to whole groups."""
    weight, hessian = problem(2, 6, 20)
    found, mask = sparse_gpt(weight, hessian, 60, grouped=NofM(2, 4), block=10)
    assert (mask.view(6, 5, 4).sum(2) == 2).all()
    assert rise(hessian, found - weight) < rise(hessian, weight * mask - weight)
    for keep, columns in ((59, 20), (27, 18)):
        with pytest.raises(BoxwoodError, match=r"multiples of 4 and 2/4 .* sparsity of 0\.5"):
            sparse_gpt(weight[:, :columns], hessian[:columns, :columns], keep, grouped=NofM(2, 4))


def slow_blocks(weight: Tensor, hessian: Tensor, keep: int, inputs: int, size: int) -> Tensor:
    """The mask of 1 × 4 blocks, place by place, with the errors passed on one weight at a time."""
    rows, columns = weight.shape
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    left, mask = weight.clone(), torch.ones(weight.shape, dtype=torch.bool)
    firsts = [a + b for a in range(0, columns, inputs) for b in range(0, inputs, 4)]
    whole, seen, kept = rows * len(firsts), 0, 0
    spans = [(a + b, min(a + b + size, a + inputs)) for a in range(0, columns, inputs) for b in range(0, inputs, size)]  # fmt: skip
    for start, end in spans:
        blocks = [(r, j, min(j + 4, end)) for r in range(rows) for j in range(start, end, 4)]
        seen += len(blocks)
        kept, wanted = round(keep * seen / whole), round(keep * seen / whole) - kept
        scores = {
            (r, i, j): float((left[r, i:j] / factor.diagonal()[i:j]).square().mean())
            for r, i, j in blocks
        }
        for r, i, j in sorted(blocks, key=lambda block: -scores[block])[wanted:]:
            mask[r, i:j] = False
        for j in range(start, end):
            error = left[:, j].masked_fill(mask[:, j], 0) / factor[j, j]
            left[:, j:] -= torch.outer(error, factor[j, j:])
    return mask


@pytest.mark.parametrize(("inputs", "size"), [(24, 128), (24, 8), (6, 8), (12, 4), (3, 8)])
def test_sparse_gpt_in_blocks(inputs: int, size: int) -> None:
    """Four inputs go together, at each position of a kernel by itself; counts are of blocks."""
    weight, hessian = problem(3, 6, 24)
    places = 24 // inputs * -(-inputs // 4) * 6
    keep = round(0.4 * places)
    found, mask = sparse_gpt(weight, hessian, keep, grouped=Blocks(1, 4), inputs=inputs, block=size)
    alive = Blocks(1, 4).alive(mask.view(6, -1, inputs).transpose(1, 2))
    assert int(alive.sum()) == keep
    assert torch.equal(Blocks(1, 4).spread(alive, (6, inputs, 24 // inputs)), mask.view(6, -1, inputs).transpose(1, 2))  # fmt: skip
    assert torch.equal(mask, slow_blocks(weight, hessian, keep, inputs, size))
    assert not found[~mask].any()
    assert rise(hessian, found - weight) < rise(hessian, weight * mask - weight)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 2),
            nn.ReLU(), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4),
        ).double()  # fmt: skip


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    smooth = torch.randn(40, 2, 4, 4, dtype=torch.float64, generator=generator).cumsum(3)
    return list(smooth.split(16))


def output_error(net: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        return sum(float((net(x) - other(x)).square().sum()) for x in inputs())


def test_networks_layer_by_layer() -> None:
    """Adjusted outputs are nearer than masked ones; the model stays as it was; counts are exact."""
    net = network()
    before = copy.deepcopy(net.state_dict())
    masks = find_masks(net, 0.5)
    masked = copy.deepcopy(net)
    apply_masks_(masked, masks)
    adjusted = copy.deepcopy(net)
    load_(adjusted, reconstruct(net, masks, inputs()))
    gpt, zeroed = copy.deepcopy(net), copy.deepcopy(net)
    done = prune_and_reconstruct(net, 0.5, inputs())
    load_(gpt, done.weights)
    apply_masks_(zeroed, done.masks)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert output_error(net, adjusted) < 0.5 * output_error(net, masked)
    assert output_error(net, gpt) < output_error(net, zeroed)
    for name, mask in done.masks.items():
        assert int(mask.sum()) == round(0.5 * mask.numel())
        assert (gpt.get_parameter(name)[~mask] == 0).all()
        assert (adjusted.get_parameter(name)[~masks[name]] == 0).all()


def test_each_layer_sees_what_the_layers_before_it_make_now() -> None:
    """The second layer's weights are the minimum for the pruned first layer's outputs."""
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    batches = [torch.randn(50, 6, dtype=torch.float64)]
    masks = find_masks(net, 0.4)
    new = reconstruct(net, masks, batches, damping=1e-9)
    half = copy.deepcopy(net)
    load_(half, {"0.weight": new["0.weight"]})
    gram = input_gram(Calibration(half, {"2.weight": half[2].weight}, batches))["2.weight"]
    wanted = adjust(net[2].weight.detach(), damped(gram, 1e-9)[0], masks["2.weight"])
    torch.testing.assert_close(new["2.weight"], wanted)


def test_inputs_that_are_always_zero() -> None:
    """A dead input makes no error, and the counts stay exact."""
    net = nn.Linear(8, 4).double()
    dead = torch.randn(20, 8, dtype=torch.float64)
    dead[:, 3] = 0
    done = prune_and_reconstruct(net, 0.5, [dead])
    assert int(done.masks["weight"].sum()) == 16
    assert done.weights["weight"].isfinite().all()


def test_weights_of_inputs_that_are_always_zero_go_first() -> None:
    """However large they are: as in the authors' code, whose line is ``W[:, dead] = 0``."""
    net = nn.Linear(8, 4).double()
    inputs = torch.randn(20, 8, dtype=torch.float64)
    inputs[:, 3] = 0
    net.weight.data[:, 3] = 100
    done = prune_and_reconstruct(net, 0.5, [inputs])
    assert not done.masks["weight"][:, 3].any()
    assert not done.weights["weight"][:, 3].any()


def test_counts_by_name_and_refusals() -> None:
    """Counts may come from any allocation; what does not fit is refused."""
    net = network()
    last = {"7.weight": 5}
    done = prune_and_reconstruct(net, 0.5, inputs(), layers=lambda m: {"7.weight": m[7].weight}, keep=last)  # fmt: skip
    assert int(done.masks["7.weight"].sum()) == 5
    with pytest.raises(BoxwoodError, match=r"counts for every tensor .* none for '0\.weight'"):
        prune_and_reconstruct(net, 0.5, inputs(), keep=last)
    with pytest.raises(BoxwoodError, match=r"multiples of 4 for 2:4 by SparseGPT, got '0\.weight'"):
        prune_and_reconstruct(net, 0.5, inputs(), grouped=NofM(2, 4))
    grouped = prune_and_reconstruct(net, 0.5, inputs(), layers=linear, grouped=NofM(2, 4))
    assert (grouped.masks["7.weight"].view(4, 2, 4).sum(2) == 2).all()
    second = prune_and_reconstruct(
        net, 0.5, inputs(), layers=Named(("2.weight",)), grouped=NofM(2, 4)
    )
    assert (second.masks["2.weight"].sum(1) == 2).all()
    with pytest.raises(BoxwoodError, match=r"model's names and shapes, got '7\.weight'"):
        load_(net, {"7.weight": torch.ones(2, 2)})
    with pytest.raises(BoxwoodError, match="keep between 0 and 2 weights, got 3"):
        remove_weights(torch.ones(2), torch.eye(2), 3)
    with pytest.raises(BoxwoodError, match="alpha > 0, got 0"):
        inverse_by_recursion(torch.ones(1, 1), alpha=0)
    with pytest.raises(
        BoxwoodError, match=r"keep in \[0, 2\] and block >= 1, got keep=3, block=128"
    ):
        sparse_gpt(torch.ones(1, 2), torch.eye(2), 3)


@pytest.mark.parametrize("blocks", [Blocks(1, 4), Blocks(3, 2)])
def test_networks_in_blocks(blocks: Blocks) -> None:
    """Blocks of inputs at each position of a kernel, in grouped convolutions and linear layers."""
    net = network()
    done = prune_and_reconstruct(net, 0.5, inputs(), grouped=blocks)
    adjusted, zeroed = copy.deepcopy(net), copy.deepcopy(net)
    load_(adjusted, done.weights)
    apply_masks_(zeroed, done.masks)
    assert output_error(net, adjusted) < output_error(net, zeroed)
    for name, mask in done.masks.items():
        groups = 2 if name == "0.weight" else 1
        parts = mask.chunk(groups)
        found = [blocks.alive(part) for part in parts]
        assert all(
            torch.equal(blocks.spread(a, p.shape), p) for a, p in zip(found, parts, strict=True)
        )
        assert sum(int(each.sum()) for each in found) == round(0.5 * groups * found[0].numel())
