"""Fields of a few bits: what is packed comes back, and takes what a naive count says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxwood._internal.files.bits import pack, packed_bytes, unpack
from boxwood._internal.files.run_lengths import decode_fields, encode_runs, runs_between
from boxwood._internal.files.sizes import sparse_size
from boxwood.errors import BoxwoodError

MASKS = st.lists(st.booleans() | st.just(value=False), max_size=200)
BITS = st.integers(1, 16)


def naive_fillers(kept: list[bool], index_bits: int) -> int:
    reach, run, fillers = 2**index_bits - 1, 0, 0
    for keep in kept:
        if keep:
            fillers += run // reach
            run = 0
        else:
            run += 1
    return fillers


@given(MASKS, BITS)
def test_fillers_are_those_of_a_naive_loop(kept, index_bits):
    """The fillers number one for every full field of zeros before a kept entry."""
    size = sparse_size(torch.tensor(kept, dtype=torch.bool), index_bits)
    assert (size.kept, size.fillers) == (sum(kept), naive_fillers(kept, index_bits))


@given(MASKS, BITS)
def test_fields_give_back_the_positions(kept, index_bits):
    """Decoding undoes encoding, and the fields number kept places and fillers together."""
    positions = np.flatnonzero(np.array(kept, np.bool_))
    fields, ends = encode_runs(runs_between(positions, -1), index_bits)
    assert len(fields) == sum(kept) + naive_fillers(kept, index_bits)
    behind, last = decode_fields(fields, index_bits)
    assert (behind[last] - 1).tolist() == positions.tolist()
    assert np.flatnonzero(last).tolist() == ends.tolist()


@given(st.lists(st.integers(0, 2**16 - 1), max_size=40), BITS)
def test_packing_is_a_round_trip(numbers, bits):
    """Unpacking undoes packing for fields of every width."""
    fields = np.array(numbers, dtype=np.uint16) & np.uint16(2**bits - 1)
    data = pack(fields, bits)
    assert len(data) == packed_bytes(len(fields), bits)
    assert unpack(data, len(fields), bits).tolist() == fields.tolist()


def test_wrong_input_is_refused_with_the_way_out():
    """A width out of range and a stream cut short are refused."""
    for index_bits in (0, 17):
        with pytest.raises(BoxwoodError, match="Expected 1 to 16 bits"):
            sparse_size(torch.ones(2, 3).bool(), index_bits)
    with pytest.raises(BoxwoodError, match="Expected 2 bytes for 3 fields of 5 bits, got 1"):
        unpack(b"\0", 3, 5)
