"""Models of many families without some of their blocks load, and compute what the dense ones do without."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from boxwood._internal.adapters.block_lists import block_lists  # noqa: E402
from boxwood._internal.adapters.depth import (  # noqa: E402
    block_influences,
    drop_blocks,
    greedy_blocks,
    without_blocks,
)
from boxwood._internal.adapters.depth_folders import drop_blocks_pretrained  # noqa: E402
from boxwood._internal.adapters.perplexity import perplexity  # noqa: E402
from boxwood._internal.adapters.resident import open_resident  # noqa: E402

spec = importlib.util.spec_from_file_location(
    "tiny_decoders", Path(__file__).parent / "tiny_decoders.py"
)
tiny: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
IDS, PAIRS, DECODERS, MIXTURES = tiny.IDS, tiny.PAIRS, tiny.DECODERS, tiny.MIXTURES
logits, made, written = tiny.logits, tiny.made, tiny.written

FAMILIES = {**DECODERS, **MIXTURES, **PAIRS}
LISTS = [
    (name, blocks)
    for name in FAMILIES
    for blocks in {
        "T5ForConditionalGeneration": ["encoder.block", "decoder.block"],
        "BartForConditionalGeneration": ["model.encoder.layers", "model.decoder.layers"],
    }.get(name, [None])
]
BATCH = {"input_ids": IDS}


def batches(model: Any) -> list[dict[str, torch.Tensor]]:
    return [BATCH | ({"labels": IDS} if model.config.is_encoder_decoder else {})]


@pytest.mark.parametrize(("name", "blocks"), LISTS)
def test_a_folder_without_two_blocks(name: str, blocks: str | None, tmp_path: Path) -> None:
    """It loads, and writes with its cache what the dense model writes without the blocks."""
    model = made(name, FAMILIES[name])
    scores = block_influences(model, batches(model), blocks=blocks)
    dropped = sorted(scores, key=lambda block: scores[block])[:2]
    model.save_pretrained(tmp_path / "dense", max_shard_size="40KB")
    done = drop_blocks_pretrained(tmp_path / "dense", tmp_path / "small", dropped)
    assert sorted(done.dropped) == sorted(dropped)
    again = type(model).from_pretrained(tmp_path / "small").eval()
    with without_blocks(model, dropped):
        assert torch.equal(logits(again), logits(model))
        assert written(again) == written(model, use_cache=False)
    assert not torch.equal(logits(again), logits(model))
    small = drop_blocks(model, dropped)
    assert equal_states(small, again)
    assert torch.equal(logits(small), logits(again))
    counts = {outer: len(each) for outer, each in block_lists(again)}
    whole = {outer: len(each) for outer, each in block_lists(model)}
    outer = dropped[0].rpartition(".")[0]
    assert counts == whole | {outer: whole[outer] - 2}


def equal_states(one: Any, other: Any) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "MixtralForCausalLM", "T5ForConditionalGeneration"])  # fmt: skip
def test_perplexity_of_a_folder_that_is_read_block_by_block(name: str, tmp_path: Path) -> None:
    """A model of which one block is in memory at a time computes what the whole one does."""
    model = made(name, FAMILIES[name])
    model.save_pretrained(tmp_path / "dense")
    blocks = "decoder.block" if name.startswith("T5") else None
    scores = block_influences(model, batches(model), blocks=blocks)
    assert block_influences(tmp_path / "dense", batches(model), blocks=blocks) == scores
    opened = open_resident(tmp_path / "dense", blocks=blocks)
    with opened.block_by_block() as streamed:
        assert perplexity(streamed, batches(model)) == perplexity(model, batches(model))
        assert all(
            parameter.is_meta
            for parameter in streamed.get_submodule(opened.blocks[-1]).parameters()
        )
    assert all(parameter.is_meta for parameter in opened.model.parameters())


def test_layer_types_and_places_of_blocks_follow(tmp_path: Path) -> None:
    """Lists with an entry per block, lists of places, and numbers of leading blocks, by hand."""
    cases = {
        "Gemma3ForCausalLM": ("model.layers.1", {"num_hidden_layers": 3, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
        "Qwen2MoeForCausalLM": ("model.layers.0", {"num_hidden_layers": 3, "mlp_only_layers": [0]}),
        "DeepseekV3ForCausalLM": ("model.layers.0", {"num_hidden_layers": 3, "first_k_dense_replace": 1}),
        "Llama4ForCausalLM": ("model.layers.0", {"num_hidden_layers": 3, "moe_layers": [0, 2]}),
        "BartForConditionalGeneration": ("model.decoder.layers.0", {"encoder_layers": 4, "decoder_layers": 2}),
    }  # fmt: skip
    for name, (dropped, fields) in cases.items():
        model = made(name, FAMILIES[name])
        untouched = model.config.to_dict()
        config = drop_blocks(model, [dropped]).config
        assert {field: getattr(config, field) for field in fields} == fields
        assert model.config.to_dict() == untouched
        model.save_pretrained(tmp_path / name)
        before = json.loads((tmp_path / name / "config.json").read_text())
        drop_blocks_pretrained(tmp_path / name, tmp_path / f"small {name}", [dropped])
        after = json.loads((tmp_path / f"small {name}" / "config.json").read_text())
        changed = {field for field in after if after[field] != before.get(field)}
        assert {field: after[field] for field in fields} == fields
        assert changed <= fields.keys() | {"layer_types", "no_rope_layers"}


def test_greedy_is_the_best_of_all_pairs_after_the_best_of_all() -> None:
    """Written down as it is in the paper: each step tries all that are left."""
    model = made("LlamaForCausalLM", FAMILIES["LlamaForCausalLM"])
    names = [f"model.layers.{place}" for place in range(4)]
    found = greedy_blocks(model, 2, [BATCH])
    gone: list[str] = []
    for name, value in found.items():
        tried = {each: perplexity(drop_blocks(model, [*gone, each]), [BATCH]) for each in names if each not in gone}  # fmt: skip
        assert min(tried, key=lambda each: tried[each]) == name
        assert tried[name] == value
        gone.append(name)


def test_influence_by_hand() -> None:
    """A block that adds nothing has none; the mean is over positions."""
    model = made("LlamaForCausalLM", FAMILIES["LlamaForCausalLM"])
    with torch.no_grad():
        for layer in (model.model.layers[2].self_attn.o_proj, model.model.layers[2].mlp.down_proj):
            layer.weight.zero_()
    scores = block_influences(model, [BATCH, {"input_ids": IDS[:1, :4]}])
    assert scores["model.layers.2"] == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        states = [
            model(input_ids=ids, output_hidden_states=True).hidden_states
            for ids in (IDS, IDS[:1, :4])
        ]
    cosines = torch.cat(
        [torch.cosine_similarity(each[0], each[1], dim=-1).flatten() for each in states]
    )
    assert scores["model.layers.0"] == pytest.approx(float(1 - cosines.double().mean()), abs=1e-6)
