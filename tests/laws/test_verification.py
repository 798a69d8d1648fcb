"""Verification judges rightly: right networks pass, wrong ones fail, and what is said is so."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from boxwood.core.errors import BoxwoodError
from boxwood.graph.comparing import distance
from boxwood.graph.keep import Keep
from boxwood.graph.units import units
from boxwood.graph.verify import shrink, verify

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def half(model, example):
    return units(model, example).keep_best(0.5)


def off_by_one(keep, name="0.weight"):
    """What a mistake in a rule makes: one axis goes with the units of its neighbours."""
    axes = tuple(
        replace(axis, units=np.roll(axis.units, 1))
        if (axis.names[0], axis.dim) == (name, 0)
        else axis
        for axis in keep.units.axes
    )
    return Keep(replace(keep.units, axes=axes), keep.kept)


def refused(net, keep):
    """Neither is it returned, nor proved when it is."""
    with pytest.raises(BoxwoodError, match="got outputs that differ by"):
        shrink(net, keep)
    return not verify(net, shrink(net, keep, check=False), keep).proved


class Norm(torch.autograd.Function):
    """A norm over channels with a backward pass written by hand; ``count`` as code may have it."""

    @staticmethod
    def forward(ctx, x, w, b, count):
        mean = x.mean(1, keepdim=True)
        std = ((x - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        n = (x - mean) / std
        ctx.count = count
        ctx.save_for_backward(n, std, w)
        return w.view(1, -1, 1, 1) * n + b.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx, g):
        n, std, w = ctx.saved_tensors
        h, count = g * w.view(1, -1, 1, 1), ctx.count or g.shape[1]
        mean = h.sum(1, keepdim=True) / count + n * (h * n).sum(1, keepdim=True) / count
        return (h - mean) / std, (g * n).sum((0, 2, 3)), g.sum((0, 2, 3)), None


class NormLayer(nn.Module):
    def __init__(self, width, count=0):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.randn(width))
        self.count = (count,)[0] if count else 0

    def forward(self, x):
        return Norm.apply(x, self.w, self.b, float(self.count))


def normed(count=0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), NormLayer(8, count), nn.Conv2d(8, 3, 1)
    ).eval()


def test_a_backward_pass_of_its_own_is_held_against_finite_differences():
    """Removed channels count in the masked network's backward pass; the smaller one is right."""
    net = normed()
    keep = half(net, IMAGE)
    small = shrink(net, keep)
    found = verify(net, small, keep)
    assert found.proved
    assert "finite differences" in found.gradient_note
    assert "Norm" in found.gradient_note
    assert found.gradient_difference < 1e-6
    # Restated by hand: the same norm, over the kept channels, differentiated by torch.
    alike = copy.deepcopy(small).double()
    x = IMAGE.double()
    alike(x).square().sum().backward()
    other = copy.deepcopy(small).double()
    other.zero_grad()
    hidden = other[0](x)
    mean = hidden.mean(1, keepdim=True)
    deviation = ((hidden - mean).square().mean(1, keepdim=True) + 1e-6).sqrt()
    shape = (1, -1, 1, 1)
    hidden = (hidden - mean) / deviation * other[1].w.view(shape) + other[1].b.view(shape)
    other[2](hidden).square().sum().backward()
    torch.testing.assert_close(alike[0].weight.grad, other[0].weight.grad)


def test_a_backward_pass_that_keeps_the_old_count_is_found():
    """Outputs agree, and the gradients of both networks too; they are the derivative of nothing."""
    net = normed(count=8)
    keep = half(net, IMAGE)
    found = verify(net, shrink(net, keep), keep)
    assert not found.proved
    assert all(trial.equal for trial in found.trials)
    assert "not the derivative of its outputs" in found.gradient_note


def test_a_wrong_cut_before_a_backward_pass_of_its_own_is_found():
    net = normed()
    keep = half(net, IMAGE)
    assert refused(net, off_by_one(keep))


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, steps, weight):
        ctx.weights = weight.numel()
        return steps.clone()

    @staticmethod
    def backward(ctx, g):
        return g / (ctx.weights * 7) ** 0.5, None


class Quantised(nn.Module):
    """Learned steps, as LSQ has them; their gradient is scaled by the number of weights."""

    def __init__(self, wide=8, *, per_channel=True):
        super().__init__()
        self.a, self.b = nn.Linear(3, wide), nn.Linear(wide, 2)
        self.steps = nn.Parameter(torch.rand(wide if per_channel else 1, 1) * 0.1 + 0.05)

    def forward(self, x):
        steps = Scaled.apply(self.steps, self.a.weight)
        weight = Round.apply((self.a.weight / steps).clamp(-8, 7)) * steps
        return self.b(torch.relu(nn.functional.linear(x, weight, self.a.bias)))


class Divisive(nn.Module):
    """Generalised divisive normalisation: x / sqrt(beta + gamma x²)."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.beta, self.gamma = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.rand(8, 8))

    def forward(self, x):
        x = self.a(x)
        gamma = self.gamma.square()[:, :, None, None]
        return self.b(x * torch.rsqrt(nn.functional.conv2d(x**2, gamma, self.beta.square())))


class Splines(nn.Module):
    """Hat functions on a grid that each channel has of its own, as in a Kolmogorov-Arnold net."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)
        self.grid = nn.Parameter(torch.linspace(-2, 2, 5).repeat(8, 1))
        self.heights = nn.Parameter(torch.randn(8, 4))

    def forward(self, x):
        x, low, high = self.a(x)[..., None], self.grid[:, :-1], self.grid[:, 1:]
        return self.b(((x - low) / (high - low) * self.heights).tanh().sum(-1))


class WithoutEpsilon(nn.Module):
    """Each channel over its own deviation, which is zero where the channel is."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.a(x)
        return self.b(x / x.square().mean((2, 3), keepdim=True).sqrt())


DIVISIVE = {
    "steps": (Quantised, ROWS, ("steps",)),
    "one step": (lambda: Quantised(per_channel=False), ROWS, ()),
    "divisive norm": (Divisive, IMAGE, ("beta", "gamma")),
    "splines": (Splines, ROWS, ("grid",)),
    "no epsilon": (WithoutEpsilon, IMAGE, ("a.bias", "a.weight")),
}


@pytest.mark.parametrize("name", DIVISIVE)
def test_learned_divisors_are_judged(name):
    """What is divided by is not set to zero, and the certificate lists it; a wrong cut is found."""
    make, example, left = DIVISIVE[name]
    torch.manual_seed(0)
    net = make().eval()
    keep = half(net, example)
    small = shrink(net, keep)
    found = verify(net, small, keep)
    assert found.proved, str(found)
    assert found.trials[1].left == left
    assert refused(net, off_by_one(keep, "a.weight"))
    # By hand: the original with all that reads a removed channel at zero.
    gone = {m.indices[0] for unit in np.flatnonzero(~keep.kept)
            for m in keep.units.members(unit) if (m.name, m.dim) == ("b.weight", 1)}  # fmt: skip
    with torch.no_grad():
        expected = copy.deepcopy(net).double()
        expected.b.weight[:, sorted(gone)] = 0
        if name == "divisive norm":
            expected.gamma[:, sorted(gone)] = 0
        got = copy.deepcopy(small).double()(example.double())
        torch.testing.assert_close(got, expected(example.double()))
    assert len(gone) == 4


def test_gradients_that_are_no_derivative_are_not_compared():
    """A scale of the gradient by the number of weights is the code's own, in both networks."""
    torch.manual_seed(0)
    net = Quantised().eval()
    keep = half(net, ROWS)
    found = verify(net, shrink(net, keep), keep)
    assert found.gradient_difference is None
    assert "not compared" in found.gradient_note
    assert "not compared" in str(found)


class Doubled(torch.autograd.Function):
    """A mistake in a backward pass, as torch itself has some; it depends on the channels."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * g.shape[1]


def test_a_small_mistake_in_the_original_is_seen_where_it_lies():
    """Beside large gradients that are right it is a part in a million."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.b(Doubled.apply(self.a(x).tanh()) * 1e-3) + 1e3 * self.c(x).sin()

    net = Net().eval()
    keep = half(net, ROWS)
    found = verify(net, shrink(net, keep), keep)
    assert found.proved
    assert "already those of the original" in found.gradient_note


NAN = float("nan")


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ([[1.0, 2.0]], [[1.0, NAN]]),
        ([[1.0, NAN]], [[1.0, 2.0]]),
        ([[1.0, float("inf")]], [[1.0, 2.0]]),
        ([[1.0, 2e9], [3]], [[1.0, 2e9], [4]]),
        ([[1.0], [2e9]], [[NAN], [2e9]]),
    ],
)
def test_no_number_hides_a_difference(expected, got):
    """Entries that are no numbers, whole numbers beside large ones: different is different."""
    difference, _ = distance([torch.tensor(e) for e in expected], [torch.tensor(g) for g in got])
    assert difference == float("inf")


def test_a_large_output_does_not_hide_a_small_one():
    found = distance(
        [torch.tensor([1e6]), torch.tensor([1e-2])], [torch.tensor([1e6]), torch.tensor([2e-2])]
    )
    assert found == pytest.approx((1e-2, 1e-2))


def test_complex_outputs_are_numbers():
    one = torch.tensor([1 + 1j], dtype=torch.complex128)
    assert distance([one], [one * (1 + 1e-13)])[0] == pytest.approx(2**0.5 * 1e-13, rel=0.01)
    assert distance([one], [one.conj()])[0] == 2


def test_a_smaller_network_that_returns_no_numbers_is_found():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    keep = half(net, ROWS)
    small = shrink(net, keep)
    small.register_forward_hook(lambda _, __, y: torch.cat([y[:, :1], y[:, 1:] * NAN], 1))
    assert not verify(net, small, keep, gradients=False).proved


def test_gradients_that_are_no_numbers_are_found():
    """The outputs are right; the gradient of the hidden layer is that of a root at zero."""
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    keep = half(net, ROWS)
    small = shrink(net, keep)
    small[0].register_forward_hook(lambda _, __, y: y + (y * 0).square().sum(1, True).sqrt())
    found = verify(net, small, keep)
    assert all(trial.equal for trial in found.trials)
    assert not found.proved
