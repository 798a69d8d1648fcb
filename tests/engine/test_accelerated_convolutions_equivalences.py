"""Accelerated convolutions give what torch's give, whatever their moves and sizes."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("llvmlite")

import boxwood
from boxwood._internal.engine import accelerate, costs, layer_ops, measured_shapes
from boxwood._internal.engine.accelerated_layers import AcceleratedConv2d
from boxwood._internal.engine.measured_shapes import SHAPES, MeasuredShapes
from boxwood._internal.engine.thread_team import ThreadTeam

CHANGED = "Expected the weights that accelerate_ has packed"


@pytest.fixture(autouse=True)
def in_kernels(monkeypatch) -> None:
    """Whatever is fastest, and whatever the size."""
    monkeypatch.setattr(MeasuredShapes, "_faster", lambda self, ours, *_: ours)
    monkeypatch.setattr(costs, "choose_packing", lambda *_, **__: None)
    monkeypatch.setattr(accelerate, "SMALLEST", 0)


def pruned(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim > 1:
                parameter *= torch.rand_like(parameter) >= 0.6
                parameter.view(-1)[0] = 0
    return layer.eval()


def accelerated(net: nn.Module) -> nn.Module:
    twin = copy.deepcopy(net)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerate, "DENSE", 0.0)
        assert boxwood.accelerate_(twin).replaced == sum(
            isinstance(module, nn.Conv1d | nn.Conv2d) for module in net.modules()
        )
    return twin


def near(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=2e-5, atol=2e-5)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=25, deadline=None)
@given(
    kernel=pairs, stride=pairs, dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    size=st.tuples(st.integers(6, 12), st.integers(6, 12)), images=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]), bias=st.booleans(), flat=st.booleans(),
)  # fmt: skip
def test_any_convolution(
    kernel, stride, dilation, padding, size, images, groups, bias, flat
) -> None:
    """Over images and sequences, of any moves, groups and sizes."""
    torch.manual_seed(0)
    moves = {"stride": stride, "dilation": dilation, "padding": padding}
    if flat:
        moves = {name: each[1:] for name, each in moves.items()}
        layer = nn.Conv1d(8, 12, kernel[1:], **moves, groups=groups, bias=bias)
    else:
        layer = nn.Conv2d(8, 12, kernel, **moves, groups=groups, bias=bias)
    x = torch.randn(images, 8, *(size[1:] if flat else size))
    fast = accelerated(pruned(layer))
    with torch.no_grad():
        near(fast(x), layer(x))
        near(fast(x[:1]), layer(x[:1]))


def network() -> nn.Module:
    torch.manual_seed(0)
    return pruned(
        nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(2),
                      nn.Conv1d(6, 4, 5, stride=2))
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of the check's own
def test_the_operator_is_one_of_torchs() -> None:
    """Its schema, shapes, gradients and tracing hold."""
    layer = pruned(nn.Conv2d(4, 6, 3))
    moves = ([1, 1], [1, 0], [1, 1], 1, 0)
    for gradients in (False, True):
        x = torch.randn(2, 4, 7, 7, requires_grad=gradients)
        weight = layer.weight.detach().requires_grad_(gradients)
        torch.library.opcheck(layer_ops.convolution, (x, weight, None, *moves))


def test_gradients_copies_and_files() -> None:
    """Gradients are torch's; a copy shares what is packed; a pickled network is dense."""
    net, x = network(), torch.randn(2, 4, 9, 9)
    fast = accelerated(net)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for each, own in zip((net, fast), inputs, strict=True):
        each(own).square().sum().backward()
    near(inputs[1].grad, inputs[0].grad)
    for ours, theirs in zip(fast.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    twin = copy.deepcopy(fast)
    assert twin[0].plan._shapes is fast[0].plan._shapes
    with torch.no_grad():
        assert torch.equal(twin(x), fast(x))
        again = pickle.loads(pickle.dumps(fast))  # noqa: S301
        assert torch.equal(again(x), net(x))
        compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
        near(compiled(x), net(x))
        fast[0].weight.mul_(2)
        net[0].weight.mul_(2)
        with pytest.warns(RuntimeWarning, match=CHANGED):
            near(fast(x), net(x))
    boxwood.restore_(fast)
    assert [type(module) for module in fast] == [type(module) for module in net]


def test_shapes_are_looked_at_once_and_not_for_ever(monkeypatch) -> None:
    """Each at its first call, in any thread; after eight, torch runs the rest."""
    made = []
    monkeypatch.setattr(MeasuredShapes, "_faster", lambda self, ours, *_: made.append(1) or ours)
    net = pruned(nn.Conv2d(4, 6, 3))
    fast = accelerated(net)
    xs = [torch.randn(1 + n % 2, 4, 5 + n // 2, 5) for n in range(2 * SHAPES + 4)]
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        wanted = [net(x) for x in xs]

        def call(x: Tensor) -> Tensor:
            with torch.no_grad():
                return fast(x)

        for _ in range(3):
            for got, want in zip(pool.map(call, xs), wanted, strict=True):
                near(got, want)
    assert len(made) == SHAPES


def test_the_faster_one_is_kept(monkeypatch) -> None:
    """By a measurement that is faked here."""
    monkeypatch.undo()
    times = {"ours": [2.0], "dense": [1.0]}
    monkeypatch.setattr(measured_shapes, "by_turns", lambda *_, **__: times)
    shapes = MeasuredShapes(ThreadTeam(1))
    assert shapes.choose("slow", lambda: torch.neg, torch.relu, torch.ones(1)) is torch.relu
    times["ours"] = [0.5]
    assert shapes.choose("fast", lambda: torch.neg, torch.relu, torch.ones(1)) is torch.neg
    assert shapes.choose("slow", lambda: torch.neg, torch.relu, torch.ones(1)) is torch.relu


def test_what_stays_torchs() -> None:
    """Channels last, one image without a batch, other paddings, and nearly dense weights."""
    net = pruned(nn.Conv2d(8, 8, 3, padding=1))
    fast, x = accelerated(net), torch.randn(2, 8, 6, 6)
    assert type(fast) is AcceleratedConv2d
    with torch.no_grad():
        last = x.contiguous(memory_format=torch.channels_last)
        assert fast(last).is_contiguous(memory_format=torch.channels_last)
        near(fast(last), net(x))
        near(fast(x[0]), net(x[0]))
        assert fast(x[:0]).shape == (0, 8, 6, 6)
        with torch.autocast("cpu", torch.bfloat16):
            assert fast(x).dtype == torch.bfloat16
    others = nn.ModuleDict(
        {
            "same": pruned(nn.Conv2d(8, 8, 3, padding="same")),
            "around": pruned(nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")),
            "dense": nn.Conv2d(8, 8, 3),
            "turned": pruned(nn.ConvTranspose2d(8, 8, 3)),
        }
    )
    report = boxwood.accelerate_(others)
    assert report.replaced == 0
    assert [(each.name, each.why) for each in report.layers] == [
        ("same", "padding by zeros, same"),
        ("around", "padding by circular, (1, 1)"),
        ("dense", "fewer than 20 % zeros"),
    ]
