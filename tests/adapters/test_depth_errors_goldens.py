"""What dropping blocks says when something is wrong, what the command prints, and that nothing is half-written."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood.errors import BoxwoodError

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytest.importorskip("accelerate")

from boxwood._internal.adapters.depth import (  # noqa: E402
    block_influences,
    drop_blocks,
    greedy_blocks,
    removable_blocks,
)
from boxwood._internal.adapters.depth_folders import drop_blocks_pretrained  # noqa: E402
from boxwood._internal.adapters.loaders import loaders_of  # noqa: E402

spec = importlib.util.spec_from_file_location(
    "tiny_decoders", Path(__file__).parent / "tiny_decoders.py"
)
tiny: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
FAMILIES = {**tiny.DECODERS, **tiny.MIXTURES, **tiny.PAIRS}
BATCHES = [{"input_ids": tiny.IDS}]


def folder_of(name: str, place: Path, **more: Any) -> Path:
    return tiny.folder_of(tiny.made(name, {**FAMILIES[name], **more}), place / name)


def shrink(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["shrink", *map(str, arguments)])


def test_the_command(tmp_path: Path) -> None:
    """Every criterion; what it prints, writes, and reports as JSON; the folder loads."""
    folder = folder_of("LlamaForCausalLM", tmp_path)
    text = ("--text", tmp_path / "text.txt", "--samples", 4, "--length", 16)
    for by in ("influence", "perplexity", "greedy"):
        out = tmp_path / by
        more = ("--repair",) if by == "perplexity" else ()
        done = shrink(folder, out, "--drop-blocks", 2, "--by", by, *text, *more, "--json")
        assert done.exit_code == 0, (done.output, done.exception)
        said = json.loads(done.stdout)
        assert len(said["dropped"]) == 2
        assert len(said["scores"]) == (2 if by == "greedy" else 4)
        assert said["perplexity"].keys() == {"dense", "cut", *(("repaired",) if more else ())}
        assert said["calibration_tokens"] == 64
        again = transformers.AutoModelForCausalLM.from_pretrained(out)
        assert len(again.model.layers) == 2
        transformers.AutoTokenizer.from_pretrained(out)
        report = json.loads((out / "pruning.json").read_text())
        assert sorted(report["dropped"]) == sorted(said["dropped"])
    plain = shrink(folder, tmp_path / "plain", "--drop-blocks", 1, *text)
    assert "Perplexity on the last tenth of the text:" in plain.stdout, plain.exception
    assert "Loads in transformers; in vLLM" in plain.stdout
    assert "repaired" not in plain.stdout
    assert "dropped" in plain.stdout
    dry = shrink(folder, "--drop-blocks", 1, *text, "--dry-run", "--json")
    assert json.loads(dry.stdout)["dropped"] == ["model.layers.2"], dry.exception
    assert "fold" not in dry.stdout


def test_an_encoder_and_a_decoder_by_the_command(tmp_path: Path) -> None:
    """The list is named; the encoder reads the first half of each piece, and the decoder continues."""
    folder = folder_of("T5ForConditionalGeneration", tmp_path)
    text = ("--text", tmp_path / "text.txt", "--samples", 4, "--length", 16)
    which = shrink(folder, tmp_path / "a", "--drop-blocks", 1, *text)
    assert "one list of blocks in T5ForConditionalGeneration, got encoder.block, decoder" in str(which.exception)  # fmt: skip
    done = shrink(folder, tmp_path / "a", "--drop-blocks", 2, "--blocks", "encoder.block", *text, "--by", "perplexity", "--json")  # fmt: skip
    assert done.exit_code == 0, done.exception
    assert (
        "encoder.block.0" not in json.loads(done.stdout)["scores"]
    )  # the others read its positions
    again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "a")
    assert (len(again.encoder.block), len(again.decoder.block)) == (3, 3)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("LlamaForCausalLM", ["--drop-blocks", "4"], "Expected 1 to 3 of the 4 blocks of LlamaForCausalLM to drop, got 4; one at least has to stay."),
        ("LlamaForCausalLM", ["--drop-blocks", "1", "--by", "wanda"], "Expected --by influence, perplexity, greedy with --drop-blocks, got 'wanda'"),
        ("LlamaForCausalLM", ["--drop-blocks", "1", "--keep", "0.5"], "got --keep and --drop-blocks; give one"),
        ("LlamaForCausalLM", ["--drop-blocks", "1", "--multiple", "8"], "Expected no --multiple with --drop-blocks"),
        ("LlamaForCausalLM", ["--drop-blocks", "1", "--blocks", "model.leaves"], "got none that is called 'model.leaves'; name the one you mean with blocks= out of model.layers"),
        ("LlamaForCausalLM", ["--drop-blocks", "1", "--samples", "99", "--length", "64"], "Expected calibration text of at least 99 x 64"),
        ("LlamaForCausalLM", ["--drop-blocks", "1", "--length", "65"], "Expected samples of at most 64 tokens"),
        ("Gemma3ForCausalLM", ["--drop-blocks", "1", "--repair"], "do not repair (--no-repair)"),
        ("T5ForConditionalGeneration", ["--drop-blocks", "4", "--blocks", "decoder.block"], "Expected 1 to 2 of the 3 blocks of T5ForConditionalGeneration to drop, got 4"),
    ],
)  # fmt: skip
def test_bad_input_to_the_command(name: str, arguments: list[str], words: str, tmp_path: Path) -> None:  # fmt: skip
    """One sentence that says what to do; nothing is written."""
    folder = folder_of(name, tmp_path)
    error = shrink(folder, tmp_path / "out", "--text", tmp_path / "text.txt", *arguments).exception
    assert isinstance(error, BoxwoodError), error
    assert words in str(error)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_texts_and_tokenizers_that_do_not_fit(tmp_path: Path) -> None:
    """No text, a text of one word, a folder without a tokenizer, and one with more words than the model has."""
    folder = folder_of("LlamaForCausalLM", tmp_path)
    asked = (folder, tmp_path / "out", "--drop-blocks", 1)
    assert "Expected --text with --drop-blocks, got none" in str(shrink(*asked).exception)
    (tmp_path / "short.txt").write_text("a b")
    short = shrink(*asked, "--text", tmp_path / "short.txt").exception
    assert "Expected calibration text of at least 1 x 64 = 64 tokens, got" in str(short)
    small = folder_of("OPTForCausalLM", tmp_path, vocab_size=12)
    words = "Expected a tokenizer whose tokens are below the 12 that the model in"
    odd = shrink(small, tmp_path / "out", "--drop-blocks", 1, "--text", tmp_path / "text.txt")
    assert words in str(odd.exception)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    none = shrink(*asked, "--text", tmp_path / "text.txt").exception
    assert "Expected a tokenizer in" in str(none)
    assert not (tmp_path / "out").exists()


def test_blocks_that_differ_in_kind() -> None:
    """Those that a configuration cannot do without are named; others are offered."""
    settings = {**FAMILIES["Qwen3MoeForCausalLM"], "decoder_sparse_step": 2}
    model = tiny.made("Qwen3MoeForCausalLM", settings)
    names = [f"model.layers.{place}" for place in range(4)]
    assert removable_blocks(model, names) == (3,)
    assert list(block_influences(model, BATCHES)) == ["model.layers.3"]
    with pytest.raises(
        BoxwoodError, match=r"stay what they are without 0, got model.layers.1, which its conf"
    ):
        drop_blocks(model, ["model.layers.0"])
    with pytest.raises(
        BoxwoodError, match=r"Expected 1 to 1 of the 4 blocks .*got 2; the configuration cannot"
    ):
        greedy_blocks(model, 2, BATCHES)
    pair = tiny.made("T5ForConditionalGeneration", FAMILIES["T5ForConditionalGeneration"])
    with pytest.raises(BoxwoodError, match=r"without 0, got encoder.block.1"):
        drop_blocks(pair, ["encoder.block.0"])
    scaled = tiny.made("GPT2LMHeadModel", {**FAMILIES["GPT2LMHeadModel"], "scale_attn_by_inverse_layer_idx": True})  # fmt: skip
    with pytest.raises(
        BoxwoodError, match=r"without 1, got transformer.h.2"
    ):  # divides by its number
        drop_blocks(scaled, ["transformer.h.1"])
    assert drop_blocks(scaled, ["transformer.h.3"]).config.n_layer == 3


def test_names_that_are_no_blocks(tmp_path: Path) -> None:
    """None, all, of two lists, unknown ones, and a folder with masks."""
    model = tiny.made("LlamaForCausalLM", FAMILIES["LlamaForCausalLM"])
    names = [f"model.layers.{place}" for place in range(4)]
    for dropped, words in (
        ([], "names of blocks of one list"),
        ("model.layers.1", "names of blocks of one list"),
        (["model.layers.1", "model.norm.1"], "names of blocks of one list"),
        (
            ["model.layers.9"],
            "blocks out of model.layers.0 to model.layers.3, got 'model.layers.9'",
        ),
        (["model.leaves.1"], "one list of blocks in LlamaForCausalLM, got none that is called"),
        (names, "at least one of the 4 blocks to stay"),
    ):
        with pytest.raises(BoxwoodError, match=words):
            drop_blocks(model, dropped)
    model.save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "masks").mkdir()
    with pytest.raises(BoxwoodError, match="Expected a checkpoint without masks"):
        drop_blocks_pretrained(tmp_path / "dense", tmp_path / "out", names[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_which_programs_load_it(tmp_path: Path) -> None:
    """Kinds of blocks in an order that an architecture has not had are pointed out."""
    for name, dropped, count in (
        ("LlamaForCausalLM", "model.layers.1", 1),
        ("Gemma2ForCausalLM", "model.layers.3", 1),
        ("Gemma2ForCausalLM", "model.layers.1", 2),
        ("GptOssForCausalLM", "model.layers.0", 2),
    ):
        place = tmp_path / f"{name} {dropped}"
        drop_blocks(tiny.made(name, FAMILIES[name]), [dropped]).save_pretrained(place)
        said = loaders_of(place)
        assert len(said) == count
        assert said[0].startswith("Loads in transformers; in vLLM and llama.cpp's converter")
    assert "llama.cpp, and vLLM for some models, take the order" in said[1]


def test_shards_and_other_texts_are_kept(tmp_path: Path) -> None:
    """The index names every tensor that is left; a shard of which nothing is left is gone."""
    model = tiny.made("LlamaForCausalLM", FAMILIES["LlamaForCausalLM"])
    model.save_pretrained(tmp_path / "dense", max_shard_size="12KB")
    (tmp_path / "dense" / "README.md").write_text("read me")
    drop_blocks_pretrained(tmp_path / "dense", tmp_path / "small", ["model.layers.0", "model.layers.2"])  # fmt: skip
    index = json.loads((tmp_path / "small" / "model.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "small").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == files
    assert len(files) < len(list((tmp_path / "dense").glob("*.safetensors")))
    assert (tmp_path / "small" / "README.md").read_text() == "read me"
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small")
    assert index["metadata"]["total_size"] == sum(4 * p.numel() for p in again.parameters())
    assert torch.equal(again.model.layers[1].mlp.up_proj.weight, model.model.layers[3].mlp.up_proj.weight)  # fmt: skip
