"""The 45 nm table of Han et al. 2015 and what follows from it."""

import pytest

from boxwood._internal.model.counting import LayerCount
from boxwood._internal.model.energy import Energy, Energy45nm, EnergyEstimate, energy
from boxwood.errors import BoxwoodError


def layer(weights: int, kept: int, positions: int = 1) -> LayerCount:
    return LayerCount(
        name="fc",
        kind="Linear",
        weights=weights,
        kept=kept,
        multiply_adds=weights * positions,
        effective_multiply_adds=kept * positions,
        input_activity=1.0,
        output_activity=1.0,
        han_flops_kept=kept / weights,
    )


def test_a_billion_connections_at_20_hertz_take_12_8_watts_of_dram():
    """20 Hz · 10⁹ · 640 pJ = 12.8 W, the paper's example."""
    estimate = energy([layer(10**9, 10**9)])
    assert estimate.dense.fetching * 1e-6 * 20 == pytest.approx(12.8, rel=1e-12)
    assert estimate.dense == estimate.pruned


def test_the_table_is_the_papers():
    """Figure 1: DRAM costs 128 SRAM reads, and 6400 integer additions."""
    table = Energy45nm()
    assert (table.int_add, table.float_add, table.register) == (0.1, 0.9, 1)
    assert (table.int_multiply, table.float_multiply) == (3.1, 3.7)
    assert (table.sram, table.dram) == (5, 640)


def test_one_small_network_by_hand():
    """Arithmetic is 4.6 pJ per multiply-add; 1000 weights stay in DRAM, 100 fit on the chip."""
    estimate = energy([layer(600, 60, positions=4), layer(400, 40)], sram_bytes=400)
    assert estimate.dense.arithmetic == pytest.approx(4.6 * 2800 * 1e-6, rel=1e-12)
    assert estimate.dense.fetching == pytest.approx(640 * 1000 * 1e-6, rel=1e-12)
    assert estimate.pruned.arithmetic == pytest.approx(4.6 * 280 * 1e-6, rel=1e-12)
    assert estimate.pruned.fetching == pytest.approx(5 * 100 * 1e-6, rel=1e-12)
    assert estimate.gain == pytest.approx((12880 + 640000) / (1288 + 500), rel=1e-12)


def test_indices_are_fetched_and_take_room_with_the_kept_weights():
    """Five bits beside each kept weight cost 37/32 of a word, and 100 weights need 463 bytes."""
    outside = energy([layer(1000, 100)], sram_bytes=462, index_bits=5)
    inside = energy([layer(1000, 100)], sram_bytes=463, index_bits=5)
    assert outside.pruned.fetching == pytest.approx(640 * 100 * 37 / 32 * 1e-6, rel=1e-12)
    assert inside.pruned.fetching == pytest.approx(5 * 100 * 37 / 32 * 1e-6, rel=1e-12)
    assert outside.dense.fetching == pytest.approx(0.64, rel=1e-12)


def test_another_table_is_taken_as_it_is():
    """Every constant comes from the table that is given."""
    table = Energy45nm(float_add=1, float_multiply=2, dram=10)
    assert energy([layer(100, 50)], table=table).dense.total == pytest.approx(13e-4, rel=1e-12)


def test_a_network_without_kept_weights_takes_nothing():
    """The gain over nothing is infinite."""
    assert energy([layer(10, 0)]).pruned == Energy(0, 0)
    assert EnergyEstimate(Energy(1, 1), Energy(0, 0)).gain == float("inf")


def test_negative_sizes_are_refused():
    """Negative memory and negative index widths are refused by name."""
    with pytest.raises(BoxwoodError, match="Expected sram_bytes of at least 0, got -1"):
        energy([], sram_bytes=-1)
    with pytest.raises(BoxwoodError, match="Expected index_bits of at least 0, got -5"):
        energy([], index_bits=-5)
