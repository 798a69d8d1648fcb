"""Sizes with relative indices by hand, and the overhead of Han et al. 2015."""

import pytest
import torch

from boxwood._internal.files.sizes import SparseSize, network_bytes, sparse_size


def test_a_vector_of_twelve_by_hand():
    """With two bits, runs of 1, 4, 0 and 3 zeros take the fields 1, 3 1, 0 and 3 0."""
    mask = torch.tensor([0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1]).bool()
    size = sparse_size(mask, index_bits=2)
    assert size == SparseSize(kept=4, fillers=2, index_bits=2)
    assert (size.value_bytes, size.index_bytes, size.bytes) == (24, 2, 26)
    assert sparse_size(mask.view(3, 4), index_bits=2, itemsize=2).bytes == 14


def test_one_bit_stores_a_filler_for_every_zero():
    """With one bit, a field is either a kept neighbour or a single zero."""
    mask = torch.tensor([0, 0, 1, 1, 0, 0]).bool()
    assert sparse_size(mask, index_bits=1) == SparseSize(kept=2, fillers=2, index_bits=1)


def test_zeros_after_the_last_weight_cost_nothing():
    """An all-zero tensor has no entries."""
    assert sparse_size(torch.zeros(1000).bool(), index_bits=5).bytes == 0


@pytest.mark.parametrize("density", [0.08, 0.09, 0.10])
def test_the_overhead_of_the_paper_is_five_bits_on_thirty_two(density):
    """Index bytes are 15.6 % of value bytes; fillers, which the paper leaves out, add to that.

    A run has at least n full fields of zeros with probability ``(1 - density)^(31 n)``, so there
    are ``q / (1 - q)`` fillers per weight for ``q = (1 - density)^31``: 8.2, 5.7 and 4.0 %.
    """
    generator = torch.Generator().manual_seed(0)
    size = sparse_size(torch.rand(1000, 1000, generator=generator) < density, index_bits=5)
    q = (1 - density) ** 31
    assert size.index_bytes / size.value_bytes == pytest.approx(0.156, abs=5e-4)
    assert size.fillers / size.kept == pytest.approx(q / (1 - q), abs=2e-3)
    overhead = size.bytes / (4 * size.kept) - 1
    assert overhead == pytest.approx((1 + q / (1 - q)) * 37 / 32 - 1, abs=3e-3)


def test_convolutions_take_eight_bits_and_the_rest_five():
    """A network is the sum of its tensors; what has no mask is dense, in bytes of its own type."""
    generator = torch.Generator().manual_seed(0)
    conv = torch.rand(6, 3, 5, 5, generator=generator) < 0.1
    fc = torch.rand(40, 40, generator=generator) < 0.1
    weights = {"conv": torch.ones(6, 3, 5, 5), "fc": torch.ones(40, 40).bfloat16(), "bias": torch.ones(9)}  # fmt: skip
    sparse = sparse_size(conv, 8).bytes + sparse_size(fc, 5, itemsize=2).bytes
    assert network_bytes(weights, {"conv": conv, "fc": fc}) == (1800 + 3200 + 36, sparse + 36)
