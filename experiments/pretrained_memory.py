"""The memory that pruning a pretrained model takes is meant to follow its blocks, not its size.

Writes Llamas of random weights in bfloat16, with the same blocks but more and more of them, prunes
each by Wanda in a process of its own, and notes the most memory that process held.

    python experiments/pretrained_memory.py
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
import transformers
from pruning_runs import imports, pruned

from boxwood._internal.runs.provenance import provenance

OUT = Path(__file__).parent / "results" / "pretrained_memory.json"
WIDTH, INNER, VOCABULARY = 1024, 2816, 8000
SAMPLES, LENGTH = 8, 128


def main() -> None:
    """Prune models of several depths and write down what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 16, 48])
    given = parser.parse_args()
    rows = [measured(count) for count in given.blocks]
    block = 4 * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)
    found = {
        "block_bytes_in_float32": block,
        "calibration": {"samples": SAMPLES, "length": LENGTH},
        **imports(),
        "rows": rows,
        "machine": provenance(),
    }
    OUT.write_text(json.dumps(found, indent=1, default=str) + "\n")
    print(json.dumps(found, indent=1, default=str))


def measured(blocks: int) -> dict[str, object]:
    """Prune a model of the given number of blocks."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        size = make(at / "dense", blocks)
        (at / "text.txt").write_text("a b c d e f g h\n" * 200)
        command = [str(at / "dense"), "--by", "wanda", "--sparsity", "0.5"]
        command += ["--text", str(at / "text.txt")]
        command += ["--samples", str(SAMPLES), "--length", str(LENGTH)]
        found = pruned(command, at / "out", lambda out: {})  # noqa: ARG005
    return {"blocks": blocks, "checkpoint_bytes": size, **found}


def make(folder: Path, blocks: int) -> int:
    """Write a model and a tokenizer of letters; returns the bytes of the weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = transformers.LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=blocks,
        num_attention_heads=16,
        vocab_size=VOCABULARY,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="500MB")
    letters = {letter: place for place, letter in enumerate("abcdefgh \n?")}
    plain = Tokenizer(models.WordLevel(letters, unk_token="?"))  # noqa: S106
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


if __name__ == "__main__":
    main()
