"""Relative indices: what is encoded comes back, and costs what a naive count says."""

import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxwood._internal.core.errors import BoxwoodError
from boxwood._internal.files.bits import pack, packed_bytes, unpack
from boxwood._internal.files.relative import (
    decode,
    decode_array,
    decode_mask,
    encode,
    from_bytes,
    to_bytes,
)
from boxwood._internal.files.sizes import han_index_bits, sizes

SHAPES = st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple)
BITS = st.integers(1, 16)
SPECIAL = torch.tensor([-0.0, float("nan"), float("inf"), 1e-45, -3.5])


@st.composite
def sparse_tensors(draw: st.DrawFn) -> torch.Tensor:
    """Draw a tensor of any sparsity, with values that are easily lost, and its shape."""
    shape = draw(SHAPES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(shape, generator=generator)
    odd = torch.rand(shape, generator=generator) < 0.2
    values[odd] = SPECIAL[torch.randint(len(SPECIAL), shape, generator=generator)][odd]
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]) | st.floats(0, 1))
    return values.masked_fill(torch.rand(shape, generator=generator) >= density, 0)


def bits_of(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


def naive_fillers(kept: list[bool], index_bits: int) -> int:
    reach, run, fillers = 2**index_bits - 1, 0, 0
    for keep in kept:
        if keep:
            fillers += run // reach
            run = 0
        else:
            run += 1
    return fillers


@given(sparse_tensors(), BITS)
def test_decoding_gives_back_every_bit(tensor, index_bits):
    """decode(encode(x)) is x bit for bit, -0.0 and NaN included."""
    back = decode(encode(tensor, index_bits=index_bits))
    assert back.shape == tensor.shape
    assert bits_of(back) == bits_of(tensor)


@given(sparse_tensors(), BITS, st.integers(0, 2**31))
def test_a_mask_decides_what_is_stored_and_survives(tensor, index_bits, seed):
    """With a mask, decoding gives the masked tensor and the mask, kept zeros included."""
    mask = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    code = encode(tensor, index_bits=index_bits, mask=mask)
    assert bits_of(decode(code)) == bits_of(tensor.masked_fill(~mask, 0))
    assert torch.equal(decode_mask(code), mask)
    assert code.nonzeros == int(mask.sum())


@given(sparse_tensors(), BITS)
def test_fillers_are_those_of_a_naive_loop(tensor, index_bits):
    """The fillers number one for every full field of zeros before a kept entry."""
    kept = [pattern != 0 for pattern in tensor.numpy().ravel().view(np.uint32).tolist()]
    code = encode(tensor, index_bits=index_bits)
    assert code.fillers == naive_fillers(kept, index_bits)
    assert code.nonzeros == sum(kept)
    assert code.bytes == 4 * len(code.values) + packed_bytes(len(code.values), index_bits)


@given(sparse_tensors(), BITS)
def test_bytes_hold_the_whole_code(tensor, index_bits):
    """from_bytes undoes to_bytes, and equal tensors have equal bytes."""
    code = encode(tensor, index_bits=index_bits)
    data = to_bytes(code)
    back = from_bytes(data)
    assert to_bytes(back) == data
    assert (back.shape, back.index_bits, back.fillers) == (
        code.shape,
        code.index_bits,
        code.fillers,
    )
    assert decode_array(back).tobytes() == bits_of(tensor)


@given(sparse_tensors(), BITS, st.data())
def test_damage_and_truncation_are_noticed(tensor, index_bits, data):
    """Bytes with one bit flipped, cut short or made longer are refused."""
    whole = to_bytes(encode(tensor, index_bits=index_bits))
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    for wrong in (bytes(flipped), whole[:place], whole + b"\0"):
        with pytest.raises(BoxwoodError, match=r"Expected a (whole )?relative code"):
            from_bytes(wrong)


@given(st.lists(st.integers(0, 2**16 - 1), max_size=40), BITS)
def test_packing_is_a_round_trip(numbers, bits):
    """Unpacking undoes packing for fields of every width."""
    fields = np.array(numbers, dtype=np.uint16) & np.uint16(2**bits - 1)
    data = pack(fields, bits)
    assert len(data) == packed_bytes(len(fields), bits)
    assert unpack(data, len(fields), bits).tolist() == fields.tolist()


@given(sparse_tensors())
def test_arrays_and_tensors_of_any_layout_encode_alike(tensor):
    """A numpy array, a transposed view and one that requires a gradient encode as their values."""
    expected = to_bytes(encode(tensor, index_bits=5))
    assert to_bytes(encode(tensor.numpy(), index_bits=5)) == expected
    assert to_bytes(encode(tensor.clone().requires_grad_(), index_bits=5)) == expected
    turned = tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    assert to_bytes(encode(turned, index_bits=5)) == expected


def test_sizes_are_those_of_the_codes():
    """The sizes are those of encode, tensor by tensor, with and without masks."""
    generator = torch.Generator().manual_seed(0)
    weights = {"conv": torch.randn(6, 3, 5, 5, generator=generator), "fc": torch.eye(40)}
    masks = {"conv": torch.rand(6, 3, 5, 5, generator=generator) < 0.1}
    found = sizes(weights, masks)
    for name, weight in weights.items():
        code = encode(weight, index_bits=han_index_bits(weight), mask=masks.get(name))
        size = found[name]
        assert (size.weights, size.kept, size.fillers) == (
            weight.numel(),
            code.nonzeros,
            code.fillers,
        )
        assert (size.bytes, size.dense_bytes) == (code.bytes, 4 * weight.numel())
        assert size.index_bits == code.index_bits
        assert size.overhead == pytest.approx(code.bytes / (4 * code.nonzeros) - 1, rel=1e-12)
    assert {name: size.index_bits for name, size in found.items()} == {"conv": 8, "fc": 5}


def test_wrong_input_is_refused_with_the_way_out():
    """A width out of range, another dtype, a mask that does not fit and a stray mask are refused."""
    ones = torch.ones(2, 3)
    for index_bits in (0, 17):
        with pytest.raises(BoxwoodError, match="Expected 1 to 16 bits"):
            encode(ones, index_bits=index_bits)
    for wrong in (ones.double(), ones.bfloat16(), ones.numpy().astype(np.float16)):
        with pytest.raises(BoxwoodError, match=r"Expected a float32 tensor.*\.float\(\)"):
            encode(wrong, index_bits=5)
    for mask in (ones, ones.bool().T):
        with pytest.raises(BoxwoodError, match="Expected a bool mask of shape"):
            encode(ones, index_bits=5, mask=mask)
    with pytest.raises(BoxwoodError, match="got one for 'fc2'"):
        sizes({"fc": ones}, {"fc2": ones.bool()})
    with pytest.raises(BoxwoodError, match="Expected 2 bytes for 3 fields of 5 bits, got 1"):
        unpack(b"\0", 3, 5)


def test_a_code_that_contradicts_itself_is_refused():
    """Bytes with a right checksum, but fields outside the shape or wrong fillers, do not decode."""
    body = to_bytes(encode(torch.tensor([0.0, 0.0, 5.0]), index_bits=2))[:-4]
    shorter = body.replace(struct.pack("<Q", 3), struct.pack("<Q", 2))
    more_fillers = body[:16] + struct.pack("<Q", 1) + body[24:]
    filler = to_bytes(encode(torch.tensor([0.0, 0.0, 0.0, 5.0]), index_bits=2))[:-4]
    filler_not_zero = filler[:32] + struct.pack("<f", 1) + filler[36:]
    wrong = (shorter, more_fillers, filler_not_zero)
    for forged in wrong:
        code = from_bytes(forged + struct.pack("<I", zlib.crc32(forged)))
        with pytest.raises(BoxwoodError, match="fields that say otherwise"):
            decode(code)
