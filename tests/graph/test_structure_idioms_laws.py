"""Ways of writing that published networks have: each can lose what it looks like it could."""

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units

_SPEC = importlib.util.spec_from_file_location(
    "structure_checks", Path(__file__).parent / "structure_checks.py"
)
checks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(checks)

ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
FRAMES = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Heads(nn.Module):
    """The three projections of an attention, split into heads, and what comes after."""

    def __init__(self, width=12, heads=3):
        super().__init__()
        self.heads, self.width = heads, width
        self.qkv, self.out = nn.Linear(8, 3 * width), nn.Linear(width, 4)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (
            each.reshape(n, t, self.heads, -1).transpose(1, 2) for each in self.qkv(x).chunk(3, -1)
        )
        return self.out(self.attend(q, k, v).transpose(1, 2).reshape(n, t, -1))


class Performer(Heads):
    """Random features in the place of the softmax."""

    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel
        self.register_buffer("directions", torch.randn(5, 4))

    def features(self, x):
        x = x * x.shape[-1] ** -0.25
        along = torch.einsum("bhnd,md->bhnm", x, self.directions)
        if self.kernel == "relu":
            return F.relu(along) + 1e-3
        half = x.square().sum(-1, keepdim=True) / 2
        return torch.exp(along - half - along.amax(-1, keepdim=True).detach()) + 1e-4

    def attend(self, q, k, v):
        q, k = self.features(q), self.features(k)
        context = torch.einsum("bhnm,bhnd->bhmd", k, v)
        scale = 1 / torch.einsum("bhnm,bhm->bhn", q, k.sum(2))
        return torch.einsum("bhnm,bhmd,bhn->bhnd", q, context, scale)


class DottedPerformer(Performer):
    """The same with dots for the axes in front."""

    def attend(self, q, k, v):
        q, k = (F.relu(torch.einsum("...nd,md->...nm", x, self.directions)) + 1e-3 for x in (q, k))
        scale = 1.0 / torch.einsum("...nd,...d->...n", q, k.sum(dim=-2).type_as(q))
        context = torch.einsum("...nd,...ne->...de", k, v)
        return torch.einsum("...de,...nd,...n->...ne", context, q, scale)


class Linformer(nn.Module):
    """Keys and values of few mixed positions; the size of a head follows from two attributes."""

    def __init__(self, width=12, heads=3, positions=5, mixed=4):
        super().__init__()
        self.width, self.heads = width, heads
        self.q, self.k, self.v = (nn.Linear(8, width) for _ in range(3))
        self.mix_k, self.mix_v = (nn.Parameter(torch.randn(positions, mixed)) for _ in range(2))
        self.out = nn.Linear(width, 4)

    def forward(self, x):
        n, t, _ = x.shape
        size = self.width // self.heads
        q = self.q(x).reshape(n, t, self.heads, -1).transpose(1, 2)
        k = torch.einsum("bnd,nk->bkd", self.k(x), self.mix_k)
        v = torch.einsum("bnd,nk->bkd", self.v(x), self.mix_v)
        k, v = (
            each.reshape(n, each.shape[1], -1, size).transpose(1, 2).expand(-1, self.heads, -1, -1)
            for each in (k, v)
        )
        weights = (torch.einsum("bhnd,bhkd->bhnk", q, k) * size**-0.5).softmax(-1)
        y = torch.einsum("bhnk,bhkd->bhnd", weights, v)
        return self.out(y.transpose(1, 2).reshape(n, t, -1))


class NonLocal(nn.Module):
    """Three projections of one width, which is an attribute."""

    def __init__(self, weigh):
        super().__init__()
        self.stem, self.inner, self.weigh = nn.Conv2d(3, 8, 1), 4, weigh
        self.a, self.b, self.c = (nn.Conv2d(8, 4, 1) for _ in range(3))
        self.w, self.out = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        a, b, c = (m(x).view(x.size(0), self.inner, -1) for m in (self.a, self.b, self.c))
        y = self.weigh(a.permute(0, 2, 1) @ b) @ c.permute(0, 2, 1)
        y = y.permute(0, 2, 1).contiguous().view(x.size(0), self.inner, *x.size()[2:])
        return self.out(self.w(y) + x)


class Sliced(nn.Module):
    """Writes into part of what it has, or into a new tensor."""

    def __init__(self, write):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1)
        self.write = write

    def forward(self, x):
        x = self.a(x) + 0
        half = x.shape[1] // 2
        return self.c(self.write(self, x, half))


def added_in_place(net, x, half):
    x[:, :half] += net.b(x[:, half:].clone())
    return x


def scaled_in_place(net, x, half):
    x[:, half:] *= 2
    x[:, :half].sub_(net.b(x[:, half:].clone()))
    return x


def written_into_new(net, x, half):
    out = torch.zeros_like(x)
    out[:, :half] = net.b(x[:, half:])
    out[:, half:] = x[:, :half]
    return out


def written_into_counted(net, x, half):
    y = net.b(x[:, half:])
    out = x.new_empty(x.shape[0], y.shape[1] + half, *x.shape[2:])
    out[:, : y.shape[1]], out[:, y.shape[1] :] = y, x[:, :half]
    return out


class Padded(nn.Module):
    """Pads by what kernel and stride leave over, as TensorFlow does; the halves have a remainder."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 4, 2), nn.Conv2d(6, 8, 3, 2, groups=1)
        self.c, self.d = nn.Conv2d(8, 8, 3, 2, groups=8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        for conv in (self.a, self.b, self.c):
            pads = []
            for size, kernel, stride in zip(
                x.shape[:-3:-1], conv.kernel_size[::-1], conv.stride[::-1], strict=True
            ):
                pad = max(kernel - (stride if size % stride == 0 else size % stride), 0)
                pads += [pad // 2, pad - pad // 2]
            x = torch.relu(conv(F.pad(x, pads)))
        return self.d(x)


class TemporalShift(nn.Module):
    """A quarter of the channels comes from the next frame, one from the one before."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Linear(6, 2)

    def forward(self, x):
        x = F.relu(self.a(x))
        frames, channels, height, width = x.size()
        x, fold = x.view(frames // 4, 4, channels, height, width), channels // 4
        out = torch.zeros_like(x)
        out[:, :-1, :fold] = x[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
        x = F.relu(self.b(out.view(frames, channels, height, width)))
        return self.c(x.mean((2, 3)))


class SegNet(nn.Module):
    """Unpools with the places of the maxima, to a size that it remembers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x):
        x, first = F.max_pool2d(F.relu(self.a(x)), 2, 2, return_indices=True)
        size = x.size()
        x, second = F.max_pool2d(F.relu(self.b(x)), 2, 2, return_indices=True)
        x = F.relu(self.c(F.max_unpool2d(x, second, 2, 2, output_size=size)))
        return self.d(F.max_unpool2d(x, first, 2, 2))


class Residuals(nn.Module):
    """Weighted residuals to learned centres (NetVLAD), all at once or centre by centre."""

    def __init__(self, *, loop):
        super().__init__()
        self.loop, self.count = loop, 4
        self.stem, self.assign = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)
        self.centres, self.out = nn.Parameter(torch.rand(4, 6)), nn.Linear(24, 3)

    def forward(self, x):
        x = F.normalize(self.stem(x), p=2, dim=1)
        n, channels = x.shape[:2]
        weights, x = self.assign(x).view(n, self.count, -1).softmax(1), x.view(n, channels, -1)
        if self.loop:
            sums = torch.zeros([n, self.count, channels], dtype=x.dtype)
            for place in range(self.count):
                centre = self.centres[place : place + 1].expand(x.size(-1), -1, -1)
                apart = x.unsqueeze(0).permute(1, 0, 2, 3) - centre.permute(1, 2, 0).unsqueeze(0)
                sums[:, place : place + 1] = (apart * weights[:, place : place + 1, None]).sum(-1)
        else:
            centres = self.centres.expand(x.size(-1), -1, -1).permute(1, 2, 0).unsqueeze(0)
            apart = x.expand(self.count, -1, -1, -1).permute(1, 0, 2, 3) - centres
            sums = (apart * weights.unsqueeze(2)).sum(-1)
        return self.out(F.normalize(F.normalize(sums, p=2, dim=2).view(n, -1), p=2, dim=1))


class Bilinear(nn.Module):
    """Products of all pairs of channels of two maps."""

    def __init__(self, product):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 5, 1), nn.Linear(30, 3)
        self.product = product

    def forward(self, x):
        y = self.product(self.a(x).flatten(2), self.b(x).flatten(2)).flatten(1)
        return self.out(F.normalize(torch.sign(y) * (y.abs() + 1e-5).sqrt()))


class Recommender(nn.Module):
    """Scores items by the embedding that it reads them with (SASRec)."""

    def __init__(self):
        super().__init__()
        self.item, self.position = nn.Embedding(11, 8, padding_idx=0), nn.Embedding(6, 8)
        self.attention, self.norm = nn.MultiheadAttention(8, 2), nn.LayerNorm(8)
        self.a, self.b, self.last = nn.Conv1d(8, 8, 1), nn.Conv1d(8, 8, 1), nn.LayerNorm(8)

    def forward(self, x):
        length = x.shape[1]
        y = self.item(x) * self.item.embedding_dim**0.5
        y = (y + self.position(torch.arange(length)[None].expand_as(x))) * (x != 0).unsqueeze(-1)
        later = ~torch.ones(length, length, dtype=torch.bool).tril()
        y = y.transpose(0, 1)
        y = (y + self.attention(self.norm(y), y, y, attn_mask=later)[0]).transpose(0, 1)
        y = y + self.b(F.relu(self.a(y.transpose(-1, -2)))).transpose(-1, -2)
        return self.last(y) @ self.item.weight.T


class Splines(nn.Module):
    """A sum of splines of every input (KAN)."""

    def __init__(self, inputs, outputs, grid=3, order=2):
        super().__init__()
        self.order, self.outputs = order, outputs
        knots = torch.arange(-order, grid + order + 1) * 2 / grid - 1
        self.register_buffer("grid", knots.expand(inputs, -1).contiguous())
        self.base, self.scale = (nn.Parameter(torch.randn(outputs, inputs)) for _ in range(2))
        self.spline = nn.Parameter(torch.randn(outputs, inputs, grid + order))

    def bases(self, x):
        x, grid = x.unsqueeze(-1), self.grid
        made = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (x - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)])
            right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:-k])
            made = left * made[:, :, :-1] + right * made[:, :, 1:]
        return made

    def forward(self, x):
        weight = (self.spline * self.scale.unsqueeze(-1)).view(self.outputs, -1)
        return F.linear(F.silu(x), self.base) + F.linear(self.bases(x).flatten(1), weight)


class Mapped(nn.Module):
    """Treats each row by itself, under ``vmap``."""

    def __init__(self, treat):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.treat = treat

    def forward(self, x):
        return self.c(torch.vmap(lambda row: self.treat(self, row))(self.a(x)))


class Ensemble(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.out = nn.Parameter(torch.randn(4, 6, 12)), nn.Linear(12, 3)

    def forward(self, x):
        return self.out(torch.relu(torch.vmap(lambda w: x @ w)(self.w)).mean(0))


class FakeQuantised(nn.Module):
    """Weights and activations rounded to steps, of the whole or of each filter."""

    def __init__(self, *, each):
        super().__init__()
        self.a, self.b, self.each = nn.Linear(6, 8), nn.Linear(8, 3), each
        self.register_buffer("steps", torch.linspace(0.02, 0.05, 8))

    def forward(self, x):
        weight = (
            torch.fake_quantize_per_channel_affine(
                self.a.weight, self.steps, torch.zeros_like(self.steps).int(), 0, -128, 127
            )
            if self.each
            else torch.fake_quantize_per_tensor_affine(self.a.weight, 0.05, 0, -128, 127)
        )
        x = F.linear(x, weight, self.a.bias).relu()
        return self.b(torch.fake_quantize_per_tensor_affine(x, 0.02, 0, 0, 255))


class Observed(nn.Module):
    """PyTorch's own module for training with rounding, whose observer is off."""

    def __init__(self):
        super().__init__()
        from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver

        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.rounded = FakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
        self.rounded(torch.linspace(0, 4, 9))
        self.rounded.disable_observer()

    def forward(self, x):
        return self.b(self.rounded(torch.relu(self.a(x))))


class Scaling(torch.autograd.Function):
    """A function with a backward pass of its own, which the trace sees into."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    def backward(ctx, gradient):
        x, scale = ctx.saved_tensors
        return gradient * scale, (gradient * x).sum(0)


class Passing(torch.autograd.Function):
    """Returns what it is given, as straight-through estimators do."""

    @staticmethod
    def forward(ctx, x, scale):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Custom(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function
        self.scale = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x):
        x = torch.relu(self.a(x)) * self.scale
        return self.b(self.function.apply(x, self.scale))


NETS = {
    "performer": (lambda: Performer("relu"), SEQUENCE, [3]),
    "performer, softmax": (lambda: Performer("softmax"), SEQUENCE, [3]),
    "performer, dots": (lambda: DottedPerformer("relu"), SEQUENCE, [3]),
    "linformer": (Linformer, SEQUENCE, [3]),
    "non-local": (lambda: NonLocal(lambda f: f.softmax(-1)), IMAGE, [8, 4]),
    "non-local, product": (lambda: NonLocal(lambda f: f / f.size(-1)), IMAGE, [8, 4]),
    "added in place": (lambda: Sliced(added_in_place), IMAGE, [4]),
    "scaled in place": (lambda: Sliced(scaled_in_place), IMAGE, [4]),
    "written into new": (lambda: Sliced(written_into_new), IMAGE, [4]),
    "written into counted": (lambda: Sliced(written_into_counted), IMAGE, [4, 4]),
    "padded": (Padded, IMAGE, [6, 8]),
    "temporal shift": (TemporalShift, FRAMES, [2, 6]),
    "segnet": (SegNet, IMAGE, [6, 8]),
    "netvlad": (lambda: Residuals(loop=False), IMAGE, [6]),
    "netvlad, loop": (lambda: Residuals(loop=True), IMAGE, [6]),
    "bilinear": (lambda: Bilinear(lambda a, b: a @ b.transpose(1, 2)), IMAGE, [6]),
    "bilinear, einsum": (
        lambda: Bilinear(lambda a, b: torch.einsum("bcn,bdn->bcd", a, b)), IMAGE, [6],
    ),
    "recommender": (Recommender, torch.arange(12).view(2, 6) % 11, [2, 8]),
    "splines": (lambda: nn.Sequential(Splines(6, 8), Splines(8, 3)), ROWS, [8, 1]),
    "mapped": (
        lambda: Mapped(lambda net, row: torch.relu(net.b(row)) * row.sum()), ROWS, [12, 12],
    ),
    "ensemble": (Ensemble, ROWS, [12]),
    "fake quantised": (lambda: FakeQuantised(each=False), ROWS, [8]),
    "fake quantised, each": (lambda: FakeQuantised(each=True), ROWS, [8]),
    "observed": (Observed, ROWS, [8]),
    "function": (lambda: Custom(Scaling), ROWS, [8]),
    "function that passes": (lambda: Custom(Passing), ROWS, [8]),
}  # fmt: skip
"""Name to (how to build it, its input, how many units each group has)."""


@pytest.mark.parametrize("name", NETS)
def test_small_equals_masked(name):
    """What can go is what a reader would expect, and every removal is right."""
    make, x, counts = NETS[name]
    torch.manual_seed(0)
    found = checks.check_law(make().eval(), x)
    assert [len(group.units) for group in found.groups] == counts


def test_an_attribute_that_can_stay_stays():
    """Strides enter the sizes of the padding, and are not what surgery changes."""
    torch.manual_seed(0)
    net = Padded().eval()
    small = shrink(net, checks.some_selection(find_units(net, IMAGE), 0))
    assert [m.stride for m in (small.a, small.b, small.c)] == [(2, 2)] * 3
    assert small.c.groups == small.c.out_channels


@pytest.mark.parametrize(
    ("treat", "count"),
    [
        (lambda net, row: row.view(3, 4).softmax(-1).reshape(-1), 0),
        (lambda net, row: F.layer_norm(net.b(row), (12,)), 12),
        (lambda net, row: net.b(row) / math.sqrt(row.shape[0]), 12),
        (lambda net, row: net.b(row) * row.new_ones(row.size(-1)).sum(), 12),
        (lambda net, row: torch.vmap(lambda each: each * row.shape[0])(row[:, None])[:, 0], 0),
    ],
)
def test_sizes_within_vmap_keep_what_they_are_of(treat, count):
    """Nothing is offered that could not be carried out."""
    torch.manual_seed(0)
    net = Mapped(treat).eval()
    assert len(find_units(net, ROWS)) == count
    if count:
        checks.check_law(net, ROWS)


class Literal(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(self.a(x).view(-1, 8))


def test_reasons_name_what_keeps_an_axis():
    """The line that decides is told, of an axis or of what it is tied to."""
    found = find_units(Bilinear(lambda a, b: a @ b.transpose(1, 2)).eval(), IMAGE)
    reasons = found.reasons()
    assert reasons["out.weight", 0] == "the model returns it"
    assert re.search(r"'view' in 'the model' \(.*laws\.py:\d+\)", reasons["b.weight", 0])
    reasons = find_units(Literal(), ROWS).reasons()
    assert re.search(r"a size that 'view' .*laws\.py:\d+", reasons["a.weight", 0])
    assert reasons["a.weight", 0] == reasons["b.weight", 1]
