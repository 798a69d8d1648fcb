"""Tiny networks, one or more for every family of rules; each takes one float input or token ids."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

IMAGE = torch.Size((2, 3, 8, 8))
ROWS = torch.Size((3, 6))
SEQUENCE = torch.Size((2, 5, 6))
TOKENS = "tokens"


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(5)
        self.outer = nn.Conv2d(5, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.outer(F.silu(self.norm2(self.inner(x))))
        return self.head(x.mean((2, 3)))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(3, 5, 1)
        self.depthwise = nn.Conv2d(9, 18, 3, groups=9)
        self.c = nn.Conv2d(18, 4, 1)
        self.fc = nn.Linear(4 * 36, 3)

    def forward(self, x):
        x = torch.cat([self.a(x).sigmoid(), self.b(x).tanh()], 1)
        return self.fc(torch.flatten(self.c(F.hardswish(self.depthwise(x))), 1))


class Split(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.c = nn.Conv2d(12, 5, 1)
        self.d = nn.Conv2d(5, 2, 1)

    def forward(self, x):
        first, second = self.a(x).chunk(2, 1)
        third = F.relu(self.b(second))
        return self.d(F.relu(self.c(torch.cat([first, second, third], 1))))


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 4, 1)
        self.c = nn.Conv2d(4, 6, 1)
        self.d = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.a(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.d(F.relu(self.c(self.b(x))))


class Grouped(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.a = nn.Conv2d(3, channels, 1)
        self.b = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=groups)
        self.n = nn.GroupNorm(groups, 2 * channels)
        self.c = nn.Conv2d(2 * channels, 3, 1)

    def forward(self, x):
        return self.c(F.relu(self.n(self.b(F.relu(self.a(x))))))


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.ConvTranspose2d(3, 6, 2, stride=2)
        self.b = nn.ConvTranspose2d(6, 6, 3, groups=6)
        self.n = nn.InstanceNorm2d(6, affine=True)
        self.c = nn.ConvTranspose2d(6, 2, 1)

    def forward(self, x):
        return self.c(F.elu(self.n(self.b(self.a(x)))))


class PixelShuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 12, 3, padding=1)
        self.b = nn.Conv2d(3, 5, 1)
        self.c = nn.Conv2d(20, 2, 1)

    def forward(self, x):
        x = F.pixel_shuffle(self.a(x), 2)
        return self.c(F.pixel_unshuffle(F.relu(self.b(x)), 2))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 3, 1)
        self.up = nn.Conv2d(3, 6, 1)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.act = nn.PReLU(6)
        self.b = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.act(self.a(x))
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        return self.b(F.max_pool2d(x * gate * self.scale + x, 2))


class Unpooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.c, self.d = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 2, 1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x):
        pooled, places = self.pool(F.relu(self.a(x)))
        return self.d(self.unpool(self.c(F.relu(self.b(pooled))), places))


class FreeParameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(7, 6))
        self.second = nn.Parameter(torch.randn(7, 4))
        self.offset = nn.Parameter(torch.randn(7))

    def forward(self, x):
        hidden = F.linear(x, self.first) + self.offset
        return torch.einsum("bh,ho->bo", F.gelu(hidden), self.second)


class Normed(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.norm = norm(8)
        self.b = nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.norm(self.a(x)))


class PlainRMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class WrittenLayerNorm(nn.Module):
    """The variance and the deviation, asked for in all the ways there are."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False) + torch.var(x, -1, True, True)
        deviation = x.std(-1, keepdim=True) + torch.std(x, dim=-1, correction=0, keepdim=True)
        return self.weight * x * torch.rsqrt(variance + deviation**2 + 1e-6)


class Parametrised(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = weight_norm(nn.Linear(6, 8))
        self.b = spectral_norm(nn.Linear(8, 5))
        self.c = nn.Linear(5, 2)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class Attention(nn.Module):
    """Fused query, key and value; sizes from attributes, as most code writes it."""

    def __init__(self, width=6, heads=3, size=4):
        super().__init__()
        self.num_heads, self.head_dim = heads, size
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * size)
        self.proj = nn.Linear(heads * size, width)
        self.gamma = nn.Parameter(torch.rand(width))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        n, t, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, t, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2).reshape(n, t, self.num_heads * self.head_dim)
        return self.head(x + self.gamma * self.proj(y))


class WrittenAttention(nn.Module):
    """Products and softmax by hand, and a bias for each head."""

    def __init__(self):
        super().__init__()
        self.heads, self.scale = 4, 3**-0.5
        self.q, self.k, self.v = (nn.Linear(6, 12) for _ in range(3))
        self.bias = nn.Parameter(torch.randn(4, 5, 5))
        self.o = nn.Linear(12, 6)

    def forward(self, x):
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for m in (self.q, self.k, self.v))  # fmt: skip
        attention = ((q @ k.transpose(-2, -1)) * self.scale + self.bias).softmax(-1)
        return self.o((attention @ v).transpose(1, 2).flatten(2))


class GroupedQueries(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 16), nn.Linear(6, 8), nn.Linear(6, 8)
        self.o = nn.Linear(16, 6)
        self.size = 4

    def forward(self, x):
        shape = (*x.shape[:-1], -1, self.size)
        q, k, v = (m(x).view(shape).transpose(1, 2) for m in (self.q, self.k, self.v))
        k, v = (
            each[:, :, None]
            .expand(-1, -1, 2, -1, -1)
            .reshape(x.shape[0], -1, x.shape[1], self.size)
            for each in (k, v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        return self.o(y.reshape(*x.shape[:-1], -1))


class ComplexRotation(nn.Module):
    """Positions turn pairs of features as complex numbers."""

    def __init__(self):
        super().__init__()
        self.heads, self.size = 4, 6
        self.q, self.k, self.v = (nn.Linear(6, 24) for _ in range(3))
        self.o = nn.Linear(24, 6)

    def turned(self, x):
        steps = torch.arange(x.shape[1])[:, None, None] * torch.tensor([1.0, 0.1, 0.01])
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        turned = pairs * torch.polar(torch.ones_like(steps), steps)
        return torch.view_as_real(turned).flatten(-2)

    def forward(self, x):
        q, k, v = (m(x).view(*x.shape[:2], self.heads, self.size) for m in (self.q, self.k, self.v))
        q, k, v = (each.transpose(1, 2) for each in (self.turned(q), self.turned(k), v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.o(y.reshape(*x.shape[:2], -1))


class Solved(nn.Module):
    """Each head solves a triangular system of its own, as layers with a delta rule do."""

    def __init__(self):
        super().__init__()
        self.heads = 4
        self.k, self.v, self.o = nn.Linear(6, 12), nn.Linear(6, 20), nn.Linear(20, 6)

    def forward(self, x):
        k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.k, self.v))
        matrix = (0.1 * k @ k.transpose(-2, -1)).tril(-1) + torch.eye(x.shape[1], dtype=x.dtype)
        y = torch.linalg.solve_triangular(matrix, v, upper=False)
        return self.o(y.transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.into = nn.Linear(6, 8)
        self.layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True, norm_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.layer(self.into(x)))


class Recurrent(nn.Module):
    def __init__(self, kind, **settings):
        super().__init__()
        self.into = nn.Linear(6, 7)
        self.rnn = kind(7, 5, batch_first=True, **settings)
        width = settings.get("proj_size", 5) * (2 if settings.get("bidirectional") else 1)
        self.out = nn.Linear(width, 3)

    def forward(self, x):
        return self.out(self.rnn(self.into(x))[0])


class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.GRU(6, 5, batch_first=True)
        self.decoder = nn.GRU(6, 5, batch_first=True)
        self.out = nn.Linear(10, 3)

    def forward(self, x):
        memory, state = self.encoder(x)
        y, _ = self.decoder(x.flip(1), state)
        weights = (y @ memory.transpose(1, 2)).softmax(-1)
        return self.out(torch.cat([y, weights @ memory], -1))


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.LSTMCell(6, 5), nn.GRUCell(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], self.a.hidden_size)
        s = torch.zeros(x.shape[0], self.b.hidden_size, dtype=x.dtype)
        for step in x.unbind(1):
            h, c = self.a(step, (h, c))
            s = self.b(h, s)
        return self.out(s)


class Tied(nn.Module):
    """A language model whose embedding is also its output layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.position = nn.Parameter(torch.randn(5, 6))
        self.lstm = nn.LSTM(6, 7, batch_first=True)
        self.back = nn.Linear(7, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        return self.out(self.back(self.lstm(x)[0]))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(8, 6), nn.Linear(6, 10)
        self.d = nn.Linear(5, 2)

    def forward(self, x):
        gate, up = self.a(x).split(8, dim=-1)
        return self.d(F.glu(self.c(x + self.b(F.silu(gate) * up))))


def grouped_product(rows, weights, expert):
    """Multiply each row by the matrix of its expert, by PyTorch's kernel where that can."""
    if rows.dtype == torch.float32 and not any(size % 4 for size in weights.shape[1:]):
        ends = (expert[:, None] == torch.arange(len(weights))).sum(0).cumsum(0).int()
        return F.grouped_mm(rows, weights, offs=ends)
    return (rows[:, None] @ weights[expert]).squeeze(1)


class Experts(nn.Module):
    """Each row goes through the matrices of the expert that the router gives it to."""

    def __init__(self):
        super().__init__()
        self.into, self.router, self.out = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)
        self.up, self.down = (
            nn.Parameter(torch.randn(3, 8, 12)),
            nn.Parameter(torch.randn(3, 12, 8)),
        )

    def forward(self, x):
        x = self.into(x)
        expert, order = self.router(x).argmax(-1).sort()
        hidden = F.relu(grouped_product(x[order], self.up, expert))
        return self.out(grouped_product(hidden, self.down, expert)[order.argsort()])


def _sequential(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers))


NETS = {
    "linear": (
        _sequential(lambda: nn.Linear(6, 8), nn.ReLU, lambda: nn.Linear(8, 8), nn.Tanh,
                    lambda: nn.Linear(8, 3)), ROWS,
    ),
    "residual": (Residual, IMAGE),
    "concat": (Concat, IMAGE),
    "split": (Split, IMAGE),
    "shuffle": (Shuffle, IMAGE),
    "many groups": (lambda: Grouped(8, 4), IMAGE),
    "few groups": (lambda: Grouped(8, 2), IMAGE),
    "transposed": (Transposed, IMAGE),
    "pixel shuffle": (PixelShuffle, IMAGE),
    "unpooled": (Unpooled, IMAGE),
    "squeeze and excite": (SqueezeExcite, IMAGE),
    "free parameters": (FreeParameters, ROWS),
    "layer norm": (lambda: Normed(nn.LayerNorm), ROWS),
    "rms norm": (lambda: Normed(nn.RMSNorm), ROWS),
    "written rms norm": (lambda: Normed(PlainRMSNorm), ROWS),
    "written layer norm": (lambda: Normed(WrittenLayerNorm), ROWS),
    "one group": (lambda: Normed(lambda width: nn.GroupNorm(1, width)), ROWS),
    "batch norm": (lambda: Normed(nn.BatchNorm1d), ROWS),
    "parametrised": (Parametrised, ROWS),
    "attention": (Attention, SEQUENCE),
    "written attention": (WrittenAttention, SEQUENCE),
    "grouped queries": (GroupedQueries, SEQUENCE),
    "complex rotation": (ComplexRotation, SEQUENCE),
    "solved": (Solved, SEQUENCE),
    "encoder layer": (Encoder, SEQUENCE),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2), SEQUENCE),
    "bidirectional lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), SEQUENCE),
    "projected lstm": (lambda: Recurrent(nn.LSTM, proj_size=3), SEQUENCE),
    "gru": (lambda: Recurrent(nn.GRU, bidirectional=True), SEQUENCE),
    "rnn": (lambda: Recurrent(nn.RNN, bias=False), SEQUENCE),
    "sequence to sequence": (Seq2Seq, SEQUENCE),
    "cells": (Cells, SEQUENCE),
    "tied embedding": (Tied, TOKENS),
    "gated": (Gated, SEQUENCE),
    "experts": (Experts, ROWS),
}  # fmt: skip
"""Name to (how to build it, shape of its input or TOKENS)."""


def build(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Make a network with random weights and statistics, in evaluation, and an input for it."""
    make, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make().eval()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
        x = torch.randint(11, (2, 5)) if shape is TOKENS else torch.randn(shape)
    return net, x
