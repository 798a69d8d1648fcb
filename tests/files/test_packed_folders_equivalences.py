"""A packed Hugging Face folder: no program takes it for a model by mistake, and Boxwood loads it."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import boxwood
from boxwood._internal.cli.main import app

transformers = pytest.importorskip("transformers")

IDS = torch.arange(12).view(2, 6)


def command(*arguments: object) -> None:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.exception


@pytest.mark.parametrize("shards", ["4KB", "1MB"])
def test_a_packed_folder_is_no_model_for_others_and_the_same_model_for_us(
    shards: str, tmp_path: Path
) -> None:
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, dtype="bfloat16",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "dense", max_shard_size=shards)
    command("prune", tmp_path / "dense", "--sparsity", "0.8", "--out", tmp_path / "pruned")
    command("pack", tmp_path / "pruned", "--out", tmp_path / "packed")
    names = {path.name for path in (tmp_path / "packed").iterdir() if path.is_file()}
    assert "PACKED.txt" in names
    assert not {name for name in names if name.startswith("model")}

    kind = transformers.LlamaForCausalLM
    with pytest.raises(OSError, match="no file named"):
        kind.from_pretrained(tmp_path / "packed")
    pruned = kind.from_pretrained(tmp_path / "pruned", dtype="auto").eval()
    ours = boxwood.load(tmp_path / "packed")
    assert ours.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(ours(IDS).logits, pruned(IDS).logits)

    command("unpack", tmp_path / "packed", "--out", tmp_path / "back")
    before, after = (
        {p.name: p.read_bytes() for p in (tmp_path / folder).iterdir() if p.is_file()}
        for folder in ("pruned", "back")
    )
    assert after == before


def test_a_folder_is_compiled_and_raced(tmp_path: Path) -> None:
    """As a file's function is; what is compiled says what the model says."""
    pytest.importorskip("llvmlite")
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path / "bert")
    command("compile", tmp_path / "bert", "--input", "2x6:32", "--out", tmp_path / "bert.bxw")
    with torch.no_grad():
        expected = model(IDS).last_hidden_state
    got = boxwood.load(tmp_path / "bert.bxw")(IDS)
    torch.testing.assert_close(got["last_hidden_state"], expected, rtol=1e-4, atol=1e-5)
    command("bench", tmp_path / "bert", "--sparsity", 0.5, "--turns", 1, "--json")
