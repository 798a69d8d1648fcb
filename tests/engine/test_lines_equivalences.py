"""Networks of one-dimensional convolutions: as torch has them, and in kernels."""

import random

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.ops import Convolve, NativeOp
from boxwood._internal.engine.session import Session, load_session
from boxwood._internal.engine.supported import supported_problems


class Of(nn.Module):
    """A function of layers and an input."""

    def __init__(self, function, *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor):
        return self.function(x, *self.layers)


def trained(net: nn.Module) -> nn.Module:
    """With zeros among the weights, and statistics as training leaves them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.copy_(
                    torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5
                )
                weight[torch.rand(weight.shape, generator=generator) < 0.5] = 0
    return net.eval()


def both_ways(net: nn.Module, x: Tensor) -> list[Session]:
    """Return sessions with every operation in a kernel that can be, and with none; both are right."""
    session = compile_(trained(net), x)
    assert isinstance(session, Session)
    able = frozenset(supported_problems(session.program, session.program.batch or 0))
    found = [session.with_native(able), session.with_native(frozenset())]
    for given in (x, torch.randn(5, *x.shape[1:])):
        with torch.no_grad():
            wanted = net(given)
        for each in found:
            torch.testing.assert_close(each(given), wanted, rtol=1e-4, atol=1e-5)
    return found


def in_kernels(session: Session) -> int:
    ops = [session.program.ops[position] for position in session.native]
    return sum(isinstance(op, NativeOp) and isinstance(op.kind, Convolve) for op in ops)


def conv(inputs: int, outputs: int, size: int = 3, **settings) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, size, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"padding": 2}, {"stride": 2, "padding": 1}, {"dilation": 3, "padding": 3},
        {"groups": 2}, {"groups": 4}, {"bias": False}, {"padding": "same"}, {"padding": "valid"},
        {"padding": "same", "dilation": 2},
    ],
    ids=str,
)  # fmt: skip
def test_a_convolution(settings) -> None:
    """With any settings it runs in a kernel, its normalisation and activation in it."""
    net = Of(lambda x, c, n: torch.relu(n(c(x))), conv(4, 8, **settings), nn.BatchNorm1d(8))
    sessions = both_ways(net, torch.randn(2, 4, 20))
    assert in_kernels(sessions[0]) == 1
    assert [type(op) for op in sessions[0].program.ops].count(NativeOp) == 1


def test_a_window_that_reaches_further_to_one_side() -> None:
    """Of an even size, so that the padding cannot be the same on both."""
    sessions = both_ways(nn.Sequential(conv(4, 8, 4, padding="same")), torch.randn(2, 4, 20))
    assert in_kernels(sessions[0]) == 1


READERS = {
    "an output": lambda h: h,
    "flatten": lambda h: h.flatten(1),
    "flatten to its end": lambda h: h.flatten(1, 2),
    "flatten before": lambda h: h.flatten(0, 1),
    "a view": lambda h: h.view(h.shape[0], -1),
    "mean": lambda h: h.mean(-1),
    "mean kept": lambda h: h.mean(2, keepdim=True),
    "mean over channels": lambda h: h.mean(1),
    "mean over both": lambda h: h.mean((1, 2)),
    "mean in float64": lambda h: torch.relu(h.mean(-1, keepdim=True, dtype=torch.float64)),
    "squeeze": lambda h: h.mean(-1, keepdim=True).squeeze(-1),
    "squeeze of what is long": lambda h: h.squeeze(1),
    "gate": lambda h: h * torch.sigmoid(h.mean(-1, keepdim=True)),
    "gate of places": lambda h: h * torch.sigmoid(h.mean(1, keepdim=True)),
    "joined": lambda h: torch.cat([h, torch.relu(h)], 1),
    "joined in length": lambda h: torch.cat([h, torch.relu(h)], 2),
    "joined in batch": lambda h: torch.cat([h, torch.relu(h)])[: h.shape[0]],
    "scaled": lambda h: 2 * h + 1 - torch.tanh(h),
    "a constant": lambda h: h + torch.arange(8.0)[:, None] * h,
    "less": lambda h: torch.sub(h, torch.relu(h), alpha=3),
    "turned": lambda h: h.transpose(1, 2).softmax(-1),
    "maximum": lambda h: h.max(-1)[0],
    "GELU": lambda h: nn.functional.gelu(h, approximate="tanh"),
    "clamped": lambda h: h.clamp(0, 6),
    "clamped below": lambda h: h.clamp(min=0.1),
    "written into": lambda h: h.clone().mul_(2).add_(h),
    "by strides": lambda h: h.as_strided((2, 3), (3, 1)).sum() + h,
    "max pool": lambda h: nn.functional.max_pool1d(h, 3, 2, 1, ceil_mode=True),
    "max pool of windows": lambda h: nn.functional.max_pool1d(h, 2),
    "dilated max pool": lambda h: nn.functional.max_pool1d(h, 2, 1, 0, 2),
    "average pool": lambda h: nn.functional.avg_pool1d(h, 3, 2, 1),
    "average pool without padding": lambda h: nn.functional.avg_pool1d(
        h, 3, 2, 1, count_include_pad=False
    ),
    "adaptive pool": lambda h: nn.functional.adaptive_avg_pool1d(h, 3),
    "global pool": lambda h: nn.functional.adaptive_avg_pool1d(h, 1).flatten(1),
    "adaptive maximum": lambda h: nn.functional.adaptive_max_pool1d(h, 3),
    "LSTM": None,
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_what_reads_a_convolved_line(reader: str) -> None:
    """As a plane of one row, or as the line that it is."""
    x = torch.randn(2, 4, 21)
    if reader == "LSTM":
        recurrent = nn.LSTM(8, 5, batch_first=True)
        net = Of(lambda x, c, r: r(c(x).transpose(1, 2))[0], conv(4, 8), recurrent)
    else:
        net = Of(lambda x, c: READERS[reader](c(x)), conv(4, 8, padding=1))
    sessions = both_ways(net, x)
    assert in_kernels(sessions[0]) == 1


def test_a_single_example_without_batch() -> None:
    """Two axes stay torch's."""
    net = trained(nn.Sequential(conv(4, 8), nn.ReLU()))
    x = torch.randn(4, 20)
    with torch.no_grad():
        torch.testing.assert_close(compile_(net, x)(x), net(x))


def test_a_file_of_one(tmp_path) -> None:
    """The planes are in the program."""
    net = trained(nn.Sequential(conv(4, 8), nn.ReLU(), conv(8, 4), nn.AdaptiveAvgPool1d(1)))
    x = torch.randn(3, 4, 20)
    compile_(net, x).save(tmp_path / "net.bxw")
    with torch.no_grad():
        torch.testing.assert_close(load_session(tmp_path / "net.bxw")(x), net(x))


class Random(nn.Module):
    """Blocks of a random kind one after another, some with what went in added or joined."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.kinds, self.blocks, width = [], nn.ModuleList(), 4
        for _ in range(chance.randrange(2, 5)):
            size, dilation = chance.choice([1, 3, 5]), chance.choice([1, 2])
            padding = chance.choice(["same", dilation * (size // 2)])
            groups = chance.choice([1, 1, 2])
            self.kinds.append(chance.choice(["plain", "added", "joined", "pooled", "gated"]))
            self.blocks.append(
                nn.Sequential(
                    conv(width, width, size, dilation=dilation, padding=padding, groups=groups),
                    chance.choice([nn.BatchNorm1d(width), nn.Identity()]),
                    chance.choice([nn.ReLU(), nn.SiLU(), nn.ELU(), nn.Identity()]),
                )
            )
            width *= 2 if self.kinds[-1] == "joined" else 1
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for kind, block in zip(self.kinds, self.blocks, strict=True):
            y = block(x)
            if kind == "added":
                y = torch.relu(y + x)
            elif kind == "joined":
                y = torch.cat([x, y], 1)
            elif kind == "pooled":
                y = nn.functional.max_pool1d(y, 2)
            elif kind == "gated":
                y = x * torch.sigmoid(y.mean(-1, keepdim=True))
            x = y
        return self.last(x.mean(-1))


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_of_lines(seed: int) -> None:
    """Both ways, for two batches."""
    net = Random(random.Random(seed))
    assert in_kernels(both_ways(net, torch.randn(2, 4, 48))[0]) == len(net.blocks)
