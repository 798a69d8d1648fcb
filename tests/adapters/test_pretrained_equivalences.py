"""A folder pruned block by block is the model pruned as a whole, and loads as any other."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from boxwood._internal.cli.prune_blocks import decision
from boxwood._internal.core.allocation import uniform
from boxwood._internal.core.allocation_by_layer import OutlierWeighed
from boxwood._internal.core.call import Call
from boxwood._internal.core.granularity import Elements, Granularity, NofM, PerRow
from boxwood._internal.core.heavy_tails import tail_exponent
from boxwood._internal.files.mask_files import load_masks
from boxwood._internal.model.block_methods import with_tuning
from boxwood._internal.model.blockwise import (
    by_criterion,
    by_sparse_gpt,
    states_before,
    through_blocks,
)
from boxwood._internal.model.evidence.activations import input_norm
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.mask_refinement import refine_masks
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood._internal.model.reconstruct import (
    load_,
    prune_and_reconstruct,
    prune_by_alps,
    reconstruct,
)
from boxwood.criteria import magnitude, ria, wanda
from boxwood.errors import BoxwoodError, SelectionWarning

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from boxwood._internal.adapters.heavy_tails import heavy_tail_sparsities  # noqa: E402
from boxwood._internal.adapters.outliers import outlier_sparsities  # noqa: E402
from boxwood._internal.adapters.pretrained import prune_pretrained  # noqa: E402
from boxwood._internal.adapters.resident import open_resident  # noqa: E402

WANDA = Call.of(by_criterion)
SPARSE_GPT = Call.of(by_sparse_gpt)
METHODS = {
    "wanda": WANDA,
    "2:4": Call.of(by_criterion, granularity=NofM(2, 4)),
    "sparsegpt": SPARSE_GPT,
    **{by: decision(by, 0.5, None)[1] for by in ("ria", "alps", "dsnot")},
    **{f"{by} 2:4": decision(by, None, "2:4")[1] for by in ("alps", "dsnot")},
    "refit": decision("wanda", 0.5, None, refit=True)[1],
}


def llama(**more: object) -> object:
    return transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=40, max_position_embeddings=32, **more,
    )  # fmt: skip


CONFIGS = {
    "llama": llama(tie_word_embeddings=True),
    # Odd and even layers get other masks and other positions.
    "gemma": transformers.Gemma3TextConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, vocab_size=40, sliding_window=3, pad_token_id=0,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gpt2": transformers.GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=40, n_positions=32),
    "bert": transformers.BertConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        vocab_size=40, max_position_embeddings=32,
    ),
}  # fmt: skip
CLASSES = {
    "llama": "LlamaForCausalLM",
    "gemma": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertModel",
}


def built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = getattr(transformers, CLASSES[name])(CONFIGS[name]).eval()
        # Norms and biases start at 1 and 0, which would hide a mistake.
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def saved(name: str, folder: Path, **settings: object) -> nn.Module:
    model = built(name)
    model.save_pretrained(folder, **settings)
    return model


def tokens() -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(40, (6, 10), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": ids[:4]}, {"input_ids": ids[4:, :7]}]


def names_by_block(model: nn.Module) -> list[list[str]]:
    """Weights of linear layers of each block, written down by hand for each architecture."""
    inside = {
        "Llama": [f"model.layers.{{}}.self_attn.{x}_proj" for x in "qkvo"]
        + [f"model.layers.{{}}.mlp.{x}_proj" for x in ("gate", "up", "down")],
        "GPT2L": [f"transformer.h.{{}}.{x}" for x in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")],
        "BertM": [f"encoder.layer.{{}}.attention.self.{x}" for x in ("query", "key", "value")]
        + [f"encoder.layer.{{}}.{x}.dense" for x in ("attention.output", "intermediate", "output")],
    }  # fmt: skip
    inside["Gemma"] = inside["Llama"]
    found = inside[type(model).__name__[:5]]
    return [[f"{name.format(place)}.weight" for name in found] for place in range(3)]


def turned(model: nn.Module) -> nn.Module:
    """GPT-2 with linear layers in place of its own kind."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == "Conv1D":
                layer = nn.Linear(*child.weight.shape)
                layer.weight.data, layer.bias.data = (
                    child.weight.data.T.contiguous(),
                    child.bias.data,
                )
                setattr(parent, name, layer)
    return model


def whole(name: str, decide: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Prune the weights of one block after the other with the whole model in memory."""
    model, masks = turned(built(name)), {}
    model.config.use_cache = False
    for names in names_by_block(model):

        def layers(module: nn.Module, names: list[str] = names) -> dict[str, nn.Parameter]:
            return {name: module.get_parameter(name) for name in names}

        if decide in ("sparsegpt", "alps", "alps 2:4"):
            by = prune_and_reconstruct if decide == "sparsegpt" else prune_by_alps
            grouped = NofM(2, 4) if decide.endswith("2:4") else None
            done = by(model, 0.5, tokens(), layers=layers, grouped=grouped)
            load_(model, done.weights)
            masks |= done.masks
        else:
            granularity: Granularity = {"ria": Elements()}.get(decide, PerRow())
            granularity = NofM(2, 4) if decide.endswith("2:4") else granularity
            criterion = ria if decide == "ria" else wanda
            found = find_masks(
                model, 0.5, criterion=criterion, granularity=granularity, allocation=uniform, layers=layers,
                batches=tokens(),
            )  # fmt: skip
            if decide == "dsnot":
                found = refine_masks(model, found, tokens())
            if decide == "dsnot 2:4":
                found = refine_masks(model, found, tokens(), grouped=NofM(2, 4))
            if decide == "refit":
                load_(model, reconstruct(model, found, tokens()))
            apply_masks_(model, found)
            masks |= found
    return model, masks


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("decide", METHODS)
def test_one_block_in_memory_is_the_whole_model_in_memory(
    name: str, decide: str, tmp_path: Path
) -> None:
    """Weights and masks are bit for bit those of the model that is pruned as a whole."""
    saved(name, tmp_path / "dense")
    how = METHODS[decide]
    rows = prune_pretrained(tmp_path / "dense", tmp_path / "out", 0.5, decide=how, batches=tokens())
    model, masks = whole(name, decide)
    loaded = type(model).from_pretrained(tmp_path / "out").eval()
    found = turned(loaded).state_dict()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    stored = load_masks(tmp_path / "out")
    assert stored.keys() == masks.keys() == {row.name for row in rows}
    for key, mask in masks.items():
        assert torch.equal(stored[key].T if name == "gpt2" else stored[key], mask)
        assert (
            int(mask.sum())
            == next(row.kept for row in rows if row.name == key)
            == mask.numel() // 2
        )
        if decide.endswith("2:4"):
            assert (mask.view(len(mask), -1, 4).sum(2) == 2).all()
    assert torch.equal(loaded(**tokens()[0])[0], model(**tokens()[0])[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_kept_keeps_its_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    """Weights in 16 bits are pruned in float32 and stored as they were, but for the zeros."""
    model = built("llama").to(dtype)
    model.save_pretrained(tmp_path / "dense")
    how = Call.of(by_criterion, criterion=magnitude, granularity=Elements())
    prune_pretrained(tmp_path / "dense", tmp_path / "out", 0.3, decide=how)
    after = type(model).from_pretrained(tmp_path / "out", dtype=dtype).state_dict()
    masks = load_masks(tmp_path / "out")
    for name, before in model.state_dict().items():
        mask = masks.get(name, torch.ones_like(before, dtype=torch.bool))
        assert torch.equal(after[name], before.masked_fill(~mask, 0))
        kept = before[mask].abs()
        assert name not in masks or kept.min() >= before[~mask].abs().max()


def test_what_comes_next_sees_weights_as_they_are_stored(tmp_path: Path) -> None:
    """Adjusted weights are rounded to the stored type before the next block is pruned on them."""
    built("llama").to(torch.bfloat16).save_pretrained(tmp_path / "dense")
    prune_pretrained(tmp_path / "dense", tmp_path / "out", 0.5, decide=SPARSE_GPT, batches=tokens())
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(tmp_path / "dense", dtype=torch.float32, use_cache=False).eval()
    for names in names_by_block(model):
        done = prune_and_reconstruct(
            model, 0.5, tokens(),
            layers=lambda module, names=names: {name: module.get_parameter(name) for name in names},
        )  # fmt: skip
        load_(model, {name: w.bfloat16().float() for name, w in done.weights.items()})
    found = load(tmp_path / "out", dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(found[n].float(), value) for n, value in model.state_dict().items())


def test_sharded_is_unsharded(tmp_path: Path) -> None:
    """However the files are cut, the tensors and masks are the same, and so is every shard's cut."""
    saved("llama", tmp_path / "one")
    saved("llama", tmp_path / "many", max_shard_size="4KB")
    shards = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 4
    for name in ("one", "many"):
        prune_pretrained(
            tmp_path / name, tmp_path / f"{name}-out", 0.5, decide=SPARSE_GPT, batches=tokens(),
            skip=("*.o_proj.weight",),
        )  # fmt: skip
    masks = [load_masks(tmp_path / f"{name}-out") for name in ("one", "many")]
    assert masks[0].keys() == masks[1].keys()
    assert len(masks[0]) == 18
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())
    load = transformers.AutoModelForCausalLM.from_pretrained
    one, many = (load(tmp_path / f"{name}-out").state_dict() for name in ("one", "many"))
    assert all(torch.equal(value, many[name]) for name, value in one.items())
    assert sorted(path.name for path in (tmp_path / "many-out").glob("*.safetensors")) == shards


def test_a_bare_model_and_one_with_a_head_share_their_files(tmp_path: Path) -> None:
    """Names without the prefix of the model with a head, as on the hub, are found and kept."""
    model = saved("gpt2", tmp_path / "dense")
    model.transformer.save_pretrained(tmp_path / "bare")
    text = json.loads((tmp_path / "bare" / "config.json").read_text())
    text["architectures"] = ["GPT2LMHeadModel"]
    (tmp_path / "bare" / "config.json").write_text(json.dumps(text))
    for name in ("dense", "bare"):
        prune_pretrained(tmp_path / name, tmp_path / f"{name}-out", 0.5, batches=tokens())
    load = transformers.AutoModelForCausalLM.from_pretrained
    one, other = (load(tmp_path / f"{name}-out").state_dict() for name in ("dense", "bare"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert "h.0.mlp.c_fc.weight" in load_masks(tmp_path / "bare-out")


def test_one_block_is_in_memory(tmp_path: Path) -> None:
    """While a block is pruned all other weights are away, and so are the embeddings."""
    saved("llama", tmp_path / "dense")
    opened = open_resident(tmp_path / "dense")
    count = sum(p.numel() for p in opened.model.model.layers[0].parameters())

    def there() -> int:
        return sum(p.numel() for p in opened.model.parameters() if not p.is_meta)

    assert there() == 0
    with opened.loading_when_called() as model:
        model.model.embed_tokens(torch.tensor([[1]]))
        assert there() == count + 40 * 16
    assert there() == 0
    for block in opened.resident():
        assert there() == count
        del block
    assert there() == 0


def test_blocks_with_more_outliers_stay_denser(tmp_path: Path) -> None:
    """Shares are those of the dense model's Wanda scores; the total is what was asked for."""
    model = built("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[:2] *= 50
    model.save_pretrained(tmp_path / "dense")
    weighed = OutlierWeighed(spread=0.2)
    found = outlier_sparsities(tmp_path / "dense", 0.5, tokens(), weighed=weighed)
    shares = []
    model.config.use_cache = False
    for names in names_by_block(model):
        weights = {name: model.get_parameter(name) for name in names}
        norms = input_norm(Calibration(model, weights, tokens()))
        flat = torch.cat([(weights[n].abs() * norms[n]).flatten() for n in names]).double()
        shares.append(float((flat > 5 * flat.mean()).double().mean()))
    low, high = min(shares), max(shares)
    scaled = [(share - low) / (high - low) for share in shares]
    wanted = [0.5 - 0.4 * (each - sum(scaled) / 3) for each in scaled]
    assert list(found) == [f"model.layers.{place}" for place in range(3)]
    assert list(found.values()) == pytest.approx(wanted)
    assert sum(found.values()) / 3 == pytest.approx(0.5)
    assert min(found, key=found.get) == "model.layers.1"
    rows = prune_pretrained(tmp_path / "dense", tmp_path / "out", found, batches=tokens())
    for row in rows:
        assert row.kept == round(
            (1 - found[row.name.rpartition(".self")[0] or row.name.rpartition(".mlp")[0]])
            * row.weights
        )
    with pytest.raises(BoxwoodError, match=r"sparsity for each of the blocks model.layers.0"):
        prune_pretrained(tmp_path / "dense", tmp_path / "other", {"model.layers.0": 0.5})


def test_blocks_with_heavier_tails_stay_denser(tmp_path: Path) -> None:
    """Exponents are means over a block's layers, which decide; the total is what was asked for."""
    model = built("llama")
    with torch.no_grad():
        for layer in (module for module in model.model.layers[1].modules() if isinstance(module, nn.Linear)):  # fmt: skip
            layer.weight *= torch.exp(-torch.arange(layer.weight.shape[1]) / 2.0)
    model.save_pretrained(tmp_path / "dense")
    found = heavy_tail_sparsities(tmp_path / "dense", 0.6, spread=0.2)
    exponents = []
    for names in names_by_block(model):
        every = [tail_exponent(model.get_parameter(name)) for name in names]
        exponents.append(sum(every) / len(every))
    low, high = min(exponents), max(exponents)
    mapped = [0.8 + 0.4 * (alpha - low) / (high - low) for alpha in exponents]
    assert list(found.values()) == pytest.approx([0.6 * 3 * each / sum(mapped) for each in mapped])
    assert min(found, key=found.get) == "model.layers.1"
    rows = prune_pretrained(tmp_path / "dense", tmp_path / "out", found, batches=tokens())
    weights = sum(row.weights for row in rows)
    assert sum(row.kept for row in rows) / weights == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize("measure", ["outliers", "spectra"])
def test_what_is_skipped_has_no_part_in_the_sparsities(measure: str, tmp_path: Path) -> None:
    """Neither as evidence nor in the total; a block that is skipped whole keeps the given sparsity."""
    model = saved("llama", tmp_path / "dense")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[:2] *= 50
    model.save_pretrained(tmp_path / "other")
    skip = ("*.1.mlp.up_proj.weight", "*.layers.2.*")
    found = [
        heavy_tail_sparsities(tmp_path / name, 0.5, skip=skip)
        if measure == "spectra"
        else outlier_sparsities(tmp_path / name, 0.5, tokens(), weighed=OutlierWeighed(2.0, 0.2), skip=skip)
        for name in ("dense", "other")
    ]  # fmt: skip
    assert found[0]["model.layers.2"] == found[1]["model.layers.2"] == 0.5
    assert found[0]["model.layers.0"] != 0.5
    if measure == "spectra":  # the first two blocks' own layers are the same in both
        assert found[0] == found[1]
    rows = prune_pretrained(
        tmp_path / "other", tmp_path / "out", found[1], batches=tokens(), skip=skip
    )
    assert len(rows) == 7 + 6
    kept = sum(row.kept for row in rows) / sum(row.weights for row in rows)
    assert kept == pytest.approx(0.5, abs=2e-3)


def test_tuning_by_blocks(tmp_path: Path) -> None:
    """Each block is tuned on what the tuned ones before it make; masks are those of before."""
    model = saved("llama", tmp_path / "dense")
    how = decision("wanda", 0.5, None, tune=6)[1]
    prune_pretrained(tmp_path / "dense", tmp_path / "out", 0.5, decide=how, batches=tokens())
    model.config.use_cache = False
    states = states_before(model, model.model.layers, tokens())
    decide = Call.of(with_tuning, decide=WANDA, steps=6)
    masks: dict[str, torch.Tensor] = {}
    for place, (_, found) in enumerate(
        through_blocks(model.model.layers, states, partial(decide, sparsity=0.5))
    ):
        masks |= {f"model.layers.{place}.{name}": mask for name, mask in found.items()}
    loaded = type(model).from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
    stored = load_masks(tmp_path / "out")
    assert all(torch.equal(stored[name], mask) for name, mask in masks.items())


def test_experts_in_one_tensor_are_named(tmp_path: Path) -> None:
    """What is no linear layer stays dense, and the warning says so; nothing else is changed."""
    config = transformers.GptOssConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=40, num_local_experts=4, head_dim=4, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = transformers.GptOssForCausalLM(config)
    model.save_pretrained(tmp_path / "in")
    size = Call.of(by_criterion, criterion=magnitude, granularity=Elements())
    with pytest.warns(
        SelectionWarning, match=r"got 6 of other layers, which stay dense: '"
    ) as said:
        rows = prune_pretrained(tmp_path / "in", tmp_path / "out", 0.5, decide=size)
    assert (
        "also=('model.layers.*.mlp.router.weight', 'model.layers.*.mlp.experts.gate_up_proj'"
        in str(said[0].message)
    )
    assert {row.name.split(".")[3] for row in rows} == {"self_attn"}
    pruned = transformers.GptOssForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    dense = model.state_dict()
    changed = {name for name, weight in pruned.items() if not torch.equal(weight, dense[name])}
    assert changed == {row.name for row in rows}
