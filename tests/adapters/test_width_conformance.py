"""Models of many families whose units were ranked by activations load, and compute what was built."""

import importlib.util
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.cli.shrink_pretrained import evened
from boxwood._internal.graph.ranking import best_units
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import unit_scores
from boxwood.criteria import squared_activations

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytest.importorskip("accelerate")

from boxwood._internal.adapters.shrunken import shrink_pretrained, write_folder  # noqa: E402

spec = importlib.util.spec_from_file_location(
    "tiny_decoders", Path(__file__).parent / "tiny_decoders.py"
)
tiny: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
FEW = {"num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"}  # fmt: skip
FAMILIES = {**tiny.DECODERS, **tiny.MIXTURES, **tiny.PAIRS}
# Half of every group, by hand; a width that is not here stays, since the class cannot say less.
STREAM = {"hidden_size": 16}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
HALF: dict[str, dict[str, int]] = {
    "LlamaForCausalLM": {**STREAM, **HEADS, "intermediate_size": 24},
    "MistralForCausalLM": {**STREAM, **HEADS, "intermediate_size": 24},
    "Qwen2ForCausalLM": {**STREAM, **HEADS, "intermediate_size": 24, "head_dim": 8},
    "Qwen3ForCausalLM": {**STREAM, **HEADS, "intermediate_size": 24},
    "Gemma2ForCausalLM": {**HEADS, "intermediate_size": 24, "hidden_size": 32},
    "Gemma3ForCausalLM": {**HEADS, "intermediate_size": 24, "hidden_size": 32},
    "Phi3ForCausalLM": {**STREAM, "intermediate_size": 24},
    "GPT2LMHeadModel": {"n_embd": 16, "n_head": 2, "n_inner": 64},
    "GPTNeoXForCausalLM": {**STREAM, "num_attention_heads": 2, "intermediate_size": 24},
    "GPTNeoForCausalLM": {**STREAM, "num_heads": 2, "intermediate_size": 64},
    "OPTForCausalLM": {"ffn_dim": 24, "hidden_size": 32},
    "FalconForCausalLM": {"ffn_hidden_size": 64, "hidden_size": 32},
    "Olmo2ForCausalLM": {**STREAM, **HEADS, "intermediate_size": 24},
    "SmolLM3ForCausalLM": {**STREAM, **HEADS, "intermediate_size": 24},
    "Cohere2ForCausalLM": {**STREAM, **HEADS, "intermediate_size": 24},
    "DeepseekV3ForCausalLM": {**STREAM, "intermediate_size": 24, "kv_lora_rank": 8},
    "GptOssForCausalLM": {**STREAM, **HEADS},
    "T5ForConditionalGeneration": {"d_ff": 24, "num_heads": 2},
    "BartForConditionalGeneration": {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
}


def shallow(name: str) -> Any:
    """A model of two blocks, without the caches that would be outputs of their own."""
    settings = {n: min(v, 2) if n in FEW else v for n, v in FAMILIES[name].items()}
    for listed in ("layer_types", "attention_types"):
        if listed == "layer_types" and listed in settings:
            settings[listed] = settings[listed][:2]
        elif listed in settings:
            settings[listed] = [[["global", "local"], 1]]
    model = tiny.made(name, settings)
    for module in model.modules():
        config = vars(module).get("config")
        if getattr(config, "use_cache", False):
            config.use_cache = False
    return model


@pytest.mark.parametrize("name", HALF)
def test_a_folder_of_half_the_width(name: str, tmp_path: Path) -> None:
    """Heads, neurons and hidden channels by the squares of what they hand on; checked and loaded."""
    model = shallow(name)
    example: Any = tiny.IDS
    if model.config.is_encoder_decoder:
        example = {"input_ids": tiny.IDS, "decoder_input_ids": tiny.IDS}
    found = find_units(model, example)
    scores = unit_scores(found, squared_activations, batches=[example])
    done = shrink_pretrained(model, found, lambda m: best_units(found, scores, 0.5, multiple=m))
    write_folder(done.built, tmp_path / "small")
    again = type(model).from_pretrained(tmp_path / "small").eval()
    assert {field: getattr(again.config, field) for field in HALF[name]} == HALF[name]
    torch.testing.assert_close(tiny.logits(again), tiny.logits(done.small), rtol=0, atol=1e-5)
    assert tiny.written(again) == tiny.written(done.built, use_cache=False)


def test_neurons_heads_and_channels_by_hand() -> None:
    """The ranking of each group is that of the mean squares that the layers after it read."""
    model = shallow("LlamaForCausalLM")
    found = find_units(model, tiny.IDS)
    scores = unit_scores(found, squared_activations, batches=[tiny.IDS], normalise=False)
    read: dict[str, torch.Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, n=name: read.__setitem__(n, args[0].double().square().sum((0, 1)))
        )
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    with torch.no_grad():
        model(tiny.IDS)
    for handle in handles:
        handle.remove()
    by_size = {len(group.units): scores[group.units] for group in found.groups}
    last = model.config.num_hidden_layers - 1
    assert by_size[48] == pytest.approx(
        read[f"model.layers.{last}.mlp.down_proj"].numpy(), rel=1e-4
    )
    per_head = read[f"model.layers.{last}.self_attn.o_proj"].view(2, -1).sum(1)  # two queries a key
    assert by_size[2] == pytest.approx(per_head.numpy(), rel=1e-4)
    stream = [
        each for n, each in read.items() if n.rpartition(".")[2] not in ("o_proj", "down_proj")
    ]
    assert by_size[32] == pytest.approx(sum(stream).numpy(), rel=1e-4)


def folder_of(name: str, place: Path) -> Path:
    return tiny.folder_of(shallow(name), place / name)


def shrink(folder: Path, out: Path, *more: object) -> dict[str, Any]:
    call = ("shrink", folder, out, "--by", "activations", "--text", out.parent / "text.txt", "--no-repair", "--json")  # fmt: skip
    done = CliRunner().invoke(app, [str(each) for each in (*call, *more)])
    assert done.exit_code == 0, done.exception
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_neurons_of_experts_stay_where_nothing_is_known_of_them(tmp_path: Path) -> None:
    """A text says nothing about single neurons of experts that are one tensor."""
    folder = folder_of("OlmoeForCausalLM", tmp_path)
    said = shrink(folder, tmp_path / "small", "--keep", 0.5)
    assert said["loads"][0].startswith("Loads in transformers; in vLLM and llama.cpp's converter")
    assert any("experts" in name for name in said["whole"])
    config = transformers.AutoConfig.from_pretrained(tmp_path / "small")
    assert (config.intermediate_size, config.hidden_size) == (48, 16)


def test_widths_are_multiples(tmp_path: Path) -> None:
    """As kernels like them."""
    folder = folder_of("LlamaForCausalLM", tmp_path)
    shrink(folder, tmp_path / "small", "--keep", 0.6, "--multiple", 16)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "small")
    assert config.hidden_size % 16 == config.intermediate_size % 16 == 0
    assert config.intermediate_size < 48


def test_layers_keep_different_numbers_only_where_the_configuration_can_say_so(tmp_path: Path) -> None:  # fmt: skip
    """Gemma 3n lists the neurons of every layer; Llama has one number, the mean of what was chosen."""
    listed = tiny.made("Gemma3nForCausalLM", {
        **tiny.WIDE_HEADS, "num_hidden_layers": 2, "intermediate_size": [48, 48], "laurel_rank": 4,
        "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 64,
        "num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0, 0.0], "altup_num_inputs": 2, "sliding_window": 4,
    })  # fmt: skip
    llama = shallow("LlamaForCausalLM")
    for name, model in (("listed", listed), ("llama", llama)):
        for module in model.modules():
            if getattr(vars(module).get("config"), "use_cache", False):
                vars(module)["config"].use_cache = False
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.mul_(9)  # whose neurons hand on far more
        found = find_units(model, tiny.IDS)
        scores = unit_scores(found, squared_activations, batches=[tiny.IDS], normalise=False)

        def select(multiple: Any, found: Any = found, scores: Any = scores) -> Any:
            return best_units(found, scores, 0.7, multiple=multiple, ranked_together=True, protect=("*attn*",))  # fmt: skip

        done = shrink_pretrained(
            model, found, select, multiple=4, even=partial(evened, scores=scores, multiple=4)
        )
        write_folder(done.built, tmp_path / name)
        again = type(model).from_pretrained(tmp_path / name).eval()
        torch.testing.assert_close(tiny.logits(again), tiny.logits(done.small), rtol=0, atol=1e-5)
        kept = again.config.intermediate_size
        if name == "listed":
            assert kept[1] < kept[0] == 48
        else:
            assert 0 < kept < 48
            assert not done.whole
