"""Attention is recognised through any chain of views, and computes what torch computes."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine.capture import capture
from boxwood._internal.engine.compiling import optimised
from boxwood._internal.engine.interface import learn_interface
from boxwood._internal.engine.kernel_cache import KernelCache
from boxwood._internal.engine.ops import Attend, NativeOp
from boxwood._internal.engine.session import Session
from boxwood._internal.engine.supported import supported_problems
from boxwood._internal.engine.targets import host
from boxwood._internal.engine.thread_team import ThreadTeam


class Attention(nn.Module):
    """Heads of three projections, or of one, split and merged in one of several ways."""

    def __init__(self, way: str, scale: float | None = None, causal: bool = False) -> None:
        super().__init__()
        self.way, self.scale, self.causal = way, scale, causal
        self.q, self.k, self.v = nn.Linear(24, 24), nn.Linear(24, 24, bias=False), nn.Linear(24, 24)
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        if self.way == "three":
            q, k, v = (
                layer(x).view(batch, tokens, 3, 8).transpose(1, 2)
                for layer in (self.q, self.k, self.v)
            )
        elif self.way == "chunk":
            q, k, v = (
                part.reshape(batch, tokens, 3, 8).permute(0, 2, 1, 3)
                for part in self.qkv(x).chunk(3, -1)
            )
        elif self.way == "one":
            q, k, v = self.qkv(x).view(batch, tokens, 3, 3, 8).permute(2, 0, 3, 1, 4).unbind(0)
        else:  # features of a head by turns: not what the kernel takes
            q, k, v = self.qkv(x).view(batch, tokens, 8, 3, 3).permute(4, 0, 3, 1, 2).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, -1)) + x


def compiled(net: nn.Module, example: Tensor) -> Session:
    tensors, function, interface = learn_interface(net, example)
    program = optimised(capture(function, tensors).program)
    able = frozenset(supported_problems(program, program.batch or 0))
    return Session(program, interface(), able, KernelCache(program, host(), 1), ThreadTeam(1))


def attends(session: Session) -> int:
    return sum(
        isinstance(op, NativeOp) and isinstance(op.kind, Attend) for op in session.program.ops
    )


NETS = {
    "three": (lambda: Attention("three"), 1),
    "chunk": (lambda: Attention("chunk", scale=0.7), 1),
    "one": (lambda: Attention("one"), 1),
    "two in a row": (lambda: nn.Sequential(Attention("one"), Attention("three")), 2),
    "causal": (lambda: Attention("three", causal=True), 1),
    "by turns": (lambda: Attention("turns"), 0),
    "torch's, batch first": (
        lambda: nn.TransformerEncoderLayer(24, 3, 32, batch_first=True, activation="gelu"), 1,
    ),
    "torch's, tokens first": (lambda: nn.TransformerEncoderLayer(24, 3, 32, norm_first=True), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("batch", [1, 2])
def test_attention_computes_what_torch_computes(name: str, batch: int) -> None:
    """For the example's batch and others, whichever axis tokens are."""
    torch.manual_seed(0)
    build, expected = NETS[name]
    net = build().eval()
    tokens_first = name == "torch's, tokens first"
    shape = (batch, 9, 24)
    session = compiled(net, torch.randn(shape))
    assert attends(session) == expected
    for other in (batch, 1, 3):
        x = torch.randn((other, *shape[1:]))
        with torch.no_grad():
            torch.testing.assert_close(session(x), net(x), rtol=1e-5, atol=1e-5)
    if tokens_first:
        x = torch.randn(7, 1, 24)
        session = compiled(net, x)
        with torch.no_grad():
            torch.testing.assert_close(session(x), net(x), rtol=1e-5, atol=1e-5)
