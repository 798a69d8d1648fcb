"""``boxwood shrink`` on a language model: a text decides, repairs, and measures."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood.errors import BoxwoodError

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from boxwood._internal.adapters.calibration_text import batches_for, held_out  # noqa: E402
from boxwood._internal.adapters.perplexity import perplexity  # noqa: E402

LINE = "the quick brown fox jumps over the lazy dog.\n"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama that has learnt a sentence, with a tokenizer of letters."""
    folder = tmp_path_factory.mktemp("trained")
    letters = {letter: place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz .?")}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="?"))  # noqa: S106
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="?")  # noqa: S106
    made.save_pretrained(folder / "llama")
    (folder / "text.txt").write_text(LINE * 40)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                vocab_size=30, max_position_embeddings=32, tie_word_embeddings=True,
            )
        )  # fmt: skip
        ids = torch.cat([b["input_ids"] for b in _pieces(made, LINE * 40)])
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    model.save_pretrained(folder / "llama")
    return folder


def _pieces(tokenizer: Any, text: str) -> Any:
    from boxwood._internal.adapters.calibration_text import stream_batches

    return stream_batches(tokenizer, text, samples=16, length=32)


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.mark.parametrize("by", ["wanda", "taylor", "activations"])
def test_what_is_told_is_what_the_folder_has(by: str, llama: Path, tmp_path: Path) -> None:
    """Perplexity before and after, on the last tenth of the text; repaired is better than cut."""
    text = llama / "text.txt"
    call = ("shrink", llama / "llama", tmp_path / "small", "--keep", 0.5, "--text", text)
    done = command(*call, "--by", by, "--json")
    assert done.exit_code == 0, done.exception
    told = json.loads(done.stdout)["perplexity"]
    assert told["dense"] < told["repaired"] < told["cut"]
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small").eval()
    assert sum(p.numel() for p in again.parameters()) == json.loads(done.stdout)["parameters"][1]
    test = batches_for(tmp_path / "small", held_out(text.read_text())[1])
    assert perplexity(again, test) == pytest.approx(told["repaired"], rel=1e-6)


def test_evidence_of_text_is_the_default_and_no_repair_leaves_the_cut(
    llama: Path, tmp_path: Path
) -> None:
    call = ("shrink", llama / "llama", "--keep", 0.5, "--text", llama / "text.txt", "--no-repair")
    done = command(*call, tmp_path / "small")
    assert done.exit_code == 0, done.exception
    line = next(each for each in done.stdout.splitlines() if each.startswith("Perplexity"))
    assert " dense, " in line
    assert line.endswith(" cut")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "Expected --text for LlamaForCausalLM, got none: magnitudes alone destroy"),
        (("--by", "taylor"), "Expected --text for taylor, got none"),
        (("--by", "size"), "Expected --by magnitude, taylor, wanda, activations, got 'size'"),
    ],
)
def test_a_language_model_without_text_is_refused(
    more: tuple[str, ...], words: str, llama: Path, tmp_path: Path
) -> None:
    done = command("shrink", llama / "llama", tmp_path / "small", "--keep", 0.5, *more)
    assert isinstance(done.exception, BoxwoodError)
    assert words in str(done.exception)
    assert not (tmp_path / "small").exists()


def test_text_for_a_network_of_a_file_is_refused(tmp_path: Path) -> None:
    call = ("shrink", "boxwood.networks:lenet_300_100", tmp_path / "small.safetensors")
    done = command(*call, "--input", "1x1x28x28", "--keep", 0.5, "--text", tmp_path / "a.txt")
    assert "with a Hugging Face folder, got boxwood.networks" in str(done.exception)
