"""What improving a pruned block promises: exact least squares, and tuning that never makes it worse."""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.call import Call
from boxwood._internal.core.granularity import Elements, NofM
from boxwood._internal.model.block_methods import (
    by_alps,
    by_dsnot,
    with_least_squares,
    with_tuning,
)
from boxwood._internal.model.blockwise import by_criterion, by_sparse_gpt, through_blocks
from boxwood._internal.model.reconstruct import Reconstruction
from boxwood.criteria import magnitude
from boxwood.errors import BoxwoodError


class Block(nn.Module):
    """Two layers, a norm and dropout, with a setting, as decoders have."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(8), nn.Dropout(0.5)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, hidden: Tensor, scale: Tensor) -> Tensor:
        return hidden + scale * self.drop(self.down(torch.relu(self.up(self.norm(hidden)))))


def case() -> tuple[Block, list[tuple[tuple[Tensor, Tensor], None]]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block, mixed = Block().double(), torch.randn(8, 8).double()
        inputs = [torch.randn(6, 5, 8).double() @ mixed for _ in range(3)]
    return block, [((each, torch.tensor(0.5).double()), None) for each in inputs]


def difference(block: Block, weights: dict[str, Tensor], batches: list) -> float:
    """Mean squared difference of the outputs with other weights, over all batches."""
    other = copy.deepcopy(block).eval()
    for name, weight in weights.items():
        other.get_parameter(name).data = weight
    with torch.no_grad():
        apart = [other(*inputs) - block.eval()(*inputs) for inputs, _ in batches]
    return float(torch.cat(apart).square().mean())


METHODS: dict[str, Callable[..., Reconstruction]] = {
    "Wanda": Call.of(by_criterion),
    "magnitude": Call.of(by_criterion, criterion=magnitude, granularity=Elements()),
    "SparseGPT": Call.of(by_sparse_gpt),
    "ALPS": Call.of(by_alps),
    "DSnoT": Call.of(by_dsnot),
}


@pytest.mark.parametrize("method", METHODS)
def test_least_squares_are_exact(method: str) -> None:
    """Each row is numpy's solution of its own ridge regression, on what the layers before make."""
    block, batches = case()
    done = with_least_squares(block, batches, sparsity=0.5, decide=METHODS[method])
    assert all(torch.equal(done.masks[n], m) for n, m in METHODS[method](block, batches, sparsity=0.5).masks.items())  # fmt: skip
    now = copy.deepcopy(block).eval()
    for name in ("up", "down"):
        layer, seen = now.get_submodule(name), []
        handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        for inputs, _ in batches:
            now(*inputs)
        handle.remove()
        x = torch.cat([each.flatten(0, 1) for each in seen])
        ridge = 0.01 * x.square().sum(0).mean()
        for row, (dense, kept) in enumerate(
            zip(layer.weight.detach(), done.masks[f"{name}.weight"], strict=True)
        ):
            # ‖X w' - X w‖² + λ ‖w' - w‖², with w' zero outside the support
            tall = torch.cat([x, ridge.sqrt() * torch.eye(x.shape[1], dtype=x.dtype)])
            wanted = torch.linalg.lstsq(tall[:, kept], (tall @ dense)[:, None]).solution[:, 0]
            torch.testing.assert_close(done.weights[f"{name}.weight"][row, kept], wanted)
        assert not done.weights[f"{name}.weight"][~done.masks[f"{name}.weight"]].any()
        layer.weight.data = done.weights[f"{name}.weight"]


@pytest.mark.parametrize("method", METHODS)
def test_tuning_lowers_the_error_and_keeps_the_masks(method: str) -> None:
    """On top of any method; the block, its modes and its gradients are as before."""
    block, batches = case()
    before = copy.deepcopy(block.train().state_dict())
    plain = METHODS[method](block, batches, sparsity=0.5)
    done = with_tuning(block, batches, sparsity=0.5, decide=METHODS[method], steps=30, learning_rate=3e-3)  # fmt: skip
    assert block.training
    assert all(torch.equal(before[name], value) for name, value in block.state_dict().items())
    assert all(parameter.grad is None for parameter in block.parameters())
    for name, mask in done.masks.items():
        assert torch.equal(mask, plain.masks[name])
        assert not done.weights[name][~mask].any()
        assert not done.weights[name].requires_grad
    assert difference(block, done.weights, batches) < 0.98 * difference(block, plain.weights, batches)  # fmt: skip


def test_tuning_is_the_obvious_loop() -> None:
    """Adam on the masked weights, a batch at a time in turn, on outputs in evaluation mode."""
    block, batches = case()
    done = with_tuning(block, batches, sparsity=0.5, steps=5, learning_rate=1e-3)
    other = copy.deepcopy(block).eval()
    masks = by_criterion(block, batches, sparsity=0.5).masks
    weights = [other.up.weight, other.down.weight]
    kept = [masks["up.weight"], masks["down.weight"]]
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    for turn in range(5):
        with torch.no_grad():
            for weight, mask in zip(weights, kept, strict=True):
                weight.mul_(mask)
        inputs = batches[turn % 3][0]
        optimizer.zero_grad()
        (other(*inputs) - block.eval()(*inputs).detach()).square().mean().backward()
        for weight, mask in zip(weights, kept, strict=True):
            weight.grad.mul_(mask)
        optimizer.step()
    for name, weight, mask in zip(done.weights, weights, kept, strict=True):
        torch.testing.assert_close(done.weights[name], weight.detach() * mask)


def test_tuning_that_fails_is_dropped() -> None:
    """Steps that are far too long leave the weights that were there."""
    block, batches = case()
    plain = by_criterion(block, batches, sparsity=0.5)
    done = with_tuning(block, batches, sparsity=0.5, steps=2, learning_rate=1e3)
    assert all(torch.equal(done.weights[name], weight) for name, weight in plain.weights.items())


@pytest.mark.parametrize("grouped", [NofM(2, 4), NofM(1, 4), Blocks(1, 4)])
@pytest.mark.parametrize("better", [with_least_squares, with_tuning])
def test_patterns_are_kept(grouped: NofM | Blocks, better: Callable[..., Reconstruction]) -> None:
    """By ALPS and, for n of m, by DSnoT; whatever improves the weights leaves the pattern."""
    block, batches = case()
    ways = [Call.of(by_alps, grouped=grouped)]
    if isinstance(grouped, NofM):
        start = Call.of(by_criterion, granularity=grouped)
        ways.append(Call.of(by_dsnot, start=start, grouped=grouped))
    sparsity = 1 - grouped.n / grouped.m if isinstance(grouped, NofM) else 0.5
    for decide in ways:
        masks = better(block, batches, sparsity=sparsity, decide=decide).masks
        for mask in masks.values():
            kept = mask.view(len(mask), -1, 4).sum(2)
            if isinstance(grouped, NofM):
                assert (kept == grouped.n).all()
            else:
                assert ((kept == 0) | (kept == 4)).all()
                assert kept.sum() == round(0.5 * kept.numel()) * 4


def test_refined_masks_carry_dense_weights() -> None:
    """What SparseGPT moved is left out: kept weights are those of the dense block."""
    block, batches = case()
    start = Call.of(by_sparse_gpt)
    done = by_dsnot(block, batches, sparsity=0.5, start=start, threshold=0.0)
    begun = by_sparse_gpt(block, batches, sparsity=0.5)
    assert any(not torch.equal(mask, begun.masks[name]) for name, mask in done.masks.items())
    for name, mask in done.masks.items():
        assert torch.equal(done.weights[name], block.get_parameter(name).detach() * mask)
        assert torch.equal(mask.sum(1), begun.masks[name].sum(1))


@pytest.mark.parametrize("better", [None, with_least_squares, with_tuning])
@pytest.mark.parametrize("method", METHODS)
def test_one_block_is_in_memory(method: str, better: Callable[..., Reconstruction] | None) -> None:
    """When the next block is loaded nothing holds on to the one before, nor to its graph."""
    decide = METHODS[method] if better is None else Call.of(better, decide=METHODS[method])
    alive: list[weakref.ref] = []

    def loading() -> Iterator[nn.Module]:
        for _ in range(3):
            assert not any(ref() is not None for ref in alive)
            block = Block().double()
            alive.extend(weakref.ref(each) for each in (block, *block.parameters()))
            yield block
            del block

    _, batches = case()
    states = [(inputs[0], (((inputs[1],), {}),) * 3) for inputs, _ in batches]
    gc.disable()  # what is in a cycle would be found by chance
    try:
        for block, masks in through_blocks(loading(), states, partial(decide, sparsity=0.5)):
            assert masks.keys() == {"up.weight", "down.weight"}
            del block, masks
    finally:
        gc.enable()


def test_settings_out_of_range() -> None:
    """They are refused before anything is run."""
    block, batches = case()
    for wrong in ({"steps": 0}, {"learning_rate": 0.0}):
        with pytest.raises(BoxwoodError, match="Expected steps >= 1 and a learning rate above 0"):
            with_tuning(block, batches, sparsity=0.5, **wrong)
    with pytest.raises(BoxwoodError, match="Expected a damping above 0, got 0"):
        with_least_squares(block, batches, sparsity=0.5, damping=0.0)
    none = with_tuning(block, batches, sparsity=0.5, decide=lambda *_, **__: Reconstruction({}, {}))
    assert none == Reconstruction({}, {})
