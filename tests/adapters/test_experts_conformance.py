"""Mixtures with fewer experts load, and compute what the dense ones do when their routers pass these by."""

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

from boxwood._internal.adapters.expert_layers import expert_layers, expert_scores  # noqa: E402
from boxwood._internal.adapters.experts import (  # noqa: E402
    drop_experts,
    drop_experts_pretrained,
    least_experts,
)

spec = importlib.util.spec_from_file_location(
    "tiny_decoders", Path(__file__).parent / "tiny_decoders.py"
)
tiny: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
SCORED = {name: each for name, each in tiny.MIXTURES.items() if not name.startswith("Llama4")}
BATCHES = [{"input_ids": tiny.IDS}]
FIRST = "model.layers.0.mlp.experts"


def routed_past(model: Any, dropped: dict[str, tuple[int, ...]], patch: pytest.MonkeyPatch) -> None:
    """Let no token reach some experts: their logits are minus infinity."""
    linear, gone = torch.nn.functional.linear, {}
    for name, places in dropped.items():
        block = model.get_submodule(name.rpartition(".")[0])
        router = block.router if hasattr(block, "router") else block.gate
        gone[router.weight.data_ptr()] = list(places)
        if hasattr(router, "e_score_correction_bias"):
            router.e_score_correction_bias[list(places)] = -torch.inf

    def without(inputs: Any, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
        made = linear(inputs, weight, bias)
        if weight.data_ptr() in gone:
            made[..., gone[weight.data_ptr()]] = -torch.inf
        return made

    patch.setattr(torch.nn.functional, "linear", without)


@pytest.mark.parametrize("name", SCORED)
def test_a_folder_without_two_experts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored one by one or in one tensor, with shared experts, groups or biases of the router."""
    model = tiny.made(name, SCORED[name])
    dropped = least_experts(model, expert_scores(model, BATCHES), 2)
    model.save_pretrained(tmp_path / "dense")
    small = drop_experts_pretrained(model, tmp_path / "dense", tmp_path / "small", dropped)
    again = type(model).from_pretrained(tmp_path / "small").eval()
    got, words = tiny.logits(again), tiny.written(again)
    torch.testing.assert_close(got, tiny.logits(small), rtol=0, atol=1e-6)
    assert words == tiny.written(small, use_cache=False)
    assert not torch.allclose(got, tiny.logits(model), atol=1e-2)
    before = json.loads((tmp_path / "dense" / "config.json").read_text())
    after = json.loads((tmp_path / "small" / "config.json").read_text())
    (field,) = (each for each in after if after[each] != before[each])
    assert after[field] == before[field] - 2
    assert again.config.num_experts_per_tok == model.config.num_experts_per_tok
    routed_past(model, dropped, monkeypatch)
    torch.testing.assert_close(got, tiny.logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["OlmoeForCausalLM", "GptOssForCausalLM"])
def test_scores_are_those_of_the_paper(name: str) -> None:
    """Token by token, expert by expert, as the formula reads."""
    model = tiny.made(name, SCORED[name])
    layer = expert_layers(model)[FIRST]
    seen: list[Any] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args))
    with torch.no_grad():
        model(**BATCHES[0])
    handle.remove()
    ((hidden, chosen, gates),) = seen
    rows: dict[int, list[float]] = {}
    for token in range(len(hidden)):
        for expert, gate in zip(chosen[token].tolist(), gates[token], strict=True):
            with torch.no_grad():
                made = layer(hidden[token : token + 1], torch.tensor([[expert]]), torch.ones(1, 1))
            rows.setdefault(expert, []).append(float(gate * made.norm()))
    scores = expert_scores(model, BATCHES)[FIRST]
    wanted = [sum(rows.get(at, [0.0])) / max(len(rows.get(at, [])), 1) for at in range(len(scores))]
    assert list(scores) == pytest.approx(wanted, rel=1e-5)


def test_merging_an_expert_with_its_twin_changes_nothing() -> None:
    """Equal experts, of which one goes: the average is what both were; rows of the router stay."""
    model = tiny.made("MixtralForCausalLM", SCORED["MixtralForCausalLM"])
    with torch.no_grad():
        for layer in expert_layers(model).values():
            for tensor in layer.parameters():
                tensor[3] = tensor[1]
    dropped = dict.fromkeys(expert_layers(model), (3,))
    merged, plain = (drop_experts(model, dropped, merge=each) for each in (BATCHES, ()))
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=0, atol=1e-6)


def test_merging_is_weighted_by_tokens() -> None:
    """By hand: what goes is added to the most similar by how many tokens each was given."""
    model = tiny.made("OlmoeForCausalLM", SCORED["OlmoeForCausalLM"])
    layer = expert_layers(model)[FIRST]
    with torch.no_grad():
        layer.gate_up_proj[2] = layer.gate_up_proj[0]
        layer.down_proj[2] = 2 * layer.down_proj[0]  # the same direction: most similar to 0
    counts: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(
        lambda _, args: counts.append(torch.bincount(args[1].flatten(), minlength=4))
    )
    with torch.no_grad():
        model(**BATCHES[0])
    handle.remove()
    one, other = (float(counts[0][at]) for at in (0, 2))
    merged = drop_experts(model, dict.fromkeys(expert_layers(model), (2,)), merge=BATCHES)
    wanted = layer.down_proj[0] * (one + 2 * other) / (one + other)
    torch.testing.assert_close(expert_layers(merged)[FIRST].down_proj[0], wanted, rtol=1e-5, atol=1e-7)  # fmt: skip
    assert torch.equal(expert_layers(merged)[FIRST].down_proj[1], layer.down_proj[1])


def folder_of(name: str, place: Path, **more: Any) -> Path:
    return tiny.folder_of(
        tiny.made(name, {**tiny.MIXTURES, **tiny.DECODERS}[name] | more), place / name
    )


def shrink(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["shrink", *map(str, arguments)])


def test_the_command(tmp_path: Path) -> None:
    """What it prints, writes, and reports as JSON; the folder loads, its tokenizer too."""
    folder = folder_of("OlmoeForCausalLM", tmp_path)
    text = ("--text", tmp_path / "text.txt", "--samples", 4, "--length", 16)
    for out, more in (("plain", ()), ("merged", ("--merge",))):
        done = shrink(folder, tmp_path / out, "--drop-experts", 1, *text, *more, "--json")
        assert done.exit_code == 0, (done.output, done.exception)
        said = json.loads(done.stdout)
        assert said["perplexity"].keys() == {"dense", "merged" if more else "cut"}
        assert {len(places) for places in said["dropped"].values()} == {1}
        assert len(said["scores"]) == 4
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / out)
        assert again.config.num_experts == 3
        transformers.AutoTokenizer.from_pretrained(tmp_path / out)
        report = json.loads((tmp_path / out / "pruning.json").read_text())
        assert (report["dropped"], report["merged"]) == (said["dropped"], bool(more))
    dry = shrink(folder, "--drop-experts", 2, *text, "--dry-run")
    assert "share of the scores" in dry.stdout, dry.exception
    assert "Written" not in dry.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("OlmoeForCausalLM", ["--drop-experts", "4"], "Expected 1 to 2 of the 4 experts of a layer to drop, got 4; every token is routed to 2."),
        ("OlmoeForCausalLM", ["--drop-experts", "3"], "Expected 1 to 2 of the 4 experts of a layer to drop, got 3; every token is routed to 2."),
        ("DeepseekV3ForCausalLM", ["--drop-experts", "3"], "Expected the same number of experts to drop from each of 2 groups, got 3"),
        ("DeepseekV3ForCausalLM", ["--drop-experts", "6"], "Expected 1 to 4 of the 8 experts of a layer to drop, got 6; every token is routed to 2, out of groups of which each needs 2."),
        ("LlamaForCausalLM", ["--drop-experts", "1"], "Expected a mixture whose experts are stored in one tensor, got LlamaForCausalLM, which has none"),
        ("Llama4ForCausalLM", ["--drop-experts", "1"], "got Llama4TextExperts at 'model.layers.1.feed_forward.experts', whose experts all read every token"),
        ("OlmoeForCausalLM", ["--drop-experts", "1", "--by", "wanda"], "Expected no --by with --drop-experts"),
        ("OlmoeForCausalLM", ["--drop-experts", "1", "--drop-blocks", "1"], "got --drop-blocks and --drop-experts; give one"),
        ("OlmoeForCausalLM", ["--drop-blocks", "1", "--merge"], "--merge with --drop-experts, got one without the other"),
        ("OlmoeForCausalLM", ["--drop-experts", "1", "--samples", "99", "--length", "64"], "Expected calibration text of at least 99 x 64"),
    ],
)  # fmt: skip
def test_bad_input_to_the_command(name: str, arguments: list[str], words: str, tmp_path: Path) -> None:  # fmt: skip
    """One sentence that says what to do; nothing is written."""
    folder = folder_of(name, tmp_path)
    error = shrink(folder, tmp_path / "out", "--text", tmp_path / "text.txt", *arguments).exception
    assert isinstance(error, BoxwoodError), error
    assert words in str(error)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_layers_and_places_that_do_not_fit() -> None:
    """Of some layers only, of different numbers, of experts that are not there, and of one group alone."""
    model = tiny.made("OlmoeForCausalLM", SCORED["OlmoeForCausalLM"])
    layers = list(expert_layers(model))
    for dropped, words in (
        ({}, "Expected experts to drop in all of the layers model.layers.0.mlp.experts"),
        ({FIRST: (1,)}, "got model.layers.0.mlp.experts; the configuration has one number for all layers"),
        (dict.fromkeys(layers, (4,)), "Expected experts from 0 to 3 of 'model.layers.0"),
        (dict.fromkeys(layers, ()), "Expected 1 to 2 of the 4 experts of a layer to drop, got 0"),
        (dict.fromkeys(layers, (1,)) | {FIRST: (1, 2)}, r"the same number of experts to drop in every layer, got \[1, 2\]"),
    ):  # fmt: skip
        with pytest.raises(BoxwoodError, match=words):
            drop_experts(model, dropped)
    with pytest.raises(
        BoxwoodError, match=r"Expected scores for the layers of experts model\.layers"
    ):
        least_experts(model, {FIRST: (1.0, 2.0, 3.0, 4.0)}, 1)
    grouped = tiny.made("DeepseekV3ForCausalLM", SCORED["DeepseekV3ForCausalLM"])
    with pytest.raises(
        BoxwoodError, match=r"from each of the 2 groups of .*got \[0, 1\]; use least_exp"
    ):
        drop_experts(grouped, dict.fromkeys(expert_layers(grouped), (0, 1)))
