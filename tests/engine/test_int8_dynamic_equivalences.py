"""Int8 networks of any size: near the network at each, the same bits as one compiled for that size."""

import math

import pytest
import torch
from torch import nn

import boxwood
from boxwood._internal.engine import compiling, costs, kernel_problems
from boxwood._internal.engine.kernels.int8_conv import Int8Conv
from boxwood._internal.engine.ops import is_int8
from boxwood._internal.engine.quantisation import choose
from boxwood._internal.engine.supported import supported_problems
from boxwood.errors import InvalidInput

pytest.importorskip("llvmlite")


@pytest.fixture(autouse=True)
def every_layer(monkeypatch):
    """Kernels do all they can, and bytes all that lose little: tests measure no time."""

    def supported(session, _):
        return frozenset(supported_problems(session.program, session.program.example)), {}

    monkeypatch.setattr(compiling, "choose_assignment", supported)
    monkeypatch.setattr(
        choose, "_chosen", lambda session, _inputs, found, _whole: (found.positions, {})
    )
    monkeypatch.setattr(
        choose.assignment, "cheapest_forms",
        lambda program, sizes, _: (frozenset(supported_problems(program, sizes)), frozenset()),
    )  # fmt: skip
    monkeypatch.setattr(compiling.choice_cache, "recall", lambda *_: None)
    monkeypatch.setattr(compiling.choice_cache, "remember", lambda *_: None)
    monkeypatch.setattr(costs, "choose_packing", lambda *_, **__: None)
    monkeypatch.setattr(costs, "choose_int8_packing", lambda *_, **__: None)


class Tokens(nn.Module):
    """Layers of each token by itself, and a residual."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 70), nn.Linear(70, 24)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def encoder():
    layer = nn.TransformerEncoderLayer(32, 2, 64, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def images():
    return nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6(), nn.Conv2d(16, 8, 1),
    )  # fmt: skip


class Steps(nn.Module):
    """A recurrent stack over sequences of any length."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(12, 16, 2, batch_first=True), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.cell(x)[0])


def drawn(*shape):
    return torch.randn(shape).clamp(-2.5, 2.5)


def decibels(wanted, got):
    noise = (wanted - got).square().sum()
    return 10 * math.log10(wanted.square().sum() / noise) if noise else math.inf


CASES = {
    "tokens": (Tokens, {1: (1, 40)}, (1, 9, 24), [(1, n, 24) for n in (1, 2, 4, 16, 17, 40)]),
    "encoder": (encoder, {1: (4, 40)}, (1, 12, 32), [(1, n, 32) for n in (4, 7, 31, 40)]),
    "steps": (Steps, {1: (2, 20)}, (1, 6, 12), [(1, n, 12) for n in (2, 5, 16, 20)]),
    "images": (
        images, {2: (4, 24, 2), 3: (4, 32, 2)}, (1, 4, 10, 12),
        [(1, 4, h, w) for h, w in ((4, 4), (10, 24), (24, 32), (6, 18))],
    ),
}  # fmt: skip


def compiled(name):
    torch.manual_seed(0)
    build, axes, shape, sizes = CASES[name]
    net, x = build().eval(), drawn(*shape)
    boxwood.prune_(net, 0.5, granularity=boxwood.granularity.Blocks(1, 4))
    calibration = [drawn(*each) for each in (shape, *sizes) for _ in range(2)]
    argument = "src" if name == "encoder" else "input" if name == "images" else "x"
    session = boxwood.compile(
        net, {argument: x}, precision="int8", calibration=[{argument: c} for c in calibration],
        dynamic={argument: axes},
    )  # fmt: skip
    return net, session, [{argument: drawn(*each)} for each in sizes]


@pytest.mark.parametrize("name", CASES)
def test_near_the_network_at_every_size(name, tmp_path, monkeypatch):
    """Layers are on bytes; a file gives the same bits; other sizes pack nothing again."""
    net, session, calls = compiled(name)
    assert sum(is_int8(op) for op in session.program.ops) >= 2
    packed = {id(part) for bound in session.kernels.built.values() for part in values_of(bound)}

    def refuse(problem, *_):
        if isinstance(problem, Int8Conv):
            raise AssertionError("packed again")
        return build(problem, *_)

    build = kernel_problems.build_kernel
    session.save(tmp_path / "net.bxw")
    loaded = boxwood.load(tmp_path / "net.bxw")
    for call in calls:
        (x,) = call.values()
        if x.shape[1] > 3:
            monkeypatch.setattr(kernel_problems, "build_kernel", refuse)
        with torch.no_grad():
            wanted = net(**call)
        got = session(**call)
        assert decibels(wanted, got) > 25
        assert torch.equal(loaded(**call), got)
        monkeypatch.setattr(kernel_problems, "build_kernel", build)
    found = {id(part) for bound in session.kernels.built.values() for part in values_of(bound)}
    if name == "encoder":  # all of whose sizes are of more than three tokens
        assert found <= packed


def values_of(bound):
    """The packed weights of a kernel on bytes."""
    if type(bound.kernel.packing).__name__ == "Int8Packing":
        yield bound.kernel.constants[3]


def test_the_same_bits_as_one_size():
    """What calibrates is the same, so that the example's size gives the same program."""
    torch.manual_seed(0)
    net, x = Tokens().eval(), drawn(1, 9, 24)
    shown = [drawn(1, 9, 24) for _ in range(4)]
    fixed = boxwood.compile(net, x, precision="int8", calibration=shown)
    dynamic = boxwood.compile(
        net, x, precision="int8", calibration=shown, dynamic={"x": {1: (1, 40)}}
    )
    assert torch.equal(fixed(x), dynamic(x))
    # Each token is computed by itself, wherever it is and however many there are.
    long = torch.cat([x, x, x, x[:, :5]], 1)
    wanted = fixed(x)
    got = dynamic(long)
    for start in (0, 9, 18):
        assert torch.equal(got[:, start : start + 9], wanted)
    assert torch.equal(dynamic(x[:, :5]), wanted[:, :5])


def test_calibration_outside_of_the_range_is_refused():
    with pytest.raises(InvalidInput, match="x axis 1 of 1 to 40"):
        boxwood.compile(
            Tokens().eval(), drawn(1, 9, 24), precision="int8", calibration=[drawn(1, 50, 24)],
            dynamic={"x": {1: (1, 40)}},
        )  # fmt: skip
