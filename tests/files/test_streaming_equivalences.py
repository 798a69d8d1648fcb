"""Pruning a checkpoint in chunks from the disk is pruning its tensors in memory."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import boxwood
from boxwood._internal.core.allocation import allocate, uniform
from boxwood._internal.core.masks import kept
from boxwood._internal.core.selection import select
from boxwood._internal.files.checkpoint import CHUNK
from boxwood._internal.files.mask_files import load_masks
from boxwood._internal.files.streaming import prune_checkpoint
from boxwood._internal.files.thresholds import NamePatterns, global_thresholds, uniform_thresholds
from boxwood._internal.model.prunable import Named

WIDE = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
EIGHT = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
ALLOCATIONS = {"global": (global_thresholds, None), "uniform": (uniform_thresholds, uniform)}


def write(tensors, folder: Path, shards: int) -> Path:
    """Deal tensors out to shards with an index, or into one file."""
    folder.mkdir()
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    where = {}
    for index in range(min(shards, len(names))):
        part = {name: tensors[name] for name in names[index::shards]}
        save_file(part, folder / f"model-{index}.safetensors", {"format": "pt"})
        where |= dict.fromkeys(part, f"model-{index}.safetensors")
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index) + "\n")
    return folder


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for f in folder.glob("*.safetensors") for n, t in load_file(f).items()}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def in_memory(tensors, sparsity, allocation):
    """Masks of the tensors sorted by name; float8 has no order of its own, so as float32."""
    scores = {n: (t.float() if t.dtype in EIGHT else t).abs() for n, t in sorted(tensors.items())}
    return select(scores, allocate(scores, sparsity, allocation=allocation))


@st.composite
def checkpoints(draw):
    """Draw matrices of any float types, of few distinct values, so that ties are the rule."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    types = draw(st.sampled_from([WIDE, WIDE[1:], WIDE[3:] + EIGHT, EIGHT[:1], WIDE[1:2]]))
    levels = draw(st.sampled_from([2, 5, 1000]))
    tensors = {}
    for index in range(draw(st.integers(1, 5))):
        shape = draw(st.tuples(st.integers(0, 7), st.integers(1, 7)))
        steps = torch.randint(-levels, levels + 1, shape, generator=generator)
        values = steps / levels * draw(st.sampled_from([1.0, 0.1, 30.0]))
        tensors[f"w{draw(st.integers(0, 99))}.{index}"] = values.to(draw(st.sampled_from(types)))
    return tensors


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@given(checkpoints(), st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_streamed_masks_are_those_in_memory(
    tmp_path_factory, allocation, tensors, sparsity, shards
):
    """Same masks, same counts, same weights, for mixed float types, ties, allocations and any sharding."""
    thresholds, in_core = ALLOCATIONS[allocation]
    at = tmp_path_factory.mktemp("stream")
    others = {"bias": torch.ones(3), "steps": torch.arange(4).view(2, 2)}
    source = write({**tensors, **others}, at / "in", shards)
    rows = prune_checkpoint(source, at / "out", sparsity, allocation=thresholds)
    expected = in_memory(tensors, sparsity, in_core)
    found = load_masks(at / "out")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], mask) for name, mask in expected.items())
    assert {row.name: row.kept for row in rows} == {n: int(m.sum()) for n, m in expected.items()}
    out = loaded(at / "out")
    for name, tensor in {**tensors, **others}.items():
        wanted = tensor.clone()
        if name in expected:
            wanted.view(torch.uint8 if tensor.dtype in EIGHT else tensor.dtype)[~expected[name]] = 0
        assert bits(out[name]) == bits(wanted)


def test_it_is_the_headline_call(tmp_path):
    """A module's checkpoint pruned on the disk has the masks of `boxwood.find_masks` in memory."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 10))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    prune_checkpoint(tmp_path / "net.safetensors", tmp_path / "out", 0.8)
    masks = boxwood.find_masks(net, 0.8)
    found = load_masks(tmp_path / "out")
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())
    boxwood.apply_masks_(net, masks)
    out = load_file(tmp_path / "out" / "net.safetensors")
    assert all(torch.equal(out[name], tensor) for name, tensor in net.state_dict().items())


def test_patterns_choose_as_named_does(tmp_path):
    """--layers and --skip give the masks of the same patterns in memory."""
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    where = NamePatterns(("*.weight", "1.bias"), skip=("0.*",))
    prune_checkpoint(tmp_path / "net.safetensors", tmp_path / "out", 0.5, tensors=where)
    masks = boxwood.find_masks(net, 0.5, layers=Named(("1.bias", "1.weight")))
    found = load_masks(tmp_path / "out")
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_of_several_chunks_are_pruned_exactly(dtype, tmp_path):
    """With the real chunk size, across chunks and tensors, ties stay in order."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "b": torch.randn(3, CHUNK // 2 + 5, generator=generator).mul(50).round().to(dtype),
        "a": torch.randn(2, CHUNK // 2 + 3, generator=generator).mul(50).round().to(dtype),
    }
    rows = prune_checkpoint(write(tensors, tmp_path / "in", 2), tmp_path / "out", 0.5)
    expected = in_memory(tensors, 0.5, None)
    found = load_masks(tmp_path / "out")
    assert all(torch.equal(found[name], mask) for name, mask in expected.items())
    weights = sum(tensor.numel() for tensor in tensors.values())
    assert sum(row.kept for row in rows) == kept(expected) == round(0.5 * weights)
