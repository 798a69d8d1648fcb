"""A shrunken model of transformers loads with ``from_pretrained``, and computes the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.graph.examples import tensors_of
from boxwood._internal.graph.reparametrised import baked
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood.errors import BoxwoodError

transformers = pytest.importorskip("transformers")

from boxwood._internal.adapters.configuration_search import ConfigurationError  # noqa: E402
from boxwood._internal.adapters.configurations import configured  # noqa: E402
from boxwood._internal.adapters.shrunken import save_pretrained  # noqa: E402
from boxwood._internal.recipes.unit_selection import select_units  # noqa: E402

TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 40, "max_position_embeddings": 32}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 2}
IDS = torch.arange(12).view(2, 6)
PAIR = {"input_ids": IDS, "decoder_input_ids": IDS + 3}
IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
          "num_attention_heads": 4, "image_size": 16, "patch_size": 8}  # fmt: skip
MODELS: dict[str, tuple[dict[str, Any], Any, dict[str, int]]] = {
    # The fields, by hand, of half of every group.
    "LlamaForCausalLM": (GROUPED, IDS, {
        "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 4}),
    # Without a width of heads in its configuration; biases tie nothing.
    "Qwen2Model": (GROUPED, IDS, {
        "hidden_size": 16, "intermediate_size": 12, "num_attention_heads": 2, "head_dim": 4}),
    # The number of heads is in no size at all.
    "GPT2LMHeadModel": (
        {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 40, "n_positions": 32}, IDS,
        {"n_embd": 8, "n_head": 2}),
    "T5Model": ({"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4,
                 "vocab_size": 40}, PAIR, {"d_model": 16, "d_ff": 12, "num_heads": 2, "d_kv": 4}),
    "ViTModel": (VISION, IMAGES, {
        "hidden_size": 16, "intermediate_size": 12, "num_attention_heads": 2}),
    # Sizes in a list.
    "MobileViTModel": (
        {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 16, 16, 24, 32, 32, 64],
         "image_size": 64}, torch.nn.functional.interpolate(IMAGES, 64), {"hidden_sizes": [8, 12, 16]}),
}  # fmt: skip


def made(name: str, settings: dict[str, Any]) -> Any:
    kind = getattr(transformers, name)
    config = kind.config_class(**settings, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config.use_cache = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


def outputs(model: Any, example: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        said = model(**example) if isinstance(example, dict) else model(example)
        return list(tensors_of(said))


@pytest.mark.parametrize("name", MODELS)
def test_from_pretrained_gives_the_shrunken_model(name: str, tmp_path: Path) -> None:
    settings, example, fields = MODELS[name]
    model = made(name, settings)
    small = shrink(model, select_units(find_units(model, example), 0.5))
    save_pretrained(small, tmp_path / "small", example)
    again = getattr(transformers, name).from_pretrained(tmp_path / "small").eval()
    assert {field: getattr(again.config, field) for field in fields} == fields
    assert {n: p.shape for n, p in again.named_parameters()} == {
        n: p.shape for n, p in small.named_parameters()
    }
    for ours, theirs in zip(outputs(small, example), outputs(again, example), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert model.config.to_dict() == made(name, settings).config.to_dict()


def shrunken(folder: Path, keep: float, *more: object) -> Result:
    """Shrink a folder by magnitude into one next to it, by the command."""
    small = folder.parent / "small"
    call = ("shrink", folder, small, "--keep", keep, "--by", "magnitude", *more)
    return CliRunner().invoke(app, [str(word) for word in call])


@pytest.mark.parametrize(
    ("name", "dtype", "layers"),
    [
        ("LlamaForCausalLM", torch.bfloat16, 24),
        ("Qwen2ForCausalLM", torch.bfloat16, 8),
        ("MistralForCausalLM", torch.float32, 8),
    ],
)
def test_deep_models_in_their_own_precision(
    name: str, dtype: torch.dtype, layers: int, tmp_path: Path
) -> None:
    """As real folders are: up to 24 layers, half precision, and rotary frequencies that stay in float32."""
    made(name, {**GROUPED, "num_hidden_layers": layers}).to(dtype).save_pretrained(tmp_path / "big")
    done = shrunken(tmp_path / "big", 0.7, "--json")
    assert done.exit_code == 0, done.exception
    told = json.loads(done.stdout)["equivalence"]
    assert told["equivalent"]
    # Norms compute in float32 whatever the weights are; gradients are compared without that.
    assert told["gradients"]["difference"] <= told["gradients"]["tolerance"] == 1e-9
    again = getattr(transformers, name).from_pretrained(tmp_path / "small")
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert {b.dtype for b in again.buffers()} == {torch.float32}


def test_sizes_that_a_class_does_not_allow_are_refused_with_the_nearest() -> None:
    """Eleven is no multiple of two heads; from_pretrained would refuse it."""
    model = made("LlamaForCausalLM", GROUPED)
    small = shrink(model, select_units(find_units(model, IDS), 0.7))
    with pytest.raises(ConfigurationError, match=r"got: .*not a multiple.*are 10 and 12") as said:
        configured(small, IDS)
    assert ("model.norm.weight", 0) in said.value.axes
    assert said.value.multiple == 2


@pytest.mark.parametrize(
    ("name", "settings", "fields", "whole"),
    [
        # Scales its embedding by the root of the hidden size.
        ("GemmaForCausalLM", {**GROUPED, "head_dim": 4},
         {"hidden_size": 16, "intermediate_size": 17, "num_attention_heads": 2}, 1),
        # Two fields say the hidden size, and only together.
        ("OPTForCausalLM", {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2,
                            "num_attention_heads": 4, "vocab_size": 40, "word_embed_proj_dim": 16,
                            "max_position_embeddings": 32},
         {"hidden_size": 16, "ffn_dim": 17, "num_attention_heads": 4}, 3),
        # A hidden size of 11 becomes the next multiple of its two heads.
        ("LlamaForCausalLM", GROUPED,
         {"hidden_size": 12, "intermediate_size": 17, "num_attention_heads": 2}, 0),
    ],
)  # fmt: skip
def test_more_is_kept_where_a_configuration_asks_for_it(
    name: str, settings: dict[str, Any], fields: dict[str, int], whole: int, tmp_path: Path
) -> None:
    made(name, settings).save_pretrained(tmp_path / "big")
    done = shrunken(tmp_path / "big", 0.7, "--json", "--multiple", 1)
    assert done.exit_code == 0, done.exception
    assert len(json.loads(done.stdout)["whole"]) == whole
    again = getattr(transformers, name).from_pretrained(tmp_path / "small")
    assert {field: getattr(again.config, field) for field in fields} == fields


def test_a_model_that_no_configuration_makes_smaller_is_refused(tmp_path: Path) -> None:
    """Bloom has one field for the width of the stream, of heads and of hidden layers."""
    settings = {"hidden_size": 16, "n_layer": 2, "n_head": 4, "vocab_size": 40}
    made("BloomForCausalLM", settings).save_pretrained(tmp_path / "big")
    done = shrunken(tmp_path / "big", 0.7)
    assert isinstance(done.exception, ConfigurationError)
    assert not (tmp_path / "small").exists()


def test_layers_of_different_sizes_are_refused(tmp_path: Path) -> None:
    """One field cannot say two sizes; nothing is written."""
    model = made("LlamaForCausalLM", GROUPED)
    with torch.no_grad():
        model.model.layers[0].mlp.gate_proj.weight.mul_(0.1)
    selection = select_units(
        find_units(model, IDS), 0.7, ranked_together=True, protect=("*self_attn*",)
    )
    with pytest.raises(BoxwoodError, match=r"LlamaForCausalLM can say, got no value of interm"):
        save_pretrained(shrink(model, selection), tmp_path / "small", IDS)
    assert not (tmp_path / "small").exists()


def test_heads_without_a_field_are_refused_and_protected() -> None:
    """BERT derives the width of a head from the width of the stream."""
    model = made("BertModel", TEXT)
    found = find_units(model, IDS)
    with pytest.raises(BoxwoodError, match=r"no value of hidden_size for .*query.*from 16 to 8"):
        configured(shrink(model, select_units(found, 0.5)), IDS)
    small = shrink(model, select_units(found, 0.5, protect=("*attention*",)))
    assert configured(small, IDS).config.intermediate_size == 12


def test_a_number_that_the_code_computes_with() -> None:
    """Sizes can be right where the outputs are not."""
    model = made("LlamaForCausalLM", GROUPED)
    small = shrink(model, select_units(find_units(model, IDS), 0.5))
    small.config.rms_norm_eps = 1.0  # its modules hold the old one
    with pytest.raises(BoxwoodError, match="to compute the same, got outputs that differ by"):
        configured(small, IDS)


def test_command_line(tmp_path: Path) -> None:
    """A folder becomes a folder, with its tokenizer; what is there already is left alone."""
    model = made("LlamaForCausalLM", GROUPED)
    model.config.use_cache = True
    model.save_pretrained(tmp_path / "llama", max_shard_size="4KB")  # several shards and an index
    (tmp_path / "llama" / "tokenizer_config.json").write_text('{"a": 1}')
    done = shrunken(tmp_path / "llama", 0.5, "--json")
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert (config["hidden_size"], config["use_cache"]) == (8, True)
    assert (tmp_path / "small" / "tokenizer_config.json").read_text() == '{"a": 1}'
    assert not list((tmp_path / "small").glob("*.index.json"))
    assert "new or an empty folder" in str(shrunken(tmp_path / "llama", 0.5).exception)


def test_masked_models_are_written_with_plain_weights(tmp_path):
    """Masks are in no configuration: the message says how to write what they leave."""
    model = made("LlamaForCausalLM", GROUPED)
    layer = model.model.layers[0].mlp.down_proj
    torch.nn.utils.prune.random_unstructured(layer, "weight", 0.3)
    small = shrink(model, select_units(find_units(model, IDS), 0.5))
    with pytest.raises(BoxwoodError, match=r"or write boxwood\.structure\.baked\(sm"):
        save_pretrained(small, tmp_path, IDS)
    save_pretrained(baked(small), tmp_path, IDS)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(again(IDS).logits, small(IDS).logits, atol=1e-6)
