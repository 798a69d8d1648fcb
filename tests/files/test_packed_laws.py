"""Packing: whatever goes in comes out byte for byte, masks included, and damage is noticed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from boxwood._internal.files.bits import packed_bytes
from boxwood._internal.files.checkpoint import CHUNK
from boxwood._internal.files.mask_files import load_masks
from boxwood._internal.files.packed import pack_file, unpack_file
from boxwood._internal.files.run_lengths import (
    WIDTHS,
    FieldCounts,
    encode_runs,
    pack_runs,
    runs_between,
    unpack_masks,
)
from boxwood.errors import BoxwoodError

FLOATS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]
OTHERS = [
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32,
    torch.uint64, torch.bool, torch.complex64,
]  # fmt: skip
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


def patterns(shape, dtype, density, generator):
    """Make a tensor of any bits at all, NaN of every kind and -0.0 among them, many of them zero."""
    count = int(np.prod(shape, dtype=int))
    raw = torch.randint(256, (count, dtype.itemsize), generator=generator, dtype=torch.uint8)
    raw[torch.rand(count, generator=generator) >= density] = 0
    if dtype == torch.bool:
        raw &= 1
    return raw.view(dtype).reshape(shape)


@st.composite
def checkpoints(draw):
    """Draw tensors of any type and density, and masks for some of the floats."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tensors, masks = {}, {}
    for index in range(draw(st.integers(0, 5))):
        name = draw(st.sampled_from(["w", "mask/w", "values/w", "dense/w", "ä b"])) + str(index)
        shape, dtype = draw(SHAPES), draw(st.sampled_from(FLOATS + OTHERS))
        density = draw(st.sampled_from([0.0, 0.03, 0.1, 0.3, 0.5, 1.0]))
        tensor = patterns(shape, dtype, density, generator)
        if dtype in FLOATS and draw(st.booleans()):
            masks[name] = torch.rand(shape, generator=generator) < density
            integers = tensor.view(
                {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
            )
            integers.mul_(masks[name])
        tensors[name] = tensor
    return tensors, masks


@given(checkpoints())
@settings(max_examples=60, deadline=None)
def test_unpacking_gives_back_every_byte_and_every_mask(tmp_path_factory, checkpoint):
    """unpack(pack(file)) is the file, for all types, bits, shapes and names, and so are the masks."""
    tensors, masks = checkpoint
    at = tmp_path_factory.mktemp("packed")
    save_file(tensors, at / "dense.safetensors", {"format": "pt"})
    beside = None
    if masks:
        beside = at / "bools.safetensors"
        save_file(masks, beside)
    layouts = pack_file(at / "dense.safetensors", at / "packed.safetensors", beside)
    unpack_file(at / "packed.safetensors", at / "back.safetensors")
    assert (at / "back.safetensors").read_bytes() == (at / "dense.safetensors").read_bytes()
    if masks:
        found = load_masks(at / "masks" / "back.safetensors")
        assert found.keys() == masks.keys()
        assert all(torch.equal(found[name], mask) for name, mask in masks.items())
    assert all(layout.bytes <= layout.entry.bytes for layout in layouts if layout.name not in masks)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.9999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e5m2])
def test_tensors_of_several_chunks_come_back(dtype, sparsity, tmp_path):
    """Masks and values go on across chunks, also where a run of zeros is longer than one."""
    generator = torch.Generator().manual_seed(1)
    tensor = patterns((2 * CHUNK + 77,), dtype, 1 - sparsity, generator)
    tensor.view(torch.uint8)[: (CHUNK + CHUNK // 2) * dtype.itemsize] *= int(sparsity < 0.99)
    save_file({"w": tensor, "b": torch.ones(3)}, tmp_path / "dense.safetensors")
    pack_file(tmp_path / "dense.safetensors", tmp_path / "packed.safetensors")
    unpack_file(tmp_path / "packed.safetensors", tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == (
        tmp_path / "dense.safetensors"
    ).read_bytes()


def test_masks_of_several_chunks_are_loaded(tmp_path):
    """Bools and bits of more than one chunk come back as they were saved."""
    mask = torch.rand(2, CHUNK, generator=torch.Generator().manual_seed(0)) < 0.5
    save_file({"w": mask}, tmp_path / "bools.safetensors")
    assert torch.equal(load_masks(tmp_path / "bools.safetensors")["w"], mask)
    save_file({"w": mask.half()}, tmp_path / "dense.safetensors")
    packed, back = tmp_path / "packed.safetensors", tmp_path / "back.safetensors"
    pack_file(tmp_path / "dense.safetensors", packed, tmp_path / "bools.safetensors")
    unpack_file(packed, back)
    assert torch.equal(load_masks(tmp_path / "masks" / "back.safetensors")["w"], mask)


@given(st.lists(st.booleans(), max_size=400), st.sampled_from(WIDTHS), st.integers(1, 50))
def test_run_lengths_packed_in_pieces_are_the_mask(kept, width, chunk):
    """However a mask is cut for packing and for reading, the fields say which places are kept."""
    mask = np.array(kept, dtype=bool)
    stream, left, last, total, counts = b"", np.empty(0, np.uint16), -1, 0, FieldCounts()
    for start in range(0, len(mask), chunk):
        part = mask[start : start + chunk]
        positions = np.flatnonzero(part)
        runs = runs_between(positions, last)
        last = (int(positions[-1]) if len(positions) else last) - len(part)
        counts.add_(runs)
        total += len(encode_runs(runs, width)[0])
        packed, left = pack_runs(left, runs, width)
        stream += packed
    stream += pack_runs(left, np.empty(0, np.int64), width)[0] if len(left) % 8 == 0 else b""
    if len(left) % 8:
        padded = np.concatenate([left, np.zeros(-len(left) % 8, np.uint16)])
        stream += pack_runs(padded, np.empty(0, np.int64), width)[0]
    assert counts.fields(width) == total
    found = list(unpack_masks(iter([memoryview(stream)]), total, width, len(mask), chunk))
    assert np.array_equal(np.concatenate([*found, np.empty(0, bool)]), mask)
    best, fields = counts.best()
    assert packed_bytes(fields, best) == min(packed_bytes(counts.fields(w), w) for w in WIDTHS)


def test_the_width_is_counted_for_runs_of_any_length():
    """Runs longer than the histogram are counted one by one."""
    counts, runs = FieldCounts(), np.array([3, 4095, 4096, 1_000_000])
    counts.add_(runs)
    for width in WIDTHS:
        assert counts.fields(width) == len(encode_runs(runs, width)[0])


@pytest.fixture
def packed(tmp_path):
    generator = torch.Generator().manual_seed(0)
    dense = {
        "run lengths": patterns((50, 40), torch.float32, 0.1, generator),
        "bits": patterns((50, 40), torch.bfloat16, 0.6, generator),
        "dense": patterns((9,), torch.float32, 1.0, generator),
    }
    save_file(dense, tmp_path / "dense.safetensors")
    pack_file(tmp_path / "dense.safetensors", tmp_path / "packed.safetensors")
    return tmp_path / "packed.safetensors"


def test_no_flipped_bit_goes_unnoticed(packed):
    """One bit flipped anywhere: refused, and no file is left; or it meant nothing, and all is right."""
    data = packed.read_bytes()
    right = packed.with_name("dense.safetensors").read_bytes()
    chance = np.random.default_rng(0)
    harmless = 0
    for at in chance.choice(8 * len(data), 400, replace=False):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        bad, out = packed.with_name("bad.safetensors"), packed.with_name("out.safetensors")
        bad.write_bytes(flipped)
        try:
            unpack_file(bad, out)
        except BoxwoodError:
            assert not out.exists()
            continue
        harmless += 1
        assert out.read_bytes() == right
        out.unlink()
    assert harmless < 20  # padding bits, and the case of a letter in a number
    assert not list(packed.parent.glob(".new-*"))


def test_a_mask_that_does_not_fit_is_refused(tmp_path):
    """A stranger, another shape, an integer tensor, a mask that was not applied, and no bools."""
    tensors = {"w": torch.ones(2, 3), "n": torch.arange(3)}
    dense, masks = tmp_path / "dense.safetensors", tmp_path / "masks.safetensors"
    save_file(tensors, dense)
    drop = torch.tensor([[True, True, False], [True, False, False]])
    for wrong, words in (
        ({"v": drop}, "got one for 'v'"),
        ({"w": drop.T.contiguous()}, r"Expected a mask of shape \(2, 3\) for 'w', got \(3, 2\)"),
        ({"n": torch.tensor([True, False, True])}, "got one for 'n' of type I64"),
        ({"w": drop}, r"got 3 values that are not \+0.0 where the mask of 'w' drops them"),
        ({"w": torch.ones(2, 3)}, r"Expected bool masks.*got F32 of shape \(2, 3\) for 'w'"),
        ({"w": torch.full((2, 3), 2, dtype=torch.uint8).view(torch.bool)}, "got 2 in 'w'"),
    ):
        save_file(wrong, masks)
        with pytest.raises(BoxwoodError, match=words):
            pack_file(dense, tmp_path / "packed.safetensors", masks)
        assert not (tmp_path / "packed.safetensors").exists()


def test_only_dense_files_are_packed_and_only_packed_ones_unpacked(tmp_path):
    """What is the wrong one of the two is refused with the way out."""
    save_file({"w": torch.ones(2)}, tmp_path / "dense.safetensors")
    with pytest.raises(BoxwoodError, match=r"Expected a packed file, got .*pack it first"):
        unpack_file(tmp_path / "dense.safetensors", tmp_path / "out.safetensors")
    save_file({"w": torch.eye(200)}, tmp_path / "dense.safetensors")
    pack_file(tmp_path / "dense.safetensors", tmp_path / "packed.safetensors")
    with pytest.raises(BoxwoodError, match=r"Expected a dense checkpoint, got .*which is packed"):
        pack_file(tmp_path / "packed.safetensors", tmp_path / "twice.safetensors")
