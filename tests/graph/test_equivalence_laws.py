"""Verification judges rightly: right networks pass, wrong ones fail, and what is said is so."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from boxwood._internal.graph.comparison import distance
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood.errors import BoxwoodError

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def half(model, example):
    return select_units(find_units(model, example), 0.5)


def off_by_one(selection, name="0.weight"):
    """What a mistake in a rule makes: one axis goes with the units of its neighbours."""
    axes = tuple(
        replace(axis, units=np.roll(axis.units, 1))
        if (axis.names[0], axis.dim) == (name, 0)
        else axis
        for axis in selection.units.axes
    )
    return UnitSelection(replace(selection.units, axes=axes), selection.kept)


def refused(net, selection):
    """Neither is it returned, nor found equivalent when it is."""
    with pytest.raises(BoxwoodError, match="got outputs that differ by"):
        shrink(net, selection)
    return not check_equivalence(net, shrink(net, selection, check=False), selection).equivalent


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
    selection = half(net, IMAGE)
    small = shrink(net, selection)
    found = check_equivalence(net, small, selection)
    assert found.equivalent
    assert "finite differences" in found.gradients.said
    assert "Norm" in found.gradients.said
    assert found.gradients.difference < 1e-6
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
    selection = half(net, IMAGE)
    found = check_equivalence(net, shrink(net, selection), selection)
    assert not found.equivalent
    assert all(trial.equal for trial in found.trials)
    assert "not the derivative of its outputs" in found.gradients.said


def test_a_wrong_cut_before_a_backward_pass_of_its_own_is_found():
    net = normed()
    selection = half(net, IMAGE)
    assert refused(net, off_by_one(selection))


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
    """What is divided by is not set to zero, and the report lists it; a wrong cut is found."""
    make, example, left = DIVISIVE[name]
    torch.manual_seed(0)
    net = make().eval()
    selection = half(net, example)
    small = shrink(net, selection)
    found = check_equivalence(net, small, selection)
    assert found.equivalent, str(found)
    assert found.trials[1].left == left
    assert refused(net, off_by_one(selection, "a.weight"))
    # By hand: the original with all that reads a removed channel at zero.
    gone = {m.indices[0] for unit in np.flatnonzero(~selection.kept)
            for m in selection.units.members(unit) if (m.name, m.dim) == ("b.weight", 1)}  # fmt: skip
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
    selection = half(net, ROWS)
    found = check_equivalence(net, shrink(net, selection), selection)
    assert found.gradients.difference is None
    assert "not compared" in str(found.gradients)
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
    selection = half(net, ROWS)
    found = check_equivalence(net, shrink(net, selection), selection)
    assert found.equivalent
    assert "already those of the original" in found.gradients.said


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
    selection = half(net, ROWS)
    small = shrink(net, selection)
    small.register_forward_hook(lambda _, __, y: torch.cat([y[:, :1], y[:, 1:] * NAN], 1))
    assert not check_equivalence(net, small, selection, gradients=False).equivalent


def test_gradients_that_are_no_numbers_are_found():
    """The outputs are right; the gradient of the hidden layer is that of a root at zero."""
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    selection = half(net, ROWS)
    small = shrink(net, selection)
    small[0].register_forward_hook(lambda _, __, y: y + (y * 0).square().sum(1, True).sqrt())
    found = check_equivalence(net, small, selection)
    assert all(trial.equal for trial in found.trials)
    assert not found.equivalent


class GlobalNorm(nn.Module):
    """Over channels and time together, as separation networks have it."""

    over = (1, 2)

    def __init__(self, width):
        super().__init__()
        self.w, self.b = (
            nn.Parameter(torch.rand(width, 1) + 0.5),
            nn.Parameter(torch.randn(width, 1)),
        )

    def forward(self, x):
        mean = x.mean(dim=self.over, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=self.over, keepdim=True)
        return self.w * (x - mean) / torch.sqrt(variance + 1e-8) + self.b


class ChannelNorm(GlobalNorm):
    """Over channels at each place, as convolutional networks have it."""

    over = (1,)


@pytest.mark.parametrize("norm", [GlobalNorm, ChannelNorm])
def test_statistics_are_those_of_the_kept_channels(norm):
    """Written out in double precision: over the kept ones it is the smaller network, not over all.

    The removed channels are at zero in both; their zeros would count in a mean over all.
    """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), norm(8), nn.Conv1d(8, 2, 1)).eval()
    x = torch.randn(2, 3, 12)
    selection = half(net, x)
    small = shrink(net, selection)
    found = check_equivalence(net, small, selection)
    assert found.equivalent
    assert {(place.kept, place.of) for place in found.restated} == {(4, 8)}
    assert "over kept channels alone" in str(found)
    stays = torch.zeros(8, dtype=torch.float64).view(-1, 1)
    for unit in np.flatnonzero(selection.kept):
        stays[selection.units.members(unit)[0].indices[0]] = 1
    wide, narrow, x = net.double(), small.double(), x.double()
    hidden = wide[1](wide[0](x)) * stays
    places = 1 if norm is ChannelNorm else hidden.shape[2]
    results = {}
    for over in (4, 8):
        mean = hidden.sum(norm.over, keepdim=True) / (over * places)
        square = ((hidden - mean) ** 2 * (stays if over == 4 else 1)).sum(norm.over, keepdim=True)
        normed = (hidden - mean) / torch.sqrt(square / (over * places) + 1e-8)
        results[over] = wide[3]((wide[2].w * normed + wide[2].b) * stays)
    torch.testing.assert_close(narrow(x), results[4])
    assert (narrow(x) - results[8]).abs().max() > 0.1


class Boxes(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.o = nn.Embedding(10, 16), nn.Linear(16, 2)

    def forward(self, boxes):
        return self.o(self.w(boxes[:, 2] - boxes[:, 0]))


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.o = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x, adjacency):
        degree = adjacency.sum(1).rsqrt()
        return self.o(torch.relu((degree[:, None] * adjacency * degree) @ self.w(x)))


BOXES = torch.tensor([[1, 2, 7, 8], [0, 3, 5, 9]])


def test_inputs_stay_in_their_domain():
    """Whole numbers are left as they are, floats keep sign and zeros where they must."""
    net = Boxes().eval()
    selection = half(net, BOXES)
    small = shrink(net, selection)
    found = check_equivalence(net, small, selection)
    assert found.equivalent
    assert [trial.inputs for trial in found.trials] == ["given", "given"]
    assert "only whole numbers" in str(found)
    fresh = check_equivalence(
        net, small, selection, inputs=lambda: torch.randint(5, (3, 4)).cumsum(1) % 10 // 2
    )
    assert fresh.equivalent
    assert fresh.trials[-1].inputs == "fresh"
    net = Graph().eval()
    example = torch.randn(5, 4), torch.ones(5, 5)
    selection = half(net, example)
    found = check_equivalence(net, shrink(net, selection), selection)
    assert found.equivalent
    assert found.trials[-1].inputs == "scaled"


def test_inputs_of_the_user_are_taken():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    selection = half(net, ROWS)
    small = shrink(net, selection)
    batches = (torch.randn(2, 3) for _ in range(100))
    assert len(check_equivalence(net, small, selection, inputs=batches).trials) == 2 + 4
    before = torch.random.get_rng_state()
    check_equivalence(net, small, selection, inputs=lambda: torch.randn(2, 3))
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(BoxwoodError, match=r"a function that returns an example.*got Tensor"):
        check_equivalence(net, small, selection, inputs=ROWS)
    with pytest.raises(BoxwoodError, match=r"what Sequential takes, got inputs on which it fails"):
        check_equivalence(net, small, selection, inputs=[torch.randn(2, 5)])


class Writing(nn.Module):
    """Writes into what it is given."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        x += 1
        return self.b(torch.relu(self.a(x.mul_(2))))


def test_inputs_are_not_written_into():
    net, x = Writing().eval(), ROWS.clone()
    selection = half(net, x)
    assert check_equivalence(net, shrink(net, selection), selection).equivalent
    assert torch.equal(x, ROWS)


class Counting(nn.Module):
    """Keeps what it computed, and adds it to the next: a buffer, or an attribute."""

    def __init__(self, *, buffer=True):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)
        if buffer:
            self.register_buffer("state", torch.zeros(4, 8))
        else:
            self.state = None

    def forward(self, x):
        hidden = torch.relu(self.a(x))
        before = 0 if self.state is None else self.state
        self.state = hidden.detach() + before
        return self.b(hidden + before)


@pytest.mark.parametrize("buffer", [True, False])
def test_state_is_compared_in_two_calls(buffer):
    """What one call leaves is read by the next, so two in a row are run; the network stays as is."""
    torch.manual_seed(0)
    net = Counting(buffer=buffer).eval()
    selection = half(net, ROWS)
    small = shrink(net, selection)
    found = check_equivalence(net, small, selection)
    assert found.equivalent
    assert found.trials[0].state == ("state",)
    assert "two calls in a row" in str(found)
    assert net.state is None or not net.state.any()
    # The second call alone is wrong: it reads what the first one left, in another order.
    small.register_forward_hook(lambda m, _, __: setattr(m, "state", m.state.roll(1, 1)))
    found = check_equivalence(net, small, selection, gradients=False)
    assert not found.equivalent
    assert not found.unsteady


class Noisy(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.a, self.b, self.draw = nn.Linear(3, 8), nn.Linear(8, 2), draw

    def forward(self, x):
        return self.b(self.draw(torch.relu(self.a(x))))


CALLS = iter(range(10**9))


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda x: x * torch.rand_like(x), "are drawn at random in evaluation"),
        (lambda x: nn.functional.dropout(x, 0.5, training=True), "are drawn at random"),
        (lambda x: x * float(next(CALLS)), "change from run to run"),
    ],
)
def test_outputs_that_change_by_themselves_are_not_blamed_on_the_removal(draw, said):
    net = Noisy(draw).eval()
    selection = half(net, ROWS)
    with pytest.raises(BoxwoodError, match=f"computes the same in every run.*{said}"):
        shrink(net, selection)
    found = check_equivalence(net, shrink(net, selection, check=False), selection, gradients=False)
    assert not found.equivalent
    assert said in found.unsteady
    assert said in str(found)


def test_rounding_that_changes_by_itself_is_not_blamed():
    """Sums in another order at every run, as on a GPU, are no reason for a difference of 1 %."""
    net = Noisy(lambda x: x * (1 + 1e-14 * next(CALLS))).eval()
    selection = half(net, ROWS)
    small = shrink(net, selection)
    assert check_equivalence(net, small, selection, gradients=False).equivalent
    small.register_forward_hook(lambda _, __, y: y * 1.01)
    found = check_equivalence(net, small, selection, gradients=False)
    assert not found.equivalent
    assert not found.unsteady


def test_draws_that_do_not_depend_on_the_removal_are_seeded_alike():
    """Of torch, numpy and Python; and all generators are left as they were."""
    net = Noisy(lambda x: x * torch.rand(()) * float(np.random.rand()) * random.random()).eval()  # noqa: NPY002
    selection = half(net, ROWS)
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert check_equivalence(net, shrink(net, selection), selection).equivalent
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def test_rounding_within_the_network_alone_allows_more():
    """Single precision of the example is none of the network's; a part in a million is found."""
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    selection = half(net, ROWS)
    small = shrink(net, selection)
    small.register_forward_hook(lambda _, __, y: y * (1 + 1e-6))
    found = check_equivalence(net, small, selection, gradients=False)
    assert not found.equivalent
    assert {trial.dtype for trial in found.trials} == {"float64"}


class Single(nn.Module):
    """Rounds to single precision; ``insisting`` code runs in nothing else there."""

    def __init__(self, *, insisting):
        super().__init__()
        self.a, self.b, self.insisting = nn.Linear(3, 64), nn.Linear(64, 2), insisting

    def forward(self, x):
        hidden = torch.relu(self.a(x)).float() / 3
        if self.insisting and hidden.dtype != torch.float32:
            raise TypeError("no kernel for this type")
        return self.b(hidden.to(x.dtype))


def test_single_precision_within_double_is_left_out():
    """A part in a million is a mistake, where both networks can be run without the rounding."""
    net = Single(insisting=False).eval()
    selection = half(net, ROWS)
    small = shrink(net, selection)
    assert check_equivalence(net, small, selection).equivalent
    small.register_forward_hook(lambda _, __, y: y * (1 + 1e-6))
    found = check_equivalence(net, small, selection, gradients=False)
    assert not found.equivalent
    assert "float64, conversions to float32 left out" in str(found)


def test_single_precision_that_code_insists_on_is_said():
    """Then a part in a million may be rounding, and a part in a hundred may not."""
    net = Single(insisting=True).eval()
    selection = half(net, ROWS)
    small = shrink(net, selection)
    assert check_equivalence(net, small, selection).equivalent
    small.register_forward_hook(lambda _, __, y: y * (1 + 1e-6))
    found = check_equivalence(net, small, selection, gradients=False)
    assert found.equivalent
    assert "float64 with parts in float32" in str(found)
    small.register_forward_hook(lambda _, __, y: y * 1.01)
    assert not check_equivalence(net, small, selection, gradients=False).equivalent


class Written(nn.Module):
    """Overwrites what its backward pass would need."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.a(x).exp()
        return self.b(x.mul_(2))


def test_a_network_without_gradients_has_its_outputs_compared():
    net = Written().eval()
    selection = half(net, ROWS)
    found = check_equivalence(net, shrink(net, selection), selection)
    assert found.equivalent
    assert "cannot be differentiated (RuntimeError" in found.gradients.said


class Astray(nn.Module):
    """Does less where there are no data."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.a(x)
        if not isinstance(x, FakeTensor):
            x = x - x.mean(1, keepdim=True)
        return self.b(x)


def test_another_path_than_the_traced_one_is_said():
    net = Astray().eval()
    selection = half(net, ROWS)
    with pytest.raises(BoxwoodError, match=r"differ by .*, and its code took 1 means.*took 0 in"):
        shrink(net, selection)
    found = check_equivalence(net, shrink(net, selection, check=False), selection, gradients=False)
    assert not found.equivalent
    assert "follows another path" in str(found)


class Deciding(nn.Module):
    """Returns classes alone, and nearly always the same one."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        return (self.b(torch.relu(self.a(x))) + torch.tensor([100.0, 0.0])).argmax(1)


def test_classes_alone_are_no_proof():
    """What modules return is compared where a network returns whole numbers only."""
    net = Deciding().eval()
    selection = half(net, ROWS)
    assert check_equivalence(net, shrink(net, selection), selection).equivalent
    assert refused(net, off_by_one(selection, "a.weight"))


def test_an_example_of_zeros_does_not_hide_a_wrong_first_layer():
    net = nn.Sequential(nn.Linear(3, 8, bias=False), nn.Tanh(), nn.Linear(8, 2)).eval()
    selection = half(net, torch.zeros(2, 3))
    assert check_equivalence(net, shrink(net, selection), selection).equivalent
    assert refused(net, off_by_one(selection))


class Graded(nn.Module):
    """A row of a mask overflows in double precision alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        scores = x.new_zeros(4, 4) + torch.finfo(x.dtype).min * (1 + 1e-8)
        return self.b(torch.relu(self.a(scores.softmax(1) @ x)))


def test_what_double_precision_alone_cannot_do_is_run_as_it_is():
    net = Graded().eval()
    selection = half(net, ROWS)
    found = check_equivalence(net, shrink(net, selection), selection)
    assert found.equivalent
    assert found.gradients.difference is not None
    assert {trial.dtype for trial in found.trials} == {"float32"}
    assert refused(net, off_by_one(selection, "a.weight"))


class Infinite(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(self.a(x)) / 0 * 0


def test_what_is_known_of_outputs_without_numbers_is_said():
    net = Infinite().eval()
    said = r"of Infinite, got one, with noise on its weights, of shape.*before anything is removed"
    with pytest.raises(BoxwoodError, match=said):
        shrink(net, half(net, ROWS))
