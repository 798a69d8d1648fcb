"""What pruning a pretrained folder says when something is wrong, and that nothing is written then."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import boxwood
from boxwood._internal.cli.main import app
from boxwood._internal.core.call import Call
from boxwood._internal.core.granularity import NofM
from boxwood._internal.files.mask_files import load_masks
from boxwood._internal.model.blockwise import by_criterion, by_sparse_gpt
from boxwood.criteria import magnitude
from boxwood.errors import BoxwoodError, MissingDependency

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("accelerate")

from boxwood._internal.adapters.calibration_text import batches_for, stream_batches  # noqa: E402
from boxwood._internal.adapters.pretrained import prune_pretrained  # noqa: E402
from boxwood._internal.adapters.resident import open_resident, open_tokenizer  # noqa: E402

SIZES = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": 30, "max_position_embeddings": 16,
}  # fmt: skip
SIZE = Call.of(by_criterion, criterion=magnitude)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A tiny Llama with a tokenizer of letters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    model.save_pretrained(tmp_path / "llama")
    letters = {letter: place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz .?")}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="?"))  # noqa: S106
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="?")  # noqa: S106
    made.save_pretrained(tmp_path / "llama")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 20)
    return tmp_path / "llama"


def changed(folder: Path, **more: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def hollow(folder: Path) -> None:
    """Only the texts are left."""
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "a folder with config.json at .*, got none"),
        (lambda f: changed(f, model_type="cedar"), "that transformers .* knows"),
        (lambda f: changed(f, architectures=["CedarForCausalLM"]), "got 'CedarForCausalLM'"),
        (lambda f: changed(f, architectures=None), "got None; code that comes with"),
        (lambda f: changed(f, architectures=["AutoConfig"]), "got 'AutoConfig'"),
        (lambda f: changed(f, quantization_config={"quant_method": "gptq", "bits": 4}), "quantised model"),
        (lambda f: changed(f, architectures=["T5ForConditionalGeneration"], model_type="t5"), "one list of blocks .* encoder.block, decoder.block"),
        (lambda f: changed(f, architectures=["BertModel"], model_type="bert"), "a tensor for 'encoder.layer.0.*of BertModel, got none"),
        (lambda f: changed(f, num_hidden_layers=3), "a tensor for 'model.layers.2.*, got none"),
        (lambda f: changed(f, intermediate_size=16), r"of shape \(16, 8\), as in config.json, got \(12, 8\)"),
        (hollow, "one safetensors file or one index"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_pretrained_model(
    spoil: Callable[[Path], object], words: str, llama: Path, tmp_path: Path
) -> None:
    """The thing at fault is named, and no folder is left behind."""
    spoil(llama)
    with pytest.raises(BoxwoodError, match=words):
        prune_pretrained(llama, tmp_path / "out", 0.5, decide=SIZE)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"decide": Call.of(by_criterion)}, "batches to gather evidence from, got none"),
        ({"decide": Call.of(by_sparse_gpt)}, "batches to gather evidence from, got none"),
        ({"sparsity": 1.5}, r"Expected sparsity in \[0, 1\)"),
        ({"sparsity": 0.4, "decide": Call.of(by_criterion, criterion=magnitude, granularity=NofM(2, 4))}, "a sparsity of 0.5 with 2:4"),
        ({"skip": ("*.nothing",)}, "match a linear layer of the blocks, got '..nothing'"),
        ({"skip": ("*",)}, "got none; skip fewer"),
        ({"blocks": "model.leaves"}, "one list of blocks in LlamaForCausalLM, got none"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(
    settings: dict[str, object], words: str, llama: Path, tmp_path: Path
) -> None:
    """They are refused before a folder has its name."""
    with pytest.raises(BoxwoodError, match=words):
        prune_pretrained(llama, tmp_path / "out", **{"sparsity": 0.5, "decide": SIZE} | settings)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_text_that_does_not_fit(llama: Path, tmp_path: Path) -> None:
    """Too short a text, too long a sample, too few lines, and a folder without a tokenizer."""
    text = (tmp_path / "text.txt").read_text()
    assert [b["input_ids"].shape for b in batches_for(llama, text, samples=9)] == [(8, 16), (1, 16)]
    lines = batches_for(llama, text, lines=True, samples=3, length=5)
    assert [batch["input_ids"].tolist() for batch in lines] == [[[19, 7, 4, 26, 16]] * 3]
    with pytest.raises(BoxwoodError, match="at least 99 x 16 = 1584 tokens, got 900"):
        batches_for(llama, text, samples=99)
    with pytest.raises(BoxwoodError, match="at most 16 tokens, which is what the model takes, got 17"):  # fmt: skip
        batches_for(llama, text, length=17)
    with pytest.raises(BoxwoodError, match="at least 21 lines, got 20"):
        batches_for(llama, text, lines=True, samples=21)
    with pytest.raises(BoxwoodError, match="of at least 1, got 0, 16 and 8"):
        batches_for(llama, text, samples=0)
    # 900 tokens of a model that takes 16: as many pieces as there are, and no more than 128.
    assert sum(len(b["input_ids"]) for b in batches_for(llama, text)) == 56
    assert sum(len(b["input_ids"]) for b in batches_for(llama, text, length=4)) == 128
    assert sum(len(b["input_ids"]) for b in batches_for(llama, text, lines=True)) == 20
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (llama / name).unlink()
    with pytest.raises(BoxwoodError, match=r"Expected a tokenizer in .*, got none"):
        open_tokenizer(llama)


def test_eight_bit_floats_are_refused(llama: Path, tmp_path: Path) -> None:
    """What they are scaled by is not known here."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(llama / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, llama / "model.safetensors", {"format": "pt"})
    with pytest.raises(BoxwoodError, match=r"16 bits or more, got F8_E4M3 for 'model.layers.1"):
        prune_pretrained(llama, tmp_path / "out", 0.5, decide=SIZE)


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra to install is named."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "boxwood._internal.adapters.resident")
    with pytest.raises(MissingDependency, match=r"pip install 'boxwood\[transformers\]'"):
        importlib.import_module("boxwood._internal.adapters.resident")


def command(*arguments: object) -> object:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_the_command(llama: Path, tmp_path: Path) -> None:
    """Every method from the command line; what it prints, writes, and tells as JSON."""
    text = ("--text", tmp_path / "text.txt", "--samples", 4, "--length", 8)
    done = command("prune", llama, "--by", "wanda", "--sparsity", 0.25, *text, "--out", tmp_path / "a")  # fmt: skip
    assert "weights of 14 linear layers (sparsity 0.2500)" in done.stdout, done
    assert "32 calibration tokens" in done.stdout
    for by in ("magnitude", "wanda", "ria", "sparsegpt", "alps", "dsnot"):
        out = tmp_path / by
        done = command(
            "prune", llama, "--by", by, "--pattern", "1:4", *text, "--out", out, "--json"
        )
        said = json.loads(done.stdout)
        assert said["total"]["sparsity"] == 0.75
        assert said["calibration_tokens"] == (0 if by == "magnitude" else 32)
        assert said["peak_memory_bytes"] > 1e6
        masks = load_masks(out)
        assert masks.keys() == {row["name"] for row in said["tensors"]}
        assert all((mask.view(len(mask), -1, 4).sum(2) == 1).all() for mask in masks.values())
        report = json.loads((out / "pruning.json").read_text())
        assert report["by"] == said["by"]
        assert report["tensors"] == said["tensors"]
        transformers.AutoModelForCausalLM.from_pretrained(out)
        transformers.AutoTokenizer.from_pretrained(out)
    for by in ("magnitude", "wanda", "ria", "sparsegpt", "alps"):
        out = tmp_path / f"blocks of {by}"
        blocks = ("--pattern", "1x4", "--sparsity", 0.75)
        done = command("prune", llama, "--by", by, *blocks, *text, "--out", out, "--json")
        assert json.loads(done.stdout)["total"]["sparsity"] == 0.75, done
        kept = [mask.view(len(mask), -1, 4).sum(2) for mask in load_masks(out).values()]
        assert all(bool(((each == 0) | (each == 4)).all()) for each in kept)
    done = command(
        "prune", llama, "--by", "magnitude", "--sparsity", 0.7, "--owl", *text,
        "--out", tmp_path / "owl", "--json",
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert said["total"]["sparsity"] == pytest.approx(0.7, abs=0.005)
    assert len({round(row["kept"] / row["weights"], 2) for row in said["tensors"]}) == 2
    done = command(
        "prune", llama, "--by", "magnitude", "--sparsity", 0.7, "--alpha", "--out", tmp_path / "alpha",
        "--json",
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert said["total"]["sparsity"] == pytest.approx(0.7, abs=0.005)
    shares: dict[str, set[float]] = {}
    for row in said["tensors"]:  # one density for each block, to whole weights
        shares.setdefault(row["name"].split(".")[2], set()).add(row["kept"] / row["weights"])
    assert all(max(each) - min(each) < 0.02 for each in shares.values())
    assert abs(max(shares["0"]) - max(shares["1"])) > 0.1
    assert said["calibration_tokens"] == 0
    done = command(
        "prune", llama, "--by", "dsnot", "--start", "magnitude", "--refit", "--tune", 2, "--sparsity", 0.5,
        *text, "--out", tmp_path / "better", "--json",
    )  # fmt: skip
    names = []
    way = json.loads(done.stdout)["by"]
    while way is not None:
        names.append(way["function"]["function"].partition(":")[2])
        inner = dict(map(tuple, way["settings"]))
        way = inner.get("decide", inner.get("start"))
    assert names == ["with_tuning", "with_least_squares", "by_dsnot", "by_criterion"]
    by_line = ("--text", tmp_path / "text.txt", "--samples", 2, "--lines", "--json")
    done = command("prune", llama, "--by", "wanda", "--sparsity", 0.5, *by_line, "--out", tmp_path / "b")  # fmt: skip
    assert json.loads(done.stdout)["calibration_tokens"] == 32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--by", "wanda", "--sparsity", "0.5"], "calibration text for wanda, got none; give --text"),
        (["--by", "chance", "--sparsity", "0.5"], "Expected --by magnitude, wanda, ria, sparsegpt, alps, dsnot, got 'chance'"),
        (["--by", "magnitude"], "--sparsity or --pattern, got neither"),
        (["--by", "magnitude", "--pattern", "1x4"], "Expected --sparsity with --pattern 1x4, got none"),
        (["--by", "magnitude", "--sparsity", "0.5", "--pattern", "2:4"], "either --sparsity or --pattern n:m, got both, 0.5 and 2:4"),
        (["--by", "magnitude", "--pattern", "half"], "Expected --pattern n:m, n kept of every m"),
        (["--by", "magnitude", "--pattern", "4:2"], "0 < n < m"),
        (["--by", "magnitude", "--sparsity", "0.5", "--per-tensor"], "no --layers and no --per-tensor with --by"),
        (["--by", "wanda", "--sparsity", "0.5", "--text", "gone"], "Expected UTF-8 text in gone"),
        (["--pattern", "2:4"], "only with --by"),
        (["--by", "wanda", "--pattern", "2:4", "--owl"], "Expected no --owl with --pattern 2:4"),
        (["--by", "magnitude", "--sparsity", "0.5", "--owl"], "calibration text for --owl, got none"),
        (["--by", "wanda", "--sparsity", "0.5", "--alpha", "--owl"], "Expected --owl or --alpha, which both choose a sparsity"),
        (["--by", "wanda", "--pattern", "2:4", "--alpha"], "Expected no --alpha with --pattern 2:4"),
        (["--by", "magnitude", "--sparsity", "0.5", "--refit"], "calibration text for --refit, got none"),
        (["--by", "magnitude", "--sparsity", "0.5", "--tune", "3"], "calibration text for --tune, got none"),
        (["--by", "alps", "--sparsity", "0.5", "--alpha"], "calibration text for alps, got none"),
        (["--by", "wanda", "--sparsity", "0.5", "--start", "ria"], "Expected --start magnitude, wanda, ria, sparsegpt with --by dsnot, which refines the masks of another method, got --start ria with --by wanda"),
        (["--by", "dsnot", "--sparsity", "0.5", "--start", "alps"], "got --start alps with --by dsnot"),
        (["--by", "dsnot", "--sparsity", "0.5", "--pattern", "1x4"], "with --by dsnot, which exchanges single weights, got blocks"),
        (["--sparsity", "0.5", "--alpha"], "--owl and --alpha only with --by"),
        (["--sparsity", "0.5", "--tune", "3"], "--owl and --alpha only with --by"),
        ([], "Expected --sparsity, and"),
        (["--sparsity", "0.5", "--text", "text.txt"], "only with --by"),
    ],
)  # fmt: skip
def test_bad_input_to_the_command(
    arguments: list[str], words: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of the error reach the command line, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    error = command("prune", llama, "--out", "out", *arguments).exception
    assert isinstance(error, BoxwoodError), error
    assert words in str(error)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_chosen_list_of_blocks(tmp_path: Path) -> None:
    """Where there are several, such as of a model with two towers, one is named."""
    tower = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_hidden_layers": 2}  # fmt: skip
    config = transformers.CLIPConfig(
        text_config=tower | {"vocab_size": 30, "max_position_embeddings": 16},
        vision_config=tower | {"image_size": 8, "patch_size": 4},
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    with pytest.raises(BoxwoodError, match=r"text_model\.encoder.layers, vision_model"):  # fmt: skip
        open_resident(tmp_path / "clip")
    ids = torch.randint(3, 29, (2, 6))
    batch = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 8, 8)}
    rows = prune_pretrained(
        tmp_path / "clip", tmp_path / "out", 0.5, batches=[batch], blocks="vision_model.encoder.layers",
    )  # fmt: skip
    assert len(rows) == 12
    assert all(row.name.startswith("vision_model.encoder.layers.") for row in rows)


def test_pieces_of_a_text_that_is_shorter_than_papers_take() -> None:
    """Many short pieces, not one long one; what was asked for is not changed."""

    class Words:
        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": list(range(len(text.split())))}

    def shape(words: int, **asked: int) -> tuple[int, int]:
        batches = stream_batches(Words(), "word " * words, **asked)
        return sum(len(b["input_ids"]) for b in batches), batches[0]["input_ids"].shape[1]

    assert shape(128 * 2048) == (128, 2048)
    assert shape(20_000) == (9, 2048)
    assert shape(3_000) == (8, 375)
    assert shape(300) == (4, 64)
    assert shape(3_000, samples=20) == (20, 150)
    assert shape(3_000, length=100) == (30, 100)
    with pytest.raises(BoxwoodError, match="at least 1 x 64 = 64 tokens, got 10"):
        shape(10)


def test_paths_may_be_strings(llama: Path, tmp_path: Path) -> None:
    """As everywhere else in Python."""
    prune_pretrained(str(llama), str(tmp_path / "out"), 0.5, decide=SIZE)
    masks = load_masks(str(tmp_path / "out"))
    assert masks.keys() == load_masks(tmp_path / "out").keys()
    batches = batches_for(str(llama), (tmp_path / "text.txt").read_text())
    model = boxwood.load(str(tmp_path / "out"))
    assert model(**batches[0]).logits.isfinite().all()
