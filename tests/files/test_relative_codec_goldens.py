"""Relative indices by hand, and the overheads of Han et al. 2015."""

import pytest
import torch

from boxwood._internal.files.relative import decode, decode_mask, encode, to_bytes
from boxwood._internal.files.sizes import sizes

VECTOR = torch.tensor([0.0, 5, 0, 0, 0, 0, 6, 7, 0, 0, 0, 8])


def test_a_vector_of_twelve_by_hand():
    """With two bits, runs of 1, 4, 0 and 3 zeros become the fields 1, 3 1, 0 and 3 0."""
    code = encode(VECTOR, index_bits=2)
    assert code.values.tolist() == [5, 0, 6, 7, 0, 8]
    assert code.fillers == 2
    assert code.nonzeros == 4
    # Fields 1 3 1 0 | 3 0, lowest bits first: 00 01 11 01 and 00 11.
    assert code.index == bytes([0b00_01_11_01, 0b00_11])
    assert (code.value_bytes, code.index_bytes, code.bytes) == (24, 2, 26)
    assert torch.equal(decode(code), VECTOR)
    assert decode_mask(code).tolist() == VECTOR.bool().tolist()


def test_the_file_of_that_vector_by_hand():
    """The header is magic, width, dimensions, entries, fillers and shape, all little-endian."""
    data = to_bytes(encode(VECTOR, index_bits=2))
    assert data[:8] == b"BXREL\x01\x02\x01"
    assert data[8:32] == b"".join(number.to_bytes(8, "little") for number in (6, 2, 12))
    assert data[32:36] == bytes.fromhex("0000a040")
    assert data[56:58] == bytes([0b00_01_11_01, 0b00_11])
    assert len(data) == 6 + 2 + 8 + 8 + 8 + 24 + 2 + 4


def test_one_bit_stores_a_filler_for_every_zero():
    """With one bit, a field is either a kept neighbour or a single zero."""
    code = encode(torch.tensor([0.0, 0, 9, 9, 0, 0]), index_bits=1)
    assert code.values.tolist() == [0, 0, 9, 9]
    assert code.index == bytes([0b0011])


def test_zeros_after_the_last_weight_cost_nothing():
    """An all-zero tensor has no entries."""
    code = encode(torch.zeros(1000), index_bits=5)
    assert code.bytes == 0
    assert torch.equal(decode(code), torch.zeros(1000))


@pytest.mark.parametrize("density", [0.08, 0.09, 0.10])
def test_the_overhead_of_the_paper_is_five_bits_on_thirty_two(density):
    """Index bytes are 15.6 % of value bytes; fillers, which the paper leaves out, add to that.

    A gap has at least n full fields of zeros with probability ``(1 - density)^(31 n)``, so there
    are ``q / (1 - q)`` fillers per weight for ``q = (1 - density)^31``: 8.2, 5.7 and 4.0 %.
    """
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(1000, 1000, generator=generator) < density
    size = sizes({"fc": torch.randn(1000, 1000, generator=generator)}, {"fc": mask})["fc"]
    q = (1 - density) ** 31
    assert size.index_overhead == pytest.approx(0.156, abs=5e-4)
    assert size.fillers / size.kept == pytest.approx(q / (1 - q), abs=2e-3)
    assert size.overhead == pytest.approx((1 + q / (1 - q)) * 37 / 32 - 1, abs=3e-3)
