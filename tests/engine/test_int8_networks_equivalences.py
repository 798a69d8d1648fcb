"""Networks in int8: near the network that they came from, saved and loaded, and refused clearly."""

import hashlib
import json
import math

import pytest
import torch
from torch import nn

import boxwood
from boxwood._internal.engine import compiling
from boxwood._internal.engine.bxw_sections import MAGIC
from boxwood._internal.engine.ops import (
    Dequantise,
    NativeOp,
    OnBytes,
    PoolWindows,
    Quantise,
    Recurrent,
    is_int8,
)
from boxwood._internal.engine.quantisation import choose
from boxwood._internal.engine.quantisation.calibrate import LEAST_DECIBELS
from boxwood._internal.engine.targets import AVX2, host
from boxwood.errors import BoxwoodError, InvalidInput

pytest.importorskip("llvmlite")


@pytest.fixture(autouse=True)
def every_layer(monkeypatch):
    """Choose all layers that lose little, whatever times say: tests measure no time."""
    monkeypatch.setattr(
        choose, "_chosen", lambda session, _inputs, found, _whole: (
            found.positions, session.times
        ),
    )  # fmt: skip
    monkeypatch.setattr(compiling.choice_cache, "recall", lambda *_: None)
    monkeypatch.setattr(compiling.choice_cache, "remember", lambda *_: None)


class Residual(nn.Module):
    def __init__(self, channels, inner):
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        self.middle = nn.Conv2d(inner, inner, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = self.middle(self.narrow(x).relu()).relu()
        return (x + self.norm(self.wide(y))).relu()


class Mixed(nn.Module):
    """Concatenation, an activation that is no limit of bytes, and two readers of one value."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(6, 8, 3, padding=1, stride=2), nn.Conv2d(8, 12, 1)
        self.three = nn.Conv2d(20, 10, 1)

    def forward(self, x):
        y = nn.functional.silu(self.one(x))
        z = torch.cat([y, self.two(y)], 1)
        return self.three(z).mean((2, 3)) + y.mean()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 70), nn.Linear(70, 24)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def vision():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        Residual(16, 8), nn.Conv2d(16, 20, 3, stride=2), nn.ReLU6(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(20, 10),
    ), torch.randn(2, 3, 14, 14)  # fmt: skip


class Sequence(nn.Module):
    def __init__(self, cell, **settings):
        super().__init__()
        self.cell, self.head = cell(12, 16, **settings), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.cell(x)[0])


class Directions(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(8, 16, 2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.cell(x)[0]


def networks():
    torch.manual_seed(0)
    return {
        "vision": vision(),
        "mixed": (Mixed(), torch.randn(2, 6, 11, 9)),
        "tokens": (Tokens(), torch.randn(2, 7, 24)),
        "vectors": (nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3)), torch.randn(2, 30)),
        "depthwise": (
            nn.Sequential(
                nn.Conv2d(4, 10, 1), nn.ReLU6(),
                nn.Conv2d(10, 10, 3, groups=10, padding=1, stride=2), nn.ReLU6(),
                nn.Conv2d(10, 10, 3, groups=10, padding=1), nn.Conv2d(10, 6, 1),
            ),
            torch.randn(2, 4, 11, 11),
        ),
        "lstm": (Sequence(nn.LSTM, num_layers=2), torch.randn(7, 1, 12)),
        "lstm step": (Sequence(nn.LSTM), torch.randn(1, 1, 12)),
        "gru": (Sequence(nn.GRU, num_layers=2, bias=False), torch.randn(6, 1, 12)),
        "sequences": (Sequence(nn.GRU), torch.randn(4, 3, 12)),
        "directions": (Directions(), torch.randn(1, 9, 8)),
        "groups": (nn.Conv2d(16, 8, 3, groups=2, padding=1), torch.randn(1, 16, 5, 5)),
    }  # fmt: skip


def drawn(*shape):
    """Values none of which lies outside of what calibration sees."""
    return torch.randn(shape).clamp(-2.5, 2.5)


def compiled(net, x, **settings):
    batches = [drawn(8, *x.shape[1:]) for _ in range(3)]
    return boxwood.compile(net.eval(), x, precision="int8", calibration=batches, **settings)


def kinds(session):
    return [type(getattr(op, "kind", op)).__name__ for op in session.program.ops]


def decibels(wanted, got):
    noise = (wanted - got).square().sum()
    return 10 * math.log10(wanted.square().sum() / noise) if noise else math.inf


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("batch", [1, 5])
def test_near_the_network(name, batch):
    """Any batch comes within the noise of bytes, and layers are on bytes."""
    net, x = networks()[name]
    session = compiled(net, x)
    inputs = drawn(batch, *x.shape[1:])
    with torch.no_grad():
        assert decibels(net(inputs), session(inputs)) > 30
    assert any(is_int8(op) for op in session.program.ops)
    assert all(
        position in session.native
        for position, op in enumerate(session.program.ops)
        if isinstance(getattr(op, "kind", None), OnBytes | Quantise | Dequantise)
    )


@pytest.mark.parametrize("name", ["lstm", "lstm step", "gru", "sequences", "directions"])
def test_stacks_are_on_bytes_in_kernels_and_in_torch(name, tmp_path):
    """Kernels give what torch gives with the same bytes for weights, up to the rounding of states."""
    net, x = networks()[name]
    session = compiled(net, x)
    stacks = {p for p, op in enumerate(session.program.ops) if isinstance(op, Recurrent)}
    assert stacks and all(is_int8(session.program.ops[p]) for p in stacks)  # noqa: PT018
    assert stacks <= session.native
    in_torch = session.with_native(session.native - stacks)
    x = x.clamp(-2.5, 2.5)
    assert decibels(in_torch(x), session(x)) > 30
    session.save(tmp_path / "net.bxw")
    assert torch.equal(boxwood.load(tmp_path / "net.bxw")(x), session(x))


def test_threads_change_no_bit():
    net, x = networks()["vision"]
    torch.manual_seed(1)
    one = compiled(net, x)
    torch.manual_seed(1)
    two = compiled(net, x, threads=2)
    inputs = torch.randn(3, *x.shape[1:])
    assert torch.equal(one(inputs), two(inputs))


def test_conversions_only_at_borders():
    """A chain of layers is converted once, pooling and residuals stay bytes."""
    net, x = networks()["vision"]
    session = compiled(net, x)
    made = kinds(session)
    assert made.count("Quantise") == 2  # the input, and the mean of the planes
    assert made.count("Dequantise") == 0
    pools = [op for op in session.program.ops if isinstance(op, NativeOp) and isinstance(op.kind, OnBytes)
             and isinstance(op.kind.kind, PoolWindows)]  # fmt: skip
    assert len(pools) == 1


def test_saved_and_loaded(tmp_path):
    net, x = networks()["vision"]
    session = compiled(net, x)
    session.save(tmp_path / "net.bxw")
    loaded = boxwood.load(tmp_path / "net.bxw")
    for batch in (2, 3):
        inputs = torch.randn(batch, *x.shape[1:])
        assert torch.equal(session(inputs), loaded(inputs))
    assert "int8" in str(loaded.explain(x))


def blocks(sparsity):
    """A network in blocks of four inputs: layers one by one in rows, in groups, and on vectors."""
    net = nn.Sequential(
        nn.Conv2d(16, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 48),
    )  # fmt: skip
    boxwood.prune_(net, sparsity, granularity=boxwood.granularity.Blocks(1, 4))
    return net, torch.randn(2, 16, 8, 8)


@pytest.mark.parametrize("family", ["this", "another"])
def test_sparse_weights_are_in_a_file_once(tmp_path, monkeypatch, family):
    """Packed for the kernels; where there are none for this family, they are unpacked."""
    net, x = blocks(0.8)
    session = compiled(net, x)
    wanted = session(x)
    session.save(tmp_path / "net.bxw")
    header, _ = container(tmp_path / "net.bxw")
    held = [spec for _, spec in header["program"]["constants"] if spec["dtype"] == "int8"]
    assert len(held) == 3
    assert all("kernel" in spec for spec in held)
    if family == "another":
        if host().lanes < AVX2.lanes or host() == AVX2:
            pytest.skip("this machine runs one family")
        monkeypatch.setattr("boxwood._internal.engine.storage.host", lambda: AVX2)
    loaded = boxwood.load(tmp_path / "net.bxw")
    assert torch.equal(loaded(x), wanted)
    for number, weight in session.program.constants.items():
        assert torch.equal(loaded.program.constants[number], weight)
    loaded.save(tmp_path / "again.bxw")
    again = boxwood.load(tmp_path / "again.bxw")
    assert torch.equal(again(x), wanted)
    assert again.explain(x).nonzero == session.explain(x).nonzero


def container(path):
    data = path.read_bytes()
    length = int.from_bytes(data[40:48], "little")
    return json.loads(data[48 : 48 + length]), data[-(-(48 + length) // 64) * 64 :]


def test_a_weight_in_no_kernel_of_the_file_is_refused(tmp_path):
    net, x = blocks(0.8)
    compiled(net, x).save(tmp_path / "net.bxw")
    for wrong in (99, -1, "x", None, True):
        header, sections = container(tmp_path / "net.bxw")
        spec = next(s for _, s in header["program"]["constants"] if "kernel" in s)
        spec["kernel"] = wrong
        text = json.dumps(header).encode()
        body = len(text).to_bytes(8, "little") + text
        body += bytes(-(40 + len(body)) % 64) + sections
        path = tmp_path / "bad.bxw"
        path.write_bytes(MAGIC + hashlib.sha256(body).digest() + body)
        with pytest.raises(BoxwoodError, match="a weight is in a kernel that there is not"):
            boxwood.load(path)


def test_a_file_for_another_family_computes_the_same(tmp_path, monkeypatch):
    """Weights that were rounded for 32-bit sums are right where pairs are added in 16 bits, too."""
    net, x = networks()["vision"]
    session = compiled(net, x)
    session.save(tmp_path / "net.bxw")
    monkeypatch.setattr("boxwood._internal.engine.storage.host", lambda: AVX2)
    if host().lanes < AVX2.lanes:
        pytest.skip("this machine runs no AVX2")
    assert torch.equal(boxwood.load(tmp_path / "net.bxw")(x), session(x))


def test_explain_says_what_stays_float_and_why():
    """A layer whose few great inputs drown the others loses too much, and says how much."""

    class Outlier(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            return self.two(self.one(x) * self.scale)

        scale = torch.tensor([3e5] + [1.0] * 15)

    net = Outlier()
    with torch.no_grad():
        net.two.weight[:, 0] = 0.0
    x = torch.randn(4, 16)
    session = compiled(net, x)
    table = str(session.explain(x))
    assert f"less than {LEAST_DECIBELS:.0f}" in table
    assert "dB: " in table
    lines = [line for line in table.splitlines() if "two.weight" in line]
    assert "int8 kernel" not in lines[0]


def unfit_layers():
    """A layer that cannot be int8, its input, and what `explain` says about it."""
    endless = nn.Linear(8, 4)
    with torch.no_grad():
        endless.weight[0, 0] = math.inf
    return {
        "groups": (
            nn.Conv2d(12, 6, 1, groups=2), torch.randn(1, 12, 5, 5),
            "groups of 6 channels are not whole quads",
        ),
        "stride": (
            nn.Conv2d(8, 8, 3, stride=3, groups=8), torch.randn(1, 8, 11, 11),
            "a filter for each channel with a stride of 3",
        ),
        "sums": (nn.Linear(65_796, 2), torch.randn(1, 65_796), "its sums may exceed 32 bits"),
        "infinity": (endless, torch.randn(1, 8), "a weight is not finite"),
    }  # fmt: skip


@pytest.mark.parametrize("name", unfit_layers())
def test_explain_says_why_a_layer_cannot_be_int8(name):
    net, x, said = unfit_layers()[name]
    net = nn.Sequential(net, nn.ReLU()).eval()
    session = boxwood.compile(net, x, precision="int8", calibration=[x])
    assert not any(is_int8(op) for op in session.program.ops)
    assert f"float32: {said}" in str(session.explain(x))


def test_a_layer_of_many_inputs_is_int8():
    """As VGG's first linear layer is, of 25,088 inputs; the greatest sums still fit."""
    net, x = nn.Sequential(nn.Linear(25_088, 4), nn.ReLU()).eval(), drawn(1, 25_088)
    session = boxwood.compile(net, x, precision="int8", calibration=[x])
    assert any(is_int8(op) for op in session.program.ops)
    with torch.no_grad():
        assert decibels(net(x), session(x)) > 25


def test_constants_and_silence():
    """A channel that never changes, and an input of zeros only, give what the network gives."""
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = 0.0, 2.5
    x = torch.zeros(1, 2, 4, 4)
    session = boxwood.compile(net, x, precision="int8", calibration=[x])
    with torch.no_grad():
        assert decibels(net(x), session(x)) > 30
    x = torch.randn(1, 2, 4, 4)
    x[:, 1] = 3.0
    session = boxwood.compile(net, x, precision="int8", calibration=[x])
    with torch.no_grad():
        assert decibels(net(x), session(x)) > 30


def test_nothing_to_quantise():
    """A network without layers of bytes runs as float32."""
    x = torch.randn(2, 5)
    session = boxwood.compile(nn.Softmax(1), x, precision="int8", calibration=[x])
    assert torch.allclose(session(x), x.softmax(1))
    assert "OnBytes" not in kinds(session)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "at least one batch of calibration data"),
        ([torch.full((1, 4), math.nan)], "got NaN or infinity in batch 0"),
        ([torch.zeros(1, 4, dtype=torch.float64)], "to be torch.float32 on cpu, got torch.float64"),
        ([torch.zeros(1, 5)], "of shape"),
        (["text"], "got str"),
        (3, "an iterable of inputs"),
    ],
)
def test_bad_calibration_data(calibration, message):
    with pytest.raises(InvalidInput, match=message):
        boxwood.compile(
            nn.Linear(4, 2), torch.zeros(1, 4), precision="int8", calibration=calibration
        )


def test_bad_settings():
    net, x = nn.Linear(4, 2), torch.zeros(1, 4)
    with pytest.raises(BoxwoodError, match="Expected precision 'float32' or 'int8', got 'int4'"):
        boxwood.compile(net, x, precision="int4")
    with pytest.raises(BoxwoodError, match="give both or neither"):
        boxwood.compile(net, x, precision="int8")
    with pytest.raises(BoxwoodError, match="give both or neither"):
        boxwood.compile(net, x, calibration=[x])
