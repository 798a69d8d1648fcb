"""Checkpoints that are quantised, and adapters, are refused by every command before it writes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.files.packed import pack_file
from boxwood._internal.files.streaming import prune_checkpoint
from boxwood._internal.recipes.phase import load_weights_
from boxwood.errors import BoxwoodError

Tensors = dict[str, Tensor]
LAYER = "model.layers.0.mlp.up_proj."


def integers(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.ones(shape, dtype=dtype)


BY_TENSORS: dict[str, Tensors] = {
    "GPTQ and AWQ": {
        "qweight": integers(torch.int32, 2, 32),
        "qzeros": integers(torch.int32, 1, 4),
        "scales": torch.rand(4, 32).half(),
    },
    "bitsandbytes int8": {"weight": integers(torch.int8, 32, 16), "SCB": torch.rand(32)},
    "bitsandbytes nf4": {
        "weight": integers(torch.uint8, 256, 1),
        "weight.absmax": torch.rand(8),
        "weight.quant_map": torch.rand(16),
    },
    "fp8 with scales of blocks": {
        "weight": torch.rand(32, 16).to(torch.float8_e4m3fn),
        "weight_scale_inv": torch.rand(2, 2),
    },
    "fp8 with one scale": {
        "weight": torch.rand(32, 16).to(torch.float8_e4m3fn),
        "weight_scale": torch.rand(1),
    },
    "compressed-tensors": {
        "weight_packed": integers(torch.int32, 32, 2),
        "weight_scale": torch.rand(32, 1).bfloat16(),
    },
    "packed integers of MLX": {
        "weight": integers(torch.int32, 32, 2),
        "scales": torch.rand(32, 1).half(),
        "biases": torch.rand(32, 1).half(),
    },
    "HQQ": {"W_q": integers(torch.uint8, 64, 16), "scale": torch.rand(64, 1)},
    "MXFP4": {
        "gate_up_proj_blocks": integers(torch.uint8, 2, 8, 4),
        "gate_up_proj_scales": integers(torch.uint8, 2, 8),
    },
}

BY_FOLDER: dict[str, tuple[str, object]] = {
    "config.json": ("config.json", {"quantization_config": {"quant_method": "fp8"}}),
    "of a part": ("config.json", {"text_config": {"compression_config": {"format": "pack"}}}),
    "of GPTQ before config.json had it": ("quantize_config.json", {"bits": 4}),
    "of ModelOpt": ("hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4"}}),
}


def folder_of(tmp_path: Path, tensors: Tensors) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    named = {LAYER + name: tensor for name, tensor in tensors.items()}
    save_file({"model.embed.weight": torch.rand(40, 16), **named}, folder / "model.safetensors")
    return folder


def refused(folder: Path, out: Path, what: str) -> None:
    """Try every entry point that writes; nothing may be left."""
    file = folder / "model.safetensors"
    before = set(out.parent.rglob("*"))
    for call in (
        lambda: prune_checkpoint(folder, out, 0.5),
        lambda: prune_checkpoint(file, out, 0.5),
        lambda: pack_file(file, out),
    ):
        with pytest.raises(BoxwoodError, match=what):
            call()
    for arguments in (
        ("prune", folder, "--sparsity", "0.5", "--out", out),
        ("prune", file, "--sparsity", "0.5", "--out", out),
        ("pack", folder, "--out", out),
        ("pack", file, "--out", out.with_suffix(".safetensors")),
    ):
        error = CliRunner().invoke(app, [str(each) for each in arguments]).exception
        assert isinstance(error, BoxwoodError), arguments
        assert what in str(error)
    assert set(out.parent.rglob("*")) == before


@pytest.mark.parametrize("kind", BY_TENSORS)
def test_what_tensors_say(kind: str, tmp_path: Path) -> None:
    """The names and types of the tensors tell, without any configuration."""
    refused(folder_of(tmp_path, BY_TENSORS[kind]), tmp_path / "out", "quantised model")


@pytest.mark.parametrize("kind", BY_FOLDER)
def test_what_the_folder_says(kind: str, tmp_path: Path) -> None:
    """The configuration beside the weights tells, also where a single file is named."""
    folder = folder_of(tmp_path, {"weight": torch.rand(4, 4)})
    name, content = BY_FOLDER[kind]
    (folder / name).write_text(json.dumps(content))
    refused(folder, tmp_path / "out", "quantised model")


@pytest.mark.parametrize("name", ["q_proj.lora_A.weight", "lora_unet_mid_lora_down.weight"])
def test_adapters(name: str, tmp_path: Path) -> None:
    """The factors of an adapter are no weights."""
    refused(folder_of(tmp_path, {name: torch.rand(4, 8)}), tmp_path / "out", "an adapter")


def test_an_adapter_folder(tmp_path: Path) -> None:
    """adapter_config.json tells, whatever the tensors are called."""
    folder = folder_of(tmp_path, {"weight": torch.rand(4, 4)})
    (folder / "adapter_config.json").write_text("{}")
    for command in ("prune", "pack", "shrink"):
        out = ("--out", str(tmp_path / "out")) if command != "shrink" else (str(tmp_path / "out"),)
        how = {"prune": ("--sparsity", "0.5"), "pack": (), "shrink": ("--keep", "0.5")}[command]
        error = CliRunner().invoke(app, [command, str(folder), *how, *out]).exception
        assert isinstance(error, BoxwoodError)
        assert "merge it into its base" in str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("prune", "IN", "--by", "magnitude", "--sparsity", "0.5", "--out", "OUT"),
        ("shrink", "IN", "OUT", "--keep", "0.5"),
    ],
)
@pytest.mark.parametrize("says", [True, False])
def test_commands_for_pretrained_models(
    arguments: tuple[str, ...], says: bool, tmp_path: Path
) -> None:
    """Block by block and surgery: by config.json, and by the tensors where it is silent."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
        num_attention_heads=2, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    folder = folder_of(tmp_path, BY_TENSORS["GPTQ and AWQ"])
    content = config.to_dict() | ({"quantization_config": {"quant_method": "gptq"}} if says else {})
    (folder / "config.json").write_text(json.dumps(content))
    places = {"IN": str(folder), "OUT": str(tmp_path / "out")}
    error = CliRunner().invoke(app, [places.get(each, each) for each in arguments]).exception
    assert isinstance(error, BoxwoodError)
    assert "quantised model" in str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (
            "shrink",
            "boxwood.networks:lenet_5",
            "OUT",
            "--input",
            "1x1x28x28",
            "--keep",
            "0.5",
        ),
        ("compile", "boxwood.networks:lenet_5", "--out", "OUT", "--input", "1x1x28x28"),
        ("bench", "boxwood.networks:lenet_5", "--input", "1x1x28x28"),
    ],
)
def test_weights_of_a_network(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """--weights of a quantised or packed file is refused as what it is."""
    file = folder_of(tmp_path, BY_TENSORS["bitsandbytes int8"]) / "model.safetensors"
    given = [str(tmp_path / "out") if each == "OUT" else each for each in arguments]
    error = CliRunner().invoke(app, [*given, "--weights", str(file)]).exception
    assert isinstance(error, BoxwoodError)
    assert "quantised model" in str(error)
    assert not (tmp_path / "out").exists()


FLOATS: dict[str, Callable[[], Tensors]] = {
    "a plain cast to fp8": lambda: {"weight": torch.rand(8, 8).to(torch.float8_e4m3fn)},
    "integer buffers": lambda: {"position_ids": integers(torch.int64, 1, 8), "weight": torch.rand(4, 4)},
    "a byte mask": lambda: {"attn.bias": integers(torch.uint8, 1, 1, 8, 8), "weight": torch.rand(4, 4)},
    "learned scales": lambda: {"scales": torch.rand(4, 4), "q_scale": torch.rand(2, 2)},
    "a codebook": lambda: {"codebooks": torch.rand(4, 4)},
}  # fmt: skip


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_are_pruned(kind: str, tmp_path: Path) -> None:
    """What only resembles a quantised checkpoint is pruned as before."""
    folder = folder_of(tmp_path, FLOATS[kind]())
    (folder / "config.json").write_text('{"quantization_config": null, "limit": Infinity}')
    rows = prune_checkpoint(folder, tmp_path / "out", 0.5)
    assert sum(row.kept for row in rows) * 2 == sum(row.weights for row in rows)


def test_a_damaged_configuration(tmp_path: Path) -> None:
    """What cannot be read cannot say that the weights are floats."""
    folder = folder_of(tmp_path, {"weight": torch.rand(4, 4)})
    (folder / "config.json").write_text("{")
    with pytest.raises(BoxwoodError, match=r"Expected JSON in .*config.json"):
        prune_checkpoint(folder, tmp_path / "out", 0.5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e5m2])
def test_where_an_experiment_starts(dtype: torch.dtype) -> None:
    """Weights of a recipe's checkpoint are not cast from what is no float of a network."""
    net = nn.Linear(4, 4)
    before = net.weight.detach().clone()
    with pytest.raises(BoxwoodError, match=rf"16 bits for 'weight', got {dtype}"):
        load_weights_(net, {**net.state_dict(), "weight": torch.ones(4, 4).to(dtype)})
    assert torch.equal(net.weight, before)
    load_weights_(net, {**net.state_dict(), "weight": torch.ones(4, 4).half()})
    assert torch.equal(net.weight, torch.ones(4, 4))
