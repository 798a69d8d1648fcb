"""What decoders and modern encoders write out is recognised, and computes what torch computes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine.capture import capture
from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.compiling import optimised
from boxwood._internal.engine.interface import learn_interface
from boxwood._internal.engine.kernel_cache import KernelCache
from boxwood._internal.engine.kernels.attention import Attention, Mask
from boxwood._internal.engine.ops import (
    Attend,
    NativeOp,
    Normalise,
    NormaliseHeads,
    Project,
    Rotate,
)
from boxwood._internal.engine.program import TorchOp, sizes_at
from boxwood._internal.engine.session import Session, load_session
from boxwood._internal.engine.supported import supported_problems
from boxwood._internal.engine.targets import host
from boxwood._internal.engine.thread_team import ThreadTeam
from boxwood.errors import BoxwoodError


def in_kernels(net: nn.Module, *example: Tensor) -> Session:
    """A session whose kernels do all that they can."""
    tensors, function, interface = learn_interface(net, example)
    program = optimised(capture(function, tensors).program)
    able = frozenset(supported_problems(program, program.batch or 0))
    return Session(program, interface(), able, KernelCache(program, host(), 1), ThreadTeam(1))


def kinds(session: Session) -> list[type]:
    return [type(op.kind) for op in session.program.ops if isinstance(op, NativeOp)]


def check(net: nn.Module, *example: Tensor) -> Session:
    """Compile, and compare with torch on other values, on kernels and on torch's side of the program."""
    session = in_kernels(net.eval(), *example)
    with torch.no_grad():
        for each in (session, session.with_native(frozenset())):
            other = [x.flip(0, -1) if x.is_floating_point() else x for x in example]
            torch.testing.assert_close(each(*other), net(*other), rtol=1e-5, atol=1e-5)
    return session


class Norm(nn.Module):
    """A norm that is written out, between two layers."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.first, self.last = way, nn.Linear(8, 12), nn.Linear(12, 4)
        self.weight, self.bias = nn.Parameter(torch.rand(12) + 0.5), nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(NORMS[self.way](x, self.weight, self.bias))


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


NORMS = {
    "rms": lambda x, w, _: w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "rms in float": lambda x, w, _: (x.float() * torch.rsqrt(mean(x * x) + 1e-6)).type_as(x) * w,
    "rms, root": lambda x, w, _: x / torch.sqrt(mean(x.square()) + 1e-5) * (1 + w),
    "rms, power": lambda x, w, _: x * (mean(x**2) + 1e-5) ** -0.5 * w,
    "rms, torch's": lambda x, w, _: F.rms_norm(x, (12,), w),
    "rms, plain": lambda x, _, b: x / (mean(x**2) + 1e-5).sqrt() + b.sum(),
    "layer": lambda x, w, b: (x - mean(x)) / torch.sqrt(mean((x - mean(x)) ** 2) + 1e-5) * w + b,
    "layer, variance": lambda x, w, b: (
        w * ((x - mean(x)) * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)) + b
    ),
    "layer, torch's, bare": lambda x, _, __: F.layer_norm(x, (12,)),
}  # fmt: skip


@pytest.mark.parametrize("way", NORMS)
def test_norms_that_are_written_out(way: str) -> None:
    """One operation in the kernel, with scale and shift as the code has them."""
    torch.manual_seed(0)
    session = check(Norm(way), torch.randn(1, 9, 8))
    assert kinds(session).count(Normalise) == 1


UNLIKE = {
    "unbiased": lambda x: (x - mean(x)) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5),
    "of another": lambda x: x * torch.rsqrt(mean(x.roll(1, -1) ** 2 + x) + 1e-5),
    "another axis": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5),
    "cube": lambda x: x * torch.rsqrt(mean(x.abs() ** 3) + 1e-5),
}


@pytest.mark.parametrize("way", UNLIKE)
def test_what_is_nearly_a_norm_is_none(way: str) -> None:
    """Other moments, axes and divisors stay what they are."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(UNLIKE[way](x))

    torch.manual_seed(0)
    assert Normalise not in kinds(check(Net(), torch.randn(1, 9, 8)))


class Block(nn.Module):
    """Attention of a decoder: grouped heads, rotary positions and masks in several forms."""

    def __init__(
        self, *, heads: int = 4, key_heads: int = 2, rope: str = "", mask: str = ""
    ) -> None:
        super().__init__()
        self.heads, self.key_heads, self.rope, self.mask = heads, key_heads, rope, mask
        self.q = nn.Linear(16, heads * 8, bias=False)
        self.k, self.v = (nn.Linear(16, key_heads * 8, bias=False) for _ in range(2))
        self.out = nn.Linear(heads * 8, 16)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (
            layer(x).view(batch, tokens, -1, 8).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        if self.rope:
            q, k = (ROPES[self.rope](each) for each in (q, k))
        repeated = self.mask != "grouped"
        times = self.heads // self.key_heads
        if self.mask == "interleaved":
            k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, dim=1)
        elif repeated:
            k, v = (
                each[:, :, None].expand(-1, -1, times, -1, -1).reshape(batch, self.heads, tokens, 8)
                for each in (k, v)
            )
        y = MASKS[self.mask](q, k, v, keep)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, -1))


def angles(x: Tensor) -> tuple[Tensor, Tensor]:
    rates = 10.0 ** -torch.arange(0, 1, 0.25)
    found = torch.outer(torch.arange(x.shape[2]).float(), rates)
    return found.cos(), found.sin()


def halves(x: Tensor) -> Tensor:
    cos, sin = (torch.cat((each, each), -1) for each in angles(x))
    turned = torch.cat((-x[..., 4:], x[..., :4]), -1)
    return x * cos + turned * sin


def by_turns(x: Tensor) -> Tensor:
    cos, sin = angles(x)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(3)


def partial(x: Tensor) -> Tensor:
    cos, sin = (torch.cat((each[:, :2], each[:, :2]), -1) for each in angles(x))
    first, rest = x[..., :4], x[..., 4:]
    turned = torch.cat((-first[..., 2:], first[..., :2]), -1)
    return torch.cat((first * cos + turned * sin, rest), -1)


def written_out(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(8)
    if keep is not None:
        scores = scores + torch.where(keep, 0.0, -1e30)
    return scores.softmax(-1) @ v


def biased(q: Tensor, k: Tensor, v: Tensor, _: Tensor | None) -> Tensor:
    away = torch.arange(q.shape[2])[None] - torch.arange(q.shape[2])[:, None]
    slopes = 2.0 ** -torch.arange(q.shape[1])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=slopes[:, None, None] * away)


ROPES = {"halves": halves, "by turns": by_turns, "partial": partial}
MASKS = {
    "": lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v),
    "causal": lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "interleaved": lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "grouped": lambda q, k, v, _: F.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=True, scale=0.2
    ),
    "given": lambda q, k, v, keep: F.scaled_dot_product_attention(q, k, v, attn_mask=keep),
    "written out": written_out,
    "written out, given": written_out,
    "biased": biased,
    "scaled before": lambda q, k, v, _: F.scaled_dot_product_attention(q * 0.3, k, v, scale=1.0),
}


@pytest.mark.parametrize("rope", ["", *ROPES])
def test_rotary_positions(rope: str) -> None:
    """Halves, neighbours, and heads of which a part is rotated."""
    torch.manual_seed(0)
    session = check(Block(rope=rope, mask="causal"), torch.randn(1, 19, 16))
    assert kinds(session).count(Attend) == 1
    assert kinds(session).count(Rotate) == bool(rope)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rows", [1, 19])
def test_masks(mask: str, rows: int) -> None:
    """Causal, padding and additive masks, in the call or in the code, for all queries or for each."""
    torch.manual_seed(0)
    example = [torch.randn(1, 19, 16)]
    if mask.endswith("given"):
        example.append(torch.rand(1, 1, rows, 19) > 0.4)
    session = check(Block(mask=mask), *example)
    assert kinds(session).count(Attend) == 1
    attends = [position for position, op in enumerate(session.program.ops)
               if isinstance(op, NativeOp) and isinstance(op.kind, Attend)]  # fmt: skip
    assert session.native.issuperset(attends)


def test_several_examples() -> None:
    """One session serves one example and several."""
    torch.manual_seed(0)
    net = Block(rope="halves", mask="causal").eval()
    session = in_kernels(net, torch.randn(1, 19, 16))
    with torch.no_grad():
        for batch in (1, 3):
            x = torch.randn(batch, 19, 16)
            torch.testing.assert_close(session(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [2, 3, 5])
@pytest.mark.parametrize("form", ["each", "all", "padding", "widened", "pairs", "heads"])
def test_masks_of_several_examples(form: str, batch: int) -> None:
    """Padding of each example, and masks of pairs and heads, are kernels' at any batch."""
    torch.manual_seed(0)
    shape = {
        "each": (batch, 1, 19, 19), "all": (1, 1, 19, 19), "padding": (batch, 1, 1, 19),
        "widened": (batch, 1, 1, 19), "pairs": (19, 19), "heads": (batch, 4, 19, 19),
    }[form]  # fmt: skip
    keep = torch.rand(shape) > 0.4
    keep[..., 0] = True

    class Net(Block):
        def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
            if form == "widened" and keep is not None:
                keep = keep.expand(-1, 1, 19, 19)
            return super().forward(x, keep)

    session = check(Net(mask="given"), torch.randn(batch, 19, 16), keep)
    attends = [position for position, op in enumerate(session.program.ops)
               if isinstance(op, NativeOp) and isinstance(op.kind, Attend)]  # fmt: skip
    assert len(attends) == 1
    assert session.native.issuperset(attends)
    planned = session.runner(batch).plan.steps
    (problem,) = (
        each.problem for each in planned if isinstance(getattr(each, "problem", None), Attention)
    )
    assert problem.own == (form not in ("all", "pairs"))
    if form in ("padding", "widened"):  # one number per key, not one per query and key
        assert problem.mask in (Mask.KEYS, Mask.SEQUENCES)


class Normed(Block):
    """Queries and keys are normalised in each head, before or after heads become an axis."""

    def __init__(self, form: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.form = form
        self.q_scale, self.k_scale = (nn.Parameter(torch.rand(8) + 0.5) for _ in range(2))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (layer(x).view(batch, tokens, -1, 8) for layer in (self.q, self.k, self.v))
        if self.form == "after":
            q, k = (each.transpose(1, 2) for each in (q, k))
        q = NORMS["rms"](q, self.q_scale, q)
        if self.form == "two epsilons":
            k = F.rms_norm(k, (8,), self.k_scale, 1e-3)
        elif self.form != "queries alone":
            k = NORMS["rms"](k, self.k_scale, k)
        if self.form == "values too":
            v = NORMS["rms"](v, self.k_scale, v)
        if self.form != "after":
            q, k = (each.transpose(1, 2) for each in (q, k))
        q, k = (halves(each) for each in (q, k))
        y = F.scaled_dot_product_attention(
            q, k, v.transpose(1, 2), is_causal=True, enable_gqa=self.key_heads < self.heads
        )
        return self.out(y.transpose(1, 2).reshape(batch, tokens, -1))


@pytest.mark.parametrize("form", ["before", "after"])
@pytest.mark.parametrize("key_heads", [2, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_norms_of_queries_and_keys(form: str, key_heads: int, batch: int) -> None:
    """They are an operation between the projection and the rotation, all in kernels."""
    torch.manual_seed(0)
    session = check(Normed(form, key_heads=key_heads), torch.randn(batch, 19, 16))
    assert kinds(session) == [Project, NormaliseHeads, Rotate, Attend, Project]
    assert len(session.native) == len(session.program.ops)


@pytest.mark.parametrize("form", ["queries alone", "two epsilons", "values too"])
def test_other_norms_of_heads_stay_as_they_are(form: str) -> None:
    """Attention is torch's then, with the same results."""
    torch.manual_seed(0)
    assert NormaliseHeads not in kinds(check(Normed(form), torch.randn(1, 19, 16)))


def test_equal_layers_are_recognised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers with other weights are like the first; one with another rotation is not."""
    from boxwood._internal.engine.passes import fuse_attention

    matched = []
    match = fuse_attention.match_attention
    monkeypatch.setattr(
        fuse_attention, "match_attention", lambda *args: matched.append(args[3]) or match(*args)
    )

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            one, two = [Normed("before") for _ in range(3)], Block(rope="by turns", mask="causal")
            self.layers = nn.ModuleList([*one, two, Normed("before")])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x)
            return x

    torch.manual_seed(0)
    session = check(Net(), torch.randn(1, 19, 16))
    assert kinds(session).count(Attend) == 5
    assert kinds(session).count(NormaliseHeads) == 4
    assert len({id(op) for op in matched}) == 2


def test_a_padded_batch_of_qwen3() -> None:
    """Norms of heads, rotary positions and attention with padding are kernels' in transformers' code."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen3Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, vocab_size=50,
    )  # fmt: skip
    torch.manual_seed(0)
    net = transformers.Qwen3ForCausalLM(config).eval()
    ids, mask = torch.randint(0, 50, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    mask[1, 9:] = mask[2, 10:] = 0
    call = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    session = compile_(net, call)
    assert isinstance(session, Session)
    found = kinds(session)
    assert [found.count(kind) for kind in (NormaliseHeads, Rotate, Attend)] == [2, 2, 2]
    able = frozenset(supported_problems(session.program, session.program.example))
    session = session.with_native(able)
    assert not any(isinstance(op.kind, Attend) for position, op in enumerate(session.program.ops)
                   if isinstance(op, NativeOp) and position not in able)  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(session(**call).logits, net(**call).logits, rtol=1e-4, atol=1e-5)


def test_gates() -> None:
    """The activation of a gate is its projection's, and the product a kernel's."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.down = nn.Linear(8, 24), nn.Linear(8, 24), nn.Linear(24, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(F.silu(self.gate(x)) * self.up(x)) + self.down(
                F.gelu(self.gate(x)) * self.up(x)
            )

    torch.manual_seed(0)
    session = check(Gated(), torch.randn(1, 9, 8))
    assert not any(isinstance(op, TorchOp) for op in session.program.ops)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_head_scores_only_the_tokens_that_are_read(batch: int) -> None:
    """The last token, or a few, are taken before the product; all are where features are taken."""

    class Head(nn.Module):
        def __init__(self, which: str) -> None:
            super().__init__()
            self.which, self.head = which, nn.Linear(8, 50)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.head(F.relu(x))
            return {"last": scores[:, -1], "few": scores[:, 2:5], "words": scores[..., :7]}[
                self.which
            ]

    x = torch.randn(batch, 9, 8)
    for which, rows in (("last", 1), ("few", 3), ("words", 9)):
        torch.manual_seed(0)
        session = check(Head(which), x)
        (head,) = (op for op in session.program.ops if isinstance(op, NativeOp) and op.weight)
        shape = sizes_at(session.program.values[head.out].shape, batch)
        assert shape == {1: (batch, 50), 3: (batch, 3, 50), 9: (batch, 9, 50)}[rows]


def test_files(tmp_path: Path) -> None:
    """A decoder's block with a mask goes into a file and comes back; forged heads are refused."""
    torch.manual_seed(0)
    net = Block(rope="halves", mask="given").eval()
    example = (torch.randn(1, 19, 16), torch.rand(1, 1, 19, 19) > 0.4)
    session = in_kernels(net, *example)
    wanted = session(*example)
    session.save(tmp_path / "block.bxw")
    torch.testing.assert_close(
        load_session(tmp_path / "block.bxw")(*example), wanted, rtol=0, atol=0
    )
    forged = [
        replace(op, kind=replace(op.kind, key_heads=3, heads=2, size=8))
        if isinstance(op, NativeOp) and isinstance(op.kind, Attend)
        else op
        for op in session.program.ops
    ]
    session.program = replace(session.program, ops=tuple(forged))
    session.save(tmp_path / "forged.bxw")
    with pytest.raises(BoxwoodError, match="Expected the operation attend to"):
        load_session(tmp_path / "forged.bxw")
