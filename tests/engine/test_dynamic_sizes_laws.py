"""Networks compiled for ranges of sizes compute what torch computes at any of them."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.dynamic_sizes import DynamicRange, corners, fitted
from boxwood._internal.engine.ops import Attend, NativeOp, Rotate
from boxwood._internal.engine.session import DYNAMIC_PLANS, Session, load_session
from boxwood.errors import InvalidInput


class Decoder(nn.Module):
    """Embedding, rotary positions and causal attention, a gate, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.gate, self.up, self.down = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length = tokens.shape
        x = self.embedding(tokens)
        q, k, v = self.qkv(x).view(batch, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
        angle = torch.outer(torch.arange(length).float(), 10.0 ** -torch.arange(0, 1, 0.25))
        cos, sin = (torch.cat((each, each), -1) for each in (angle.cos(), angle.sin()))
        q, k = (
            each * cos + torch.cat((-each[..., 4:], each[..., :4]), -1) * sin for each in (q, k)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, 16))
        return self.head(x + self.down(F.silu(self.gate(x)) * self.up(x)))


class Encoder(nn.Module):
    """Attention with a padding mask, over positions of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(64, 16))
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm, self.wide = nn.LayerNorm(16), nn.Linear(16, 32)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = x + self.positions[: x.shape[1]]
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
        mask = keep[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return F.gelu(self.wide(self.norm(x + self.out(y.transpose(1, 2).flatten(2)))))


class Pixels(nn.Module):
    """Convolutions with strides, a skip, upsampling by the sizes of another value, and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.down, self.norm = nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.last, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.first(image))
        y = torch.relu(self.norm(self.down(x)))
        y = F.interpolate(y, size=x.shape[2:])
        y = self.last(x + y)
        return y.flatten(2).transpose(1, 2), self.head(y.mean((2, 3)))


def tokens(length: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 50, (1, length)),)


def padded(length: int) -> tuple[Tensor, ...]:
    keep = torch.rand(1, length) > 0.3
    keep[:, 0] = True
    return torch.randn(1, length, 16), keep


def sparse(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.mul_(torch.rand_like(weight) > 0.7)
    return net.eval()


def compiled(
    net: nn.Module, example: tuple[Tensor, ...], **dynamic: dict[int, tuple[int, ...]]
) -> Session:
    session = compile_(sparse(net), example, dynamic=dynamic)
    assert isinstance(session, Session)
    return session


def check(session: Session, net: nn.Module, example: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        torch.testing.assert_close(session(*example), net(*example), rtol=1e-5, atol=2e-5)


@pytest.fixture(scope="module")
def decoder() -> tuple[Session, nn.Module]:
    torch.manual_seed(0)
    net = Decoder()
    return compiled(net, tokens(20), tokens={1: (1, 70)}), net


@pytest.fixture(scope="module")
def encoder() -> tuple[Session, nn.Module]:
    torch.manual_seed(0)
    net = Encoder()
    return compiled(net, padded(20), x={1: (1, 64)}, keep={1: (1, 64)}), net


@pytest.fixture(scope="module")
def pixels() -> tuple[Session, nn.Module]:
    torch.manual_seed(0)
    net = Pixels()
    session = compiled(net, (torch.randn(1, 3, 12, 16),), image={2: (4, 40), 3: (6, 30)})
    return session, net


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 70))
def test_a_decoder_of_any_length(decoder: tuple[Session, nn.Module], length: int) -> None:
    """Rotary positions and causal attention stay one operation each at all lengths."""
    session, net = decoder
    kinds = [type(op.kind) for op in session.program.ops if isinstance(op, NativeOp)]
    assert (kinds.count(Attend), kinds.count(Rotate)) == (1, 1)
    check(session, net, tokens(length))
    assert len(session._runners) <= DYNAMIC_PLANS


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 64))
def test_an_encoder_of_any_length(encoder: tuple[Session, nn.Module], length: int) -> None:
    """Two arguments of one length; padding is a mask of the attention."""
    session, net = encoder
    check(session, net, padded(length))


@settings(max_examples=15, deadline=None)
@given(height=st.integers(4, 40), width=st.integers(6, 30))
def test_images_of_any_size(pixels: tuple[Session, nn.Module], height: int, width: int) -> None:
    """Height and width vary by themselves, odd ones too, through strides and interpolation."""
    session, net = pixels
    check(session, net, (torch.randn(1, 3, height, width),))


@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_random_networks(data: st.DataObject) -> None:
    """Linear layers, activations, norms and sums over sequences, at drawn lengths."""
    torch.manual_seed(data.draw(st.integers(0, 99)))
    choices = (
        nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), nn.LSTM(16, 16, batch_first=True),
        nn.LayerNorm(16), nn.RMSNorm(16), nn.Sequential(nn.Linear(16, 16), nn.SiLU()),
    )  # fmt: skip
    drawn = data.draw(st.lists(st.sampled_from(choices), min_size=1, max_size=3))
    parts = [nn.Linear(6, 16), *drawn]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(parts)

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts:
                x = part(x)[0] if isinstance(part, nn.LSTM) else part(x)
            return x

    net = Net()
    session = compiled(net, (torch.randn(1, 9, 6),), x={1: (1, 33)})
    for length in data.draw(st.lists(st.integers(1, 33), min_size=2, max_size=3)):
        check(session, net, (torch.randn(1, length, 6),))


def test_weights_are_packed_once(decoder: tuple[Session, nn.Module]) -> None:
    """Plans for other lengths read the same memory."""
    session, _ = decoder
    for length in (17, 40, 70):
        session(*tokens(length))
    where: dict[int, set[int]] = {}
    for (problem, weight, _), bound in session.kernels.built.items():
        if weight is not None and type(problem).__name__ == "Conv":
            where.setdefault(weight, set()).add(bound.addresses[3])
    assert where
    assert all(len(addresses) == 1 for addresses in where.values())


def test_files(decoder: tuple[Session, nn.Module], tmp_path: Path) -> None:
    """A file serves all lengths, to the last bit, and refuses the same ones."""
    session, _ = decoder
    session.save(tmp_path / "decoder.bxw")
    loaded = load_session(tmp_path / "decoder.bxw")
    for length in (20, 3, 47, 70):
        example = tokens(length)
        assert torch.equal(loaded(*example), session(*example))
    with pytest.raises(InvalidInput, match="Expected tokens axis 1 of 1 to 70, got 71"):
        loaded(*tokens(71))


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"y": {1: (1, 9)}}, "Expected names of tensors that the model takes"),
        ({"x": {3: (1, 9)}}, "Expected an axis of input"),
        ({"x": {1: (6, 9)}}, "Expected the least and the greatest size of axis 1 of input"),
        ({"x": {1: (0, 9)}}, "Expected the least and the greatest size"),
        ({"x": {1: 9}}, "Expected the least and the greatest size"),
        ({"x": {1: (1, 9, 3)}}, "Expected the least and the greatest size"),
    ],
)
def test_wrong_ranges(dynamic: dict[str, dict[int, tuple[int, int]]], message: str) -> None:
    """Names, axes and ranges that do not fit the example."""
    with pytest.raises(InvalidInput, match=message):
        compile_(nn.Linear(4, 4), {"input": torch.zeros(1, 5, 4)} if "y" in dynamic else torch.zeros(1, 5, 4), dynamic={"input" if name == "x" else name: axes for name, axes in dynamic.items()})  # fmt: skip


def test_without_dynamic_another_shape_names_the_option() -> None:
    """The error says how to compile for other sizes."""
    session = compile_(nn.Linear(4, 4), torch.zeros(1, 5, 4))
    with pytest.raises(InvalidInput, match="or with dynamic="):
        session(torch.zeros(1, 6, 4))


class Chooses(nn.Module):
    """Code that asks for sizes."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.layer = way, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        if self.way == "threshold" and length > 8:
            x = x * 2
        if self.way == "rest":
            x = x.reshape(1, length // 2, 2, 4).sum(2)
        if self.way == "lost":
            x = x * (1.0 / length)
        if self.way == "few":
            x = x[:, : min(length, 6)]
        return self.layer(x)


def test_what_depends_on_a_size_is_named() -> None:
    """Other operations at the ends of the range are an error when compiling, in between when called."""
    example = (torch.randn(1, 4, 4),)
    with pytest.raises(InvalidInput, match=r"at x axis 1 = 20: there are more or fewer operations"):
        compiled(Chooses("threshold"), example, x={1: (1, 20)})
    with pytest.raises(InvalidInput, match="mul takes"):
        compiled(Chooses("lost"), example, x={1: (1, 20)})
    with pytest.raises(InvalidInput, match="slice"):
        compiled(Chooses("few"), example, x={1: (1, 20)})
    net = Chooses("rest")
    session = compiled(net, example, x={1: (2, 20, 2)})
    check(session, net, (torch.randn(1, 14, 4),))
    with pytest.raises(InvalidInput, match="in steps of 2, got 7"):
        session(torch.randn(1, 7, 4))


@given(
    factors=st.lists(st.integers(-5, 5), min_size=4, max_size=4),
    example=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    at=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    step=st.integers(1, 4),
)
def test_sums_of_products_are_found(
    factors: list[int], example: tuple[int, int], at: tuple[int, int], step: int
) -> None:
    """A size that is any sum of products of two others is the same at all of their values."""

    def size(height: int, width: int) -> int:
        a, b, c, d = factors
        return a * height * width + b * height + c * width + d

    ranges = [DynamicRange("x", 1, 99, step, (), each) for each in example]
    points = corners(ranges)
    found = fitted(points, [size(*point) for point in points])
    assert (found if isinstance(found, int) else found.at(at)) == size(*at)
