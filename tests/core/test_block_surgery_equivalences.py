"""Blocks at once do what Optimal Brain Surgeon does to each block by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boxwood import find_masks
from boxwood._internal.core.block_surgery import adjusted, inverse_diagonals, rises
from boxwood._internal.core.surgeon import adjust, inverse_by_recursion, remove_weights
from boxwood._internal.model.evidence.block_fisher import fisher_blocks
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.prunable import linear_and_conv
from boxwood.criteria import cap, magnitude, woodfisher
from boxwood.errors import InvalidInput
from boxwood.oneshot import load_, reconstruct_by_fisher


def drawn(blocks: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, positive definite matrices, and masks."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(blocks, size, size + 2, generator=generator, dtype=torch.float64)
    weight = torch.randn(blocks, size, generator=generator, dtype=torch.float64)
    mask = torch.rand(blocks, size, generator=generator) < 0.6
    return weight, root @ root.mT / size + 0.1 * torch.eye(size, dtype=torch.float64), mask


@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_blocks_are_eliminated_as_one_by_one(blocks: int, size: int, seed: int) -> None:
    """Costs are the running maximum of the surgeon's, in its order, and zero outside the mask."""
    weight, fisher, mask = drawn(blocks, size, seed)
    found = rises(weight, fisher, mask)
    for b in range(blocks):
        inside = mask[b].nonzero().flatten()
        assert not found[b][~mask[b]].any()
        if not len(inside):
            continue
        inverse = torch.linalg.inv(fisher[b][inside][:, inside])
        done = remove_weights(weight[b][inside], inverse, 0)
        costs = found[b][inside].sort().values
        torch.testing.assert_close(costs, done.rise.cummax(0).values, rtol=1e-8, atol=1e-12)
        first = remove_weights(weight[b][inside], inverse, len(inside) - 1)
        assert found[b][inside][~first.mask].item() == found[b][inside].min()


@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_blocks_are_adjusted_as_one_by_one(blocks: int, size: int, seed: int) -> None:
    """The kept weights move to the minimum of each quadratic."""
    weight, fisher, mask = drawn(blocks, size, seed)
    new = adjusted(weight, fisher, mask)
    for b in range(blocks):
        wanted = adjust(weight[b : b + 1], fisher[b], mask[b : b + 1])[0]
        torch.testing.assert_close(new[b], wanted, rtol=1e-8, atol=1e-10)


class Attention(nn.Module):
    """A convolution and attention, whose weights no layer-wise Hessian covers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.tanh(self.conv(x)).flatten(2).mT
        weights = (self.query(tokens) @ self.key(tokens).mT / 2).softmax(-1)
        return (weights @ self.value(tokens)).mean(1)


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1).mean()


def toy() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    net = Attention().double()
    data = [(torch.randn(6, 2, 3, 3).double(), torch.randn(6, 4).double()) for _ in range(2)]
    return net, data


def test_the_matrix_is_that_of_the_recursion() -> None:
    """Summed and inverted, or updated gradient by gradient as in WoodFisher, it is the same."""
    net, data = toy()
    weights = linear_and_conv(net)
    blocks = fisher_blocks(Calibration(net, weights, data, squared), block=9, damping=1e-3)
    rows: dict[str, list[Tensor]] = {name: [] for name in weights}
    for inputs, targets in data:
        for i in range(len(inputs)):
            loss = squared(net(inputs[i : i + 1]), targets[i : i + 1])
            found = torch.autograd.grad(loss, list(weights.values()))
            for name, each in zip(weights, found, strict=True):
                rows[name].append(each.flatten(1))
    for name, weight in weights.items():
        length = 9 if name == "conv.weight" else 4
        gradients = torch.stack(rows[name]).view(12, -1, length)
        diagonals = inverse_diagonals(blocks[name])
        for b in range(gradients.shape[1]):
            inverse = inverse_by_recursion(gradients[:, b], alpha=1e-3)
            torch.testing.assert_close(diagonals[b], inverse.diagonal(), rtol=1e-8, atol=0)
        scores = woodfisher(weight.detach().view(-1, length), diagonals)
        assert torch.equal(scores, weight.detach().view(-1, length).square() / 2 / diagonals)


def test_of_two_weights_that_can_stand_in_for_each_other_one_stays() -> None:
    """Two equal inputs: each weight alone is cheap, both are not; what remains makes up for it."""
    net = nn.Linear(3, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, 1.1, 0.9]])
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    inputs = torch.cat([x[:, :1], x[:, :1], x[:, 1:]], 1)
    noise = torch.randn(64, 1, generator=torch.Generator().manual_seed(1))
    data = [(inputs, net(inputs).detach() + 0.1 * noise)]
    masks = find_masks(net, 0.3, criterion=cap, loss=squared, batches=data)
    assert masks["weight"].tolist() == [[False, True, True]]
    apart = find_masks(net, 0.6, criterion=woodfisher, loss=squared, batches=data)
    aware = find_masks(net, 0.6, criterion=cap, loss=squared, batches=data)
    assert apart["weight"].tolist() == [[False, False, True]]
    assert aware["weight"][0, :2].sum() == 1
    new = reconstruct_by_fisher(net, masks, data, squared)
    torch.testing.assert_close(new["weight"], torch.tensor([[0.0, 2.1, 0.9]]), atol=2e-3, rtol=0)


def test_the_loss_rises_less_after_an_adjustment() -> None:
    """At a minimum, of a network with convolutions and attention: by half at least."""
    net, _ = toy()
    x = torch.randn(200, 2, 3, 3).double()
    clean = net(x).detach()
    data = [(x, clean + 0.1 * torch.randn(200, 4).double())]
    masks = find_masks(net, 0.3, criterion=magnitude)
    new = reconstruct_by_fisher(net, masks, data, squared, damping=1e-6)
    assert all(not new[name][~mask].any() for name, mask in masks.items())
    losses = []
    for weights in ({n: p.detach() * masks[n] for n, p in linear_and_conv(net).items()}, new):
        load_(net, weights)
        losses.append(float(squared(net(x), clean).detach()))
    assert losses[1] < 0.5 * losses[0], losses


def test_bad_settings_are_refused() -> None:
    """A block holds something, and its inverse exists."""
    net, data = toy()
    seen = Calibration(net, linear_and_conv(net), data, squared)
    for settings_ in ({"block": 0}, {"damping": 0.0}):
        with pytest.raises(InvalidInput, match="Expected block >= 1 and damping > 0"):
            fisher_blocks(seen, **settings_)
