"""Networks drawn at random, compiled, against torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine.capture import capture
from boxwood._internal.engine.compiling import optimised
from boxwood._internal.engine.interface import learn_interface
from boxwood._internal.engine.kernel_cache import KernelCache
from boxwood._internal.engine.session import Session
from boxwood._internal.engine.supported import supported_problems
from boxwood._internal.engine.targets import host
from boxwood._internal.engine.thread_team import ThreadTeam

ACTIVATIONS = (
    nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Hardswish(),
    nn.Hardsigmoid(), nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(), nn.ELU(), nn.Softplus(),
)  # fmt: skip


class Residual(nn.Module):
    """x + body(x), through an activation."""

    def __init__(self, body: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.last = body, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.body(x))


class Branches(nn.Module):
    """Several bodies of one input, side by side in channels; the input too, if so asked."""

    def __init__(self, bodies: list[nn.Module], keep: bool) -> None:
        super().__init__()
        self.bodies, self.keep = nn.ModuleList(bodies), keep

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*([x] if self.keep else []), *(body(x) for body in self.bodies)], 1)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class InPlace(nn.Module):
    """Writes into parts of what it computed."""

    def forward(self, x: Tensor) -> Tensor:
        y = (x * 2).clone(memory_format=torch.contiguous_format)
        y[:, 0] += 1
        y[:, :, 1:].clamp_(max=1)
        y.view(len(y), -1)[:, ::3].mul_(0.5)
        return y


class Shuffle(nn.Module):
    """Channels of two halves by turns."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)


class Attention(nn.Module):
    """Images as tokens, through one block of a transformer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(channels, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        y = self.block(x.flatten(2).transpose(1, 2))
        return y.transpose(1, 2).reshape(batch, channels, height, width)


@st.composite
def convolutions(draw: st.DrawFn, channels: int, out: int) -> nn.Module:
    kernel = draw(st.sampled_from(((1, 1), (3, 3), (1, 3), (5, 5), (2, 2))))
    dilation = draw(st.sampled_from((1, 1, 2)))
    padding = tuple((size - 1) * dilation // 2 for size in kernel)
    groups = draw(
        st.sampled_from([g for g in (1, 1, 2, channels) if not (channels % g or out % g)])
    )
    bias = draw(st.booleans())
    same = kernel != (2, 2)
    layers: list[nn.Module] = [] if same else [nn.ZeroPad2d((0, dilation, 0, dilation))]
    padding = padding if same else (0, 0)
    layers.append(
        nn.Conv2d(
            channels, out, kernel, padding=padding, dilation=dilation, groups=groups, bias=bias
        )
    )
    if draw(st.booleans()):
        layers.append(nn.BatchNorm2d(out))
    layers.append(draw(st.sampled_from(ACTIVATIONS)))
    return nn.Sequential(*layers)


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    channels = draw(st.sampled_from((2, 4, 6, 8)))
    size = draw(st.integers(4, 17)), draw(st.integers(4, 17))
    first = draw(st.integers(1, 4))
    layers: list[nn.Module] = [draw(convolutions(first, channels))]
    for _ in range(draw(st.integers(1, 5))):
        match draw(st.integers(0, 9)):
            case 0 | 1:
                out = draw(st.sampled_from((2, 4, 6, 8)))
                layers.append(draw(convolutions(channels, out)))
                channels = out
            case 2 | 3:
                body = draw(convolutions(channels, channels))
                layers.append(Residual(body, draw(st.sampled_from(ACTIVATIONS))))
            case 4:
                outs = draw(st.lists(st.sampled_from((2, 4)), min_size=1, max_size=3))
                keep = draw(st.booleans())
                bodies = [draw(convolutions(channels, out)) for out in outs]
                layers.append(Branches(bodies, keep))
                channels = sum(outs) + keep * channels
            case 5:
                layers.append(Gate(channels))
            case 6:
                pool = draw(st.sampled_from((
                    nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2, 1), nn.AvgPool2d(3, 1, 1),
                    nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.MaxPool2d(2, 1, ceil_mode=True),
                )))  # fmt: skip
                layers.append(nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), pool))
            case 7:
                layers.append(InPlace())
            case 8:
                layers.append(Shuffle() if channels % 2 == 0 else nn.BatchNorm2d(channels))
            case 9:
                # Normalising over few features multiplies rounding by any factor.
                layers.append(Attention(channels) if channels % 8 == 0 else nn.Dropout(0.5))
    if draw(st.booleans()):
        layers.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
    match draw(st.integers(0, 3)):
        case 0:
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]
        case 1:
            layers += [nn.AdaptiveMaxPool2d((2, 3)), nn.Flatten(), nn.Linear(6 * channels, 5)]
        case 2:
            layers.append(nn.Softmax(1))
    return nn.Sequential(*layers), (first, *size)


def randomise_(net: nn.Module, seed: int, sparsity: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if tensor.is_floating_point():
                drawn = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(drawn + 0.5 if name.endswith("var") else 2 * drawn - 1)
            if tensor.ndim > 1:
                keep = torch.rand(tensor.shape, generator=generator) >= sparsity
                tensor.mul_(keep * tensor[0].numel() ** -0.5)


def session_of(net: nn.Module, example: Tensor, portion: float, seed: int, threads: int) -> Session:
    """Compile without timing: a drawn share of what kernels can do is done by them."""
    tensors, function, interface = learn_interface(net, example)
    program = optimised(capture(function, tensors).program)
    generator = torch.Generator().manual_seed(seed)
    able = sorted(supported_problems(program, program.batch or len(example)))
    chosen = [p for p in able if torch.rand((), generator=generator).item() < portion]
    kernels = KernelCache(program, host(), threads)
    return Session(program, interface(), frozenset(chosen), kernels, ThreadTeam(threads))


def relative(ours: Tensor, theirs: Tensor) -> float:
    scale = theirs.abs().max().item()
    return (ours - theirs).abs().max().item() / scale if scale else ours.abs().max().item()


def check_network(
    network: tuple[nn.Module, tuple[int, ...]],
    seed: int, sparsity: float, portion: float, batches: tuple[int, int],
) -> None:  # fmt: skip
    net, shape = network
    randomise_(net, seed, sparsity)
    net.eval()
    session = session_of(net, torch.zeros(batches[0], *shape), portion, seed, threads=1)
    twofold = session_of(net, torch.zeros(batches[0], *shape), portion, seed, threads=2)
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        x = torch.randn(batch, *shape, generator=generator)
        with torch.no_grad():
            exact, rounded = net.double()(x.double()), net.float()(x)
        ours = session(x)
        assert ours.shape == rounded.shape
        assert relative(ours, rounded) <= 1e-4
        # Both err by rounding alone; a wrong kernel would be off by orders of magnitude.
        assert relative(ours.double(), exact) <= 20 * relative(rounded.double(), exact) + 2e-6
        # Some of torch's operators round otherwise on two threads; kernels never do.
        alone = len(session.native) == len(session.program.ops)
        torch.testing.assert_close(
            twofold(x), ours, rtol=0 if alone else 1e-4, atol=0 if alone else 1e-5
        )


DRAWS = {
    "network": networks(),
    "seed": st.integers(0, 2**31),
    "sparsity": st.sampled_from((0.0, 0.5, 0.9, 1.0)),
    "portion": st.sampled_from((1.0, 1.0, 0.7, 0.3, 0.0)),
    "batches": st.sampled_from(((1, 3), (2, 1), (4, 2))),
}


@settings(max_examples=25, deadline=None)
@given(**DRAWS)
def test_a_compiled_network_computes_what_torch_computes(**drawn) -> None:
    """Any network, any sparsity, any share in kernels, any batch: torch's result up to rounding."""
    check_network(**drawn)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(**DRAWS)
def test_five_hundred_compiled_networks_compute_what_torch_computes(**drawn) -> None:
    """The same law for 500 networks."""
    check_network(**drawn)


def check_within_buffers(
    net: nn.Module, arena, shape: tuple[int, ...], batches: tuple[int, ...]
) -> None:
    made = arena.made
    for threads in (1, 2):
        session = session_of(net, torch.zeros(batches[0], *shape), 1.0, 0, threads)
        for batch in batches:
            x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
            with torch.no_grad():
                wanted = net(x)
            ours = session(x)
            assert ours.isfinite().all()
            assert relative(ours, wanted) <= 1e-4
    assert arena.made - made == 2 * len(batches)


@settings(max_examples=8, deadline=None)
@given(networks(), st.integers(0, 2**31), st.sampled_from((0.0, 0.9)))
def test_random_networks_stay_within_their_buffers(
    arena, network: tuple[nn.Module, tuple[int, ...]], seed: int, sparsity: float
) -> None:
    """They neither touch what lies around a buffer nor read what nobody wrote."""
    net, shape = network
    randomise_(net, seed, sparsity)
    check_within_buffers(net.eval(), arena, shape, (2, 1))


class Tagger(nn.Module):
    """Recurrent layers of both kinds over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(9, 13, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(26, 11)
        self.out = nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(self.lstm(x)[0].transpose(0, 1))[0]).transpose(0, 1)


def test_recurrent_networks_stay_within_their_buffers(arena) -> None:
    """Step by step, in both directions, one sequence or several."""
    net = Tagger()
    randomise_(net, 0, 0.5)
    check_within_buffers(net.eval(), arena, (5, 9), (1, 3))


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "squeezenet1_1"])
def test_classifiers_stay_within_their_buffers(arena, name: str) -> None:
    """Joins, splits, depthwise and gated layers, strides and odd sizes."""
    models = pytest.importorskip("torchvision").models
    net = models.get_model(name, weights=None)
    randomise_(net, 0, 0.8)
    check_within_buffers(net.eval(), arena, (3, 65, 49), (1,))
