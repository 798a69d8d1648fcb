"""The memory that pruning a pretrained model takes is meant to depend on its blocks, not its depth.

Writes Llamas of random weights in bfloat16, with the same blocks but more and more of them, prunes
each by Wanda in a process of its own, and notes the most memory that process held. The same is done
for dropping two blocks by influence.

    python experiments/pretrained_memory.py
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
import transformers
from pruning_runs import boxwood, imports, pruned

from boxwood._internal.runs.provenance import provenance

OUT = Path(__file__).parent / "results" / "pretrained_memory.json"
WIDTH, INNER, VOCABULARY = 1024, 2816, 8000
SAMPLES, LENGTH = 8, 128


def main() -> None:
    """Prune models of several depths and write down what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 16, 48])
    parser.add_argument("--deeper", type=int, nargs="+", default=[4, 48, 96], help="to drop from")
    given = parser.parse_args()
    rows = [measured(count) for count in given.blocks]
    dropped = [with_two_fewer(count) for count in given.deeper]
    block = 4 * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)
    found = {
        "block_bytes_in_float32": block,
        "calibration": {"samples": SAMPLES, "length": LENGTH},
        **imports(),
        "rows": rows,
        "two_blocks_dropped": dropped,
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


def with_two_fewer(blocks: int) -> dict[str, object]:
    """Drop two blocks of a model by influence, from folder to folder."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        size = make(at / "dense", blocks)
        (at / "text.txt").write_text("a b c d e f g h\n" * 200)
        command = ["shrink", "dense", "small", "--drop-blocks", "2", "--text", "text.txt"]
        command += ["--samples", str(SAMPLES), "--length", str(LENGTH), "--json"]
        done = subprocess.run(  # noqa: S603
            boxwood(*command), cwd=at, stdout=subprocess.PIPE, check=True
        )
        left = sum(path.stat().st_size for path in (at / "small").glob("*.safetensors"))
    said = json.loads(done.stdout)
    peak = said["peak_memory_bytes"]
    return {
        "blocks": blocks,
        "checkpoint_bytes": size,
        "left_bytes": left,
        "peak_memory_bytes": peak,
    }


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
