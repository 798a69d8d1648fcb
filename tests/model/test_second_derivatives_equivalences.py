"""Every estimate of second derivatives against the explicit Hessian of a tiny network, in float64."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from boxwood._internal.model.evidence.activations import input_norm
from boxwood._internal.model.evidence.backpropagation import levenberg_marquardt, second_derivative
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.curvature import (
    hessian_diagonal,
    input_gram,
    inverse_hessian_diagonal,
)
from boxwood._internal.model.evidence.gradients import gradient, gradient_square, hessian_gradient
from boxwood._internal.train.losses import cross_entropy
from boxwood.errors import BoxwoodError


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().flatten(1).sum(1).mean()


def seen(
    net: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[..., Tensor] = squared
) -> Calibration:
    """All parameters, biases too, in two batches of different sizes."""
    batches = [(inputs[:3], targets[:3]), (inputs[3:], targets[3:])]
    return Calibration(net, dict(net.named_parameters()), batches, loss)


def explicit(
    net: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[..., Tensor] = squared
) -> Tensor:
    """The Hessian over all parameters in a row."""
    shapes = [p.shape for p in net.parameters()]
    names = [name for name, _ in net.named_parameters()]

    def of(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        tensors = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return loss(functional_call(net, tensors, (inputs,)), targets)

    flat = torch.cat([p.detach().flatten() for p in net.parameters()])
    return torch.autograd.functional.hessian(of, flat)


def row(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([each.flatten() for each in tensors.values()])


def gauss_newton(net: nn.Module, inputs: Tensor) -> Tensor:
    """Diagonal of ``2/N Σ Jᵀ J``, the Hessian of the squared error without f''."""
    rows = []
    for example in inputs:
        for output in net(example.unsqueeze(0)).flatten():
            slopes = torch.autograd.grad(output, list(net.parameters()), retain_graph=True)
            rows.append(torch.cat([each.flatten() for each in slopes]))
    return 2 * torch.stack(rows).square().sum(0) / len(inputs)


def data(*shape: int, outputs: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(7, *shape, dtype=torch.float64, generator=generator)
    return inputs, torch.randn(7, outputs, dtype=torch.float64, generator=generator)


EXACT = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 3)), (5,)),
    "tanh at the end": (lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh()), (5,)),
    "one hidden layer": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)),
        (5,),
    ),
    "hidden and squashed": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3), nn.Tanh()),
        (5,),
    ),
    "one unit wide": (
        lambda: nn.Sequential(
            nn.Linear(5, 1), nn.Tanh(), nn.Linear(1, 1), nn.Sigmoid(), nn.Linear(1, 3)
        ),
        (5,),
    ),
    "nothing in between": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), (5,)),
    # A kernel as large as its input is used once, so no weight is shared.
    "grouped convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 2, groups=2), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(6, 3)
        ),
        (4, 2, 2),
    ),
}


@pytest.fixture(params=EXACT.values(), ids=EXACT.keys())
def problem(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor]:
    make, shape = request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make().double().eval(), *data(*shape)


def test_full_back_propagation(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Where no two units of a layer act together, it is the Hessian's diagonal."""
    found = row(second_derivative(seen(*problem)))
    torch.testing.assert_close(found, explicit(*problem).diagonal(), rtol=1e-10, atol=1e-12)


def test_levenberg_marquardt(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    """There too, it is the diagonal of the Gauss–Newton matrix, and not negative."""
    found = row(levenberg_marquardt(seen(*problem)))
    net, inputs, _ = problem
    torch.testing.assert_close(found, gauss_newton(net, inputs), rtol=1e-10, atol=1e-12)
    assert (found >= 0).all()


def test_hutchinson_converges(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Its error is what the off-diagonal entries say, batch by batch."""
    net, inputs, targets = problem
    probes = 400
    found = row(hessian_diagonal(seen(*problem), probes=probes))
    variance = torch.zeros_like(found)
    for part, weight in ((slice(0, 3), 3 / 7), (slice(3, 7), 4 / 7)):
        hessian = explicit(net, inputs[part], targets[part])
        off = hessian - torch.diag(hessian.diagonal())
        variance += weight**2 * off.square().sum(1) / probes
    errors = (found - explicit(*problem).diagonal()).abs()
    assert (errors <= 5 * variance.sqrt() + 1e-9).all()


def test_hessian_times_gradient(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    """H g over all examples, though no two batches are held at once."""
    net, inputs, targets = problem
    slope = torch.autograd.grad(squared(net(inputs), targets), list(net.parameters()))
    slope = torch.cat([each.flatten() for each in slope])
    torch.testing.assert_close(row(gradient(seen(*problem))), slope)
    torch.testing.assert_close(row(hessian_gradient(seen(*problem))), explicit(*problem) @ slope)


def test_empirical_fisher(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    """The mean of squared gradients of single examples."""
    net, inputs, targets = problem
    squares = []
    for x, d in zip(inputs.split(1), targets.split(1), strict=True):
        slope = torch.autograd.grad(squared(net(x), d), list(net.parameters()))
        squares.append(torch.cat([each.flatten() for each in slope]).square())
    found = row(gradient_square(seen(*problem)))
    torch.testing.assert_close(found, torch.stack(squares).mean(0))


def test_cross_entropy_at_the_last_layer() -> None:
    """The loss's own second derivatives are exact for any loss, so the last layer is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, _ = data(5)
    classes = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    truth = explicit(net, inputs, classes, cross_entropy).diagonal()
    for estimate in (second_derivative, levenberg_marquardt):
        found = row(estimate(seen(net, inputs, classes, cross_entropy)))
        assert torch.allclose(found[-15:], truth[-15:], rtol=1e-10)
    assert not torch.allclose(found[:24], truth[:24], rtol=1e-2)


def naive(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> Tensor:
    """The paper's recursion for the filters of conv, tanh, mean of 2 × 2, linear: loops only."""
    conv, _, _, _, last = net
    claimed = torch.zeros_like(conv.weight)
    for x, d in zip(inputs, targets, strict=True):
        a = conv(x.unsqueeze(0))[0].detach()
        f = torch.tanh(a)
        slope, bend = 1 - f**2, -2 * f * (1 - f**2)
        pooled = nn.functional.avg_pool2d(f, 2)
        outputs = last(pooled.flatten())
        high, wide = pooled.shape[1:]
        for o, i, j in torch.cartesian_prod(*(torch.arange(n) for n in a.shape)).tolist():
            k = (o * high + i // 2) * wide + j // 2
            curve_x = (2 * last.weight[:, k] ** 2).sum() / 16
            slope_x = (2 * (outputs - d) * last.weight[:, k]).sum() / 4
            curve_a = slope[o, i, j] ** 2 * curve_x + bend[o, i, j] * slope_x
            claimed[o] += curve_a * x[:, i : i + 2, j : j + 2] ** 2
    return claimed.detach() / len(inputs)


def test_shared_weights_are_summed_over_their_places() -> None:
    """A filter's h is the sum over positions, and a mean pool divides by its size squared."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 2, 2), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
        ).double()
    inputs, targets = data(2, 5, 5)
    found = second_derivative(seen(net, inputs, targets))["0.weight"]
    torch.testing.assert_close(found, naive(net, inputs, targets), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(2)])
def test_pools_pass_second_derivatives_on(pool: nn.Module) -> None:
    """Behind a pool the diagonal is exact; a filter used at many places that act together is not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Sequential(pool, nn.Flatten(), nn.Linear(4, 3)).double()
        whole = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Tanh(), *head).double()
    inputs, targets = data(1, 4, 4)
    found = second_derivative(seen(whole, inputs, targets))
    truth = explicit(whole, inputs, targets).diagonal()
    torch.testing.assert_close(row(found)[2:], truth[2:], rtol=1e-10, atol=1e-12)
    assert float(found["0.weight"]) != pytest.approx(float(truth[0]), rel=1e-3)


@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from([0, 1, 2, "same"]),
    st.integers(1, 2),
    st.sampled_from(["zeros", "circular", "reflect"]),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_the_gram_is_that_of_a_layers_outputs(
    groups: int, kernel: int, padding: int | str, stride: int, mode: str, flat: bool
) -> None:
    """Half its quadratic form is the squared error of the outputs, for any geometry."""
    assume(padding != "same" or kernel % 2)  # torch warns of the others
    make = nn.Conv1d if flat else nn.Conv2d
    layer = make(
        2 * groups, 2 * groups, kernel, 1 if padding == "same" else stride, padding,
        groups=groups, bias=False, padding_mode=mode,
    ).double()  # fmt: skip
    generator = torch.Generator().manual_seed(kernel)
    inputs = torch.randn(3, 2 * groups, *(5,) * (1 if flat else 2), generator=generator).double()
    calibration = Calibration(layer, {"weight": layer.weight}, [inputs[:1], inputs[1:]])
    gram = input_gram(calibration)
    norms = input_norm(calibration)["weight"].view(groups, 2, -1)
    diagonal = gram["weight"].diagonal(dim1=1, dim2=2) * 3 / 2
    torch.testing.assert_close(norms.square(), diagonal[:, None].expand_as(norms))
    step = torch.randn(layer.weight.shape, generator=generator).double()
    with torch.no_grad():
        before = layer(inputs)
        layer.weight += step
        error = (layer(inputs) - before).square().sum() / 3
    rows = step.reshape(groups, 2, -1)
    quadratic = 0.5 * torch.einsum("grn,gnm,grm->", rows, gram["weight"], rows)
    torch.testing.assert_close(quadratic, error)


def test_the_inverse_of_the_gram() -> None:
    """The diagonal belongs to the damped inverse, group by group."""
    layer = nn.Conv2d(4, 6, 2, groups=2).double()
    inputs = torch.randn(9, 4, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    calibration = Calibration(layer, {"weight": layer.weight}, [inputs])
    found = inverse_hessian_diagonal(calibration, damping=0.1)["weight"]
    for group, gram in enumerate(input_gram(calibration)["weight"]):
        damping = 0.1 * gram.diagonal().mean() * torch.eye(8, dtype=torch.float64)
        truth = torch.linalg.inv(gram + damping).diagonal().view(2, 2, 2)
        for place in range(3):
            torch.testing.assert_close(found[3 * group + place], truth)


def test_refusals() -> None:
    """What back-propagation and the estimates cannot do, they say."""
    inputs, targets = data(5)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with pytest.raises(BoxwoodError, match="at least 1 probe for Hutchinson's estimate, got 0"):
        hessian_diagonal(seen(net, inputs, targets), probes=0)
    with pytest.raises(BoxwoodError, match=r"a damping above 0, got 0\.0"):
        inverse_hessian_diagonal(
            Calibration(net, {"0.weight": net[0].weight}, [inputs]), damping=0.0
        )
    normed = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double()
    with pytest.raises(BoxwoodError, match=r"chain .* got '1'"):
        second_derivative(seen(normed, inputs, targets))
    ended = nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3)).double()
    with pytest.raises(BoxwoodError, match=r"linear and convolution layers, got '1\.weight'"):
        second_derivative(seen(ended, inputs, targets))
    maps = nn.Sequential(nn.Conv2d(1, 2, 1)).double()
    with pytest.raises(BoxwoodError, match=r"outputs \[batch, units\] .* got \(3, 2, 4, 4\)"):
        second_derivative(seen(maps, data(1, 4, 4)[0], torch.zeros(7, 2, 4, 4).double()))
    for pool, what in ((nn.AvgPool2d(2, padding=1), "AvgPool2d"), (nn.AdaptiveAvgPool2d(3), "Ada")):
        pooled = nn.Sequential(nn.Conv2d(1, 1, 1), pool, nn.Flatten(), nn.Linear(9, 3)).double()
        with pytest.raises(
            BoxwoodError, match=rf"the same number of values for each output, got {what}"
        ):
            second_derivative(seen(pooled, *data(1, 4, 4)))

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 1, 1).double(), nn.Linear(4, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(nn.functional.max_pool2d(self.conv(x), 2).flatten(1))

    with pytest.raises(BoxwoodError, match=r"pools that are modules, got the function call"):
        second_derivative(seen(Called(), *data(1, 4, 4)))
    with pytest.raises(BoxwoodError, match=r"Linear, Conv1d, Conv2d layers .* got '0\.bias'"):
        input_gram(seen(net, inputs, targets))


class Attending(nn.Module):
    """Attention by torch's function or module, and a linear layer behind it."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by = by
        self.enter = nn.Linear(4, 4)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True) if by == "module" else None
        layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True)
        self.encode = layer if by == "encoder" else None
        self.leave = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        if self.attend is not None:
            x = self.attend(x, x, x, need_weights=False)[0]
        elif self.encode is not None:
            x = self.encode(x)
        else:
            heads = x.unflatten(-1, (2, 2)).transpose(1, 2)
            fused = nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
            x = fused.transpose(1, 2).flatten(2)
        return self.leave(x.mean(1))


@pytest.mark.parametrize("by", ["function", "module", "encoder"])
def test_attention_has_second_derivatives(by: str) -> None:
    """H g and Hutchinson's estimate are those of the explicit Hessian of the same attention."""
    torch.manual_seed(0)
    net = Attending(by).eval().double()
    weights = {n: p for n, p in net.named_parameters() if n == "enter.weight"}
    inputs, targets = torch.randn(5, 3, 4).double(), torch.randn(5, 2).double()
    known = Calibration(net, weights, [(inputs, targets)], squared)

    def of(flat: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            outputs = functional_call(net, {"enter.weight": flat.view(4, 4)}, (inputs,))
        return squared(outputs, targets)

    hessian = torch.autograd.functional.hessian(of, net.enter.weight.detach().flatten())
    slope = row(gradient(known))
    torch.testing.assert_close(row(hessian_gradient(known)), hessian @ slope)
    # With as many probes as there are signs of 16 weights times 8, the diagonal to within its noise.
    found = row(hessian_diagonal(known, probes=2000))
    noise = (hessian.square().sum(1) - hessian.diagonal().square()).div(2000).sqrt()
    assert bool(((found - hessian.diagonal()).abs() <= 5 * noise + 1e-12).all())


def test_an_operation_without_second_derivatives_is_named() -> None:
    """What torch cannot differentiate twice is refused in its own words, with the way out."""

    def aligned(outputs: Tensor, targets: Tensor) -> Tensor:
        steps = outputs.unflatten(1, (3, 2)).movedim(1, 0).log_softmax(-1)
        lengths = torch.full((len(targets),), 3), torch.full((len(targets),), 1)
        return nn.functional.ctc_loss(steps, targets, *lengths)

    net = nn.Sequential(nn.Linear(4, 6))
    batches = [(torch.randn(2, 4), torch.ones(2, 1, dtype=torch.int64))]
    known = Calibration(net, {"0.weight": net[0].weight}, batches, aligned)
    for collect in (hessian_diagonal, hessian_gradient, levenberg_marquardt, second_derivative):
        with pytest.raises(BoxwoodError, match=r"got one that torch refuses: .*_ctc_loss_backward"):
            collect(known)
    assert gradient(known)["0.weight"].shape == (6, 4)


def test_recurrent_layers_are_differentiated_without_cudnn() -> None:
    """CuDNN has no backward pass of an evaluated recurrent layer; its setting comes back."""
    used = []

    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.leave = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            used.append(torch.backends.cudnn.enabled)
            return self.leave(self.read(x)[0][:, -1])

    net, before = Reading(), torch.backends.cudnn.enabled
    batches = [(torch.randn(2, 3, 3), torch.randn(2, 2))]
    gradient(Calibration(net, dict(net.named_parameters()), batches, squared))
    assert used == [False]
    assert torch.backends.cudnn.enabled == before
