"""Shrink a language model and let it learn from what it was: drop blocks, heal, evaluate.

python examples/language_model.py

A small Llama of four blocks learns the text of Boxwood's own documents first, so that nothing has to
be downloaded. With a model of yours only the three commands of `main` are needed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[1]
LENGTH = ("--length", 64)


def texts(folder: Path) -> tuple[Path, Path]:
    """Write a text to learn from, and another to measure on."""
    pages = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))]
    train, held_out = folder / "train.txt", folder / "held_out.txt"
    train.write_text("\n".join(p for i, p in enumerate(pages) if i % 10), encoding="utf-8")
    held_out.write_text("\n".join(p for i, p in enumerate(pages) if not i % 10), encoding="utf-8")
    return train, held_out


def dense_model(folder: Path, text: Path, steps: int) -> None:
    """Train a small Llama, and write it as a Hugging Face folder."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train(
        [str(text)],
        trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False),
    )
    tokens = torch.tensor(bpe.encode(text.read_text(encoding="utf-8")).ids)

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=bpe.get_vocab_size(),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        starts = torch.randint(len(tokens) - 64, (16,))
        batch = torch.stack([tokens[start : start + 64] for start in starts])
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=bpe).save_pretrained(folder)


def boxwood(folder: Path, *words: object) -> None:
    """Run a command in a folder, and print it before its output."""
    given = [str(word) for word in words]
    print("$ boxwood", *given, flush=True)
    subprocess.run([Path(sys.executable).with_name("boxwood"), *given], check=True, cwd=folder)


def main(steps: int = 150, tokens: int = 50_000) -> None:
    """Make a model, drop two blocks of four, heal, and compare the three."""
    with tempfile.TemporaryDirectory() as temporary:
        at = Path(temporary)
        train, test = texts(at)
        dense_model(at / "dense", train, steps)
        boxwood(
            at, "shrink", "dense", "small", "--drop-blocks", 2, "--repair", *text(train), *LENGTH
        )
        boxwood(
            at, "heal", "small", "--teacher", "dense", *text(train), "--tokens", tokens,
            "--learning-rate", 2e-3, "--out", "healed", *LENGTH,
        )  # fmt: skip
        boxwood(at, "evaluate", "dense", "small", "healed", *text(test), "--tokens", 4000, *LENGTH)


def text(path: Path) -> tuple[str, str]:
    """Return the option that names a text."""
    return "--text", path.name


if __name__ == "__main__":
    main()
