"""``boxwood evaluate``: what transformers' own loss says, piece by piece, and what is printed of it."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood.errors import BoxwoodError, MissingDependency

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("accelerate")

from boxwood._internal.adapters.evaluating import encode_text, evaluate_pretrained  # noqa: E402
from boxwood._internal.adapters.zero_shot import zero_shot  # noqa: E402

LETTERS = "abcdefghijklmnopqrstuvwxyz .?"
TEXT = "the quick brown fox jumps over the lazy dog. " * 4  # 180 letters


def write_llama(folder: Path, seed: int, **more: Any) -> Path:
    """A tiny Llama of random weights with a tokenizer of letters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                **{
                    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
                    "num_attention_heads": 2, "vocab_size": 30, "max_position_embeddings": 16,
                    "bos_token_id": 29, "eos_token_id": 29, **more,
                }
            )
        )  # fmt: skip
        model.model.embed_tokens.weight.data.mul_(50)  # so that predictions differ from even ones
    model.save_pretrained(folder)
    places = {letter: place for place, letter in enumerate(LETTERS)} | {"<s>": 29}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(places, unk_token="?"))  # noqa: S106
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    plain.decoder = tokenizers.decoders.Fuse()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="?", bos_token="<s>", eos_token="<s>"  # noqa: S106
    )  # fmt: skip
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model, two others, and a text."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("dense", "one", "two")):
        write_llama(root / name, seed)
    (root / "fox.txt").write_text(TEXT)
    return root


def naive(folder: Path, text: str, length: int, stride: int) -> list[float]:
    """Nats of every token but the first, one call for each token."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    ids = [LETTERS.index(letter) for letter in text]
    found = []
    for place in range(1, len(ids)):
        # The earliest window that predicts this token.
        start = max(0, math.ceil((place - length) / stride)) * stride
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:place]])).logits[0, -1]
        found.append(-float(logits.log_softmax(0)[ids[place]]))
    return found


@pytest.mark.parametrize("stride", [16, 5])
def test_it_is_the_model_s_own_probabilities(stride: int, folders: Path) -> None:
    """Token by token, whatever the stride and the batch."""
    nats = naive(folders / "dense", TEXT, 16, stride)
    for batch in (1, 3):
        found = evaluate_pretrained(
            folders / "dense", {"fox": TEXT}, length=16, stride=stride, batch=batch
        ).texts["fox"]
        pieces = [nats[start : start + 16] for start in range(0, len(nats), 16)]
        assert found.nats == pytest.approx([sum(each) for each in pieces], rel=1e-5)
        assert found.tokens == tuple(map(len, pieces))
        assert found.bytes == 179
        bits = sum(nats) / math.log(2) / 179
        assert found.bits_per_byte == pytest.approx(bits, rel=1e-5)


def test_the_beginning_is_predicted_where_windows_begin_with_its_token(folders: Path) -> None:
    """It takes a place of the window."""
    found = evaluate_pretrained(folders / "dense", {"fox": TEXT}, begin=True).texts["fox"]
    assert sum(found.tokens) == found.bytes == 180
    model = transformers.LlamaForCausalLM.from_pretrained(folders / "dense").eval()
    ids = torch.tensor([LETTERS.index(letter) for letter in TEXT])
    with torch.no_grad():
        logits = model(torch.cat([torch.tensor([29]), ids[16:31]])[None]).logits[0]
    nats = torch.nn.functional.cross_entropy(logits, ids[16:32], reduction="sum")
    assert found.nats[1] == pytest.approx(float(nats), rel=1e-5)


def test_the_beginning_of_a_text_in_bytes(folders: Path) -> None:
    """Tokens that are taken, and the first one, in UTF-8."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders / "dense")
    taken = encode_text(tokenizer, "the fox", tokens=3)
    assert (taken.ids.tolist(), taken.bytes, taken.first) == ([19, 7, 4], 3, 1)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *(str(each) for each in arguments)])


def test_several_models_seeds_and_the_page(folders: Path, tmp_path: Path) -> None:
    """JSON, table and page have one estimate: over pieces, and over folders of one name."""
    given = (
        folders / "dense",
        f"m={folders / 'one'}",
        f"m={folders / 'two'}",
        "--text",
        folders / "fox.txt",
    )
    done = run(*given, "--length", 16, "--json")
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    of = {folder: np.array(naive(folders / folder, TEXT, 16, 16)) for folder in ("dense", "one", "two")}  # fmt: skip
    dense, ours = found["rows"]
    assert (found["against"], dense["difference"], ours["seeds"]) == ("dense", None, 2)
    assert dense["perplexity"]["estimate"] == pytest.approx(math.exp(of["dense"].mean()), rel=1e-5)
    mean = (of["one"].mean() + of["two"].mean()) / 2
    assert ours["nats_per_token"]["estimate"] == pytest.approx(mean, rel=1e-5)
    assert ours["difference"]["estimate"] == pytest.approx(mean - of["dense"].mean(), rel=1e-4)
    # The ratio estimator by hand: residuals of pieces, m / (m - 1).
    sums = np.array([of["dense"][s : s + 16].sum() for s in range(0, 179, 16)])
    sizes = np.array([16] * 11 + [3])
    rest = sums - of["dense"].mean() * sizes
    error = math.sqrt(12 / 11 * (rest**2).sum()) / 179
    reach = float(t.ppf(0.975, 11)) * error
    assert dense["nats_per_token"]["high"] == pytest.approx(of["dense"].mean() + reach, rel=1e-5)
    assert [each["parameters"] for each in found["folders"]] == [1048] * 3
    table = run(*given, "--length", 16, "--report", tmp_path / "a.html") if _charts() else run(*given, "--length", 16)  # fmt: skip
    assert table.exit_code == 0, table.exception
    # Long paths of the folders can push the interval to the next line.
    assert f"{dense['perplexity']['estimate']:.2f}" in table.stdout
    if _charts():
        page = (tmp_path / "a.html").read_text()
        assert f"{ours['difference']['estimate']:+.4f} [" in page
        assert f"{dense['perplexity']['estimate']:.2f} [" in page


def _charts() -> bool:
    return importlib.util.find_spec("vl_convert") is not None


def test_bad_input(folders: Path, tmp_path: Path) -> None:
    """Each is one sentence; no page is written."""
    text = ("--text", folders / "fox.txt")
    short = tmp_path / "short.txt"
    short.write_text("the fox")
    wide = write_llama(tmp_path / "wide", 0)
    config = json.loads((wide / "config.json").read_text())
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text(
        json.dumps({"model_type": "bert", "architectures": ["BertModel"]})
    )
    narrow = write_llama(tmp_path / "narrow", 0, vocab_size=10, bos_token_id=0, eos_token_id=0)
    (wide / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8}))
    dense = folders / "dense"
    for arguments, words in (
        ((dense,), "--text or --tasks to measure with, got neither"),
        ((dense, "--text", short), "at least 17 tokens for one piece of 16, got 7"),
        ((dense, *text, "--tokens", 500), "at least 500 tokens, got 180"),
        ((dense, *text, "--stride", 17), r"a stride in [1, 16], so that no token is left out, got 17"),
        ((dense, *text, "--length", 17), "a length in [1, 16], which is what the model"),
        ((tmp_path / "gone", *text), "a folder with config.json at"),
        ((dense, dense, *text), "each folder once"),
        ((encoder, *text), "predicts the next token"),
        ((narrow, *text), "a tokenizer of at most 10 tokens"),
        ((dense, *text, "--text", folders / "fox.txt"), "texts of different names, got fox twice"),
        ((f"a={dense}", f"a={folders / 'one'}", f"b={folders / 'two'}", *text, "--against", "a"), "one folder to compare with, got 2 of the name 'a'"),
        ((dense, *text, "--dtype", "half"), "--dtype float32, bfloat16, float16, got 'half'"),
    ):  # fmt: skip
        done = run(*arguments)
        assert isinstance(done.exception, BoxwoodError), (arguments, done.output)
        assert words in str(done.exception)
    assert evaluate_pretrained(wide, {"fox": TEXT}).texts["fox"].tokens[0] == 8


def test_tasks_without_lm_eval(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependency, match=r"pip install 'boxwood\[evaluation\]'"):
        zero_shot(folders / "dense", ["piqa"])


def test_tasks_through_lm_eval(folders: Path, tmp_path: Path) -> None:
    """A task of one's own, with data of one's own: its accuracy is that of the model's probabilities."""
    pytest.importorskip("lm_eval")
    rows = [
        {"asked": f"the {word}", "choices": [" fox", " dog"], "gold": place % 2}
        for place, word in enumerate(("quick", "brown", "lazy", "over", "jumps"))
    ]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "pets.yaml").write_text(
        f"""task: pets
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "rows.json"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{asked}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list:
  - metric: acc
"""
    )
    model = transformers.LlamaForCausalLM.from_pretrained(folders / "dense").eval()
    right = 0
    for row in rows:
        nats = []
        for choice in row["choices"]:
            ids = torch.tensor([LETTERS.index(letter) for letter in row["asked"] + choice])
            with torch.no_grad():
                logs = model(ids[None]).logits[0].log_softmax(1)
            nats.append(float(logs[-5:-1].gather(1, ids[-4:, None]).sum()))
        right += nats.index(max(nats)) == row["gold"]
    (score,) = zero_shot(folders / "dense", ["pets"], task_folder=tmp_path)
    assert (score.task, score.metric, score.examples) == ("pets", "acc", 5)
    assert score.value == pytest.approx(right / 5)
    with pytest.raises(BoxwoodError, match="tasks that lm-eval knows, got cats"):
        zero_shot(folders / "dense", ["cats"], task_folder=tmp_path)
