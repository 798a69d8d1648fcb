"""Tensors and texts in one file: what is written comes back, and damage never does."""

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from boxwood._internal.core.tensor_files import read_checked, read_tensors, write_tensors
from boxwood.errors import CheckpointError

DTYPES = st.sampled_from(
    [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=5)
TEXTS = st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"), max_size=9), max_size=3)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


@given(st.dictionaries(NAMES, st.tuples(DTYPES, SHAPES), max_size=4), TEXTS)
def test_what_is_written_comes_back(tmp_path_factory, kinds, texts):
    """Tensors of any type and shape bit for bit, and all texts."""
    path = tmp_path_factory.mktemp("file") / "a.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(0, 2, shape, generator=generator).to(dtype)
        for name, (dtype, shape) in kinds.items()
    }
    write_tensors(path, tensors, texts)
    found = read_checked(path)
    assert found.texts == texts
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found.tensors[name].dtype, found.tensors[name].shape) == (
            tensor.dtype,
            tensor.shape,
        )
        assert bits(found.tensors[name]) == bits(tensor)


def test_views_are_written_as_what_they_show(tmp_path: Path) -> None:
    """A transposed parameter that wants a gradient is its values."""
    wide = torch.arange(6.0).reshape(2, 3).requires_grad_()
    write_tensors(tmp_path / "a", {"wide": wide.T})
    assert torch.equal(read_checked(tmp_path / "a").tensors["wide"], wide.detach().T)


@pytest.mark.parametrize("older", [False, True])
def test_no_flipped_bit_changes_what_is_read(tmp_path: Path, *, older: bool) -> None:
    """Refused, or it meant nothing; a reader of older files notices what has a checksum no less."""
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.arange(3.0), "b": torch.tensor([True])}, {"text": "of it"})
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        path.write_bytes(data)
        try:
            found = read_checked(path, older=older)
        except (CheckpointError, ValueError):
            refused += 1
            continue
        # A key that was changed is one that its reader misses.
        assert found.checksum is None or list(found.texts.values()) == ["of it"], place
        assert found.tensors["a"].tolist() == [0, 1, 2], place
    assert refused > 0.8 * len(whole)


def test_what_has_no_checksum_is_taken_only_where_older_files_are_known(tmp_path: Path) -> None:
    """A file of another program, or of an older Boxwood."""
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, path, {"format": "pt"})
    assert read_tensors(path).texts == {"format": "pt"}
    assert read_checked(path, older=True).checksum is None
    with pytest.raises(ValueError, match="not those that were written"):
        read_checked(path)


def test_other_files_are_refused_by_what_they_are(tmp_path: Path) -> None:
    """A pickle, half a file, no file, a folder."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="got a pickle"):
        read_checked(path)
    write_tensors(path, {"a": torch.ones(200)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="incomplete"):
        read_checked(path)
    for wrong in (tmp_path, tmp_path / "gone"):
        with pytest.raises(OSError, match=str(wrong)):
            read_checked(wrong)


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path) -> None:
    """What the library raises for a full disk is an OSError, as of any other writer."""
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(2)})
    before = path.read_bytes()
    shared = torch.ones(4)
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors(path, {"a": shared[:2], "b": shared[1:]})
    with pytest.raises(OSError, match="gone"):
        write_tensors(tmp_path / "gone" / "a.safetensors", {"a": torch.ones(2)})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]
