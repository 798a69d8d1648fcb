"""Energy per example, estimated from a table of what operations cost in a 45 nm process."""

from collections.abc import Iterable
from dataclasses import dataclass

from boxwood._internal.model.counting import LayerCount
from boxwood.errors import InvalidInput

_MICROJOULES = 1e-6  # of a picojoule


@dataclass(frozen=True)
class Energy45nm:
    """Picojoules per 32-bit operation in a 45 nm CMOS process.

    Example:
        >>> table = Energy45nm()
        >>> table.dram / table.sram
        128.0

    Reference: Han et al. 2015, arXiv:1506.02626, figure 1.
    """

    int_add: float = 0.1
    float_add: float = 0.9
    register: float = 1.0
    int_multiply: float = 3.1
    float_multiply: float = 3.7
    sram: float = 5.0
    dram: float = 640.0


@dataclass(frozen=True)
class Energy:
    """Microjoules for one example.

    Args:
        arithmetic: floating-point multiplications and additions.
        fetching: reading the weights.

    Example:
        >>> Energy(arithmetic=1.0, fetching=2.0).total
        3.0
    """

    arithmetic: float
    fetching: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.arithmetic + self.fetching


@dataclass(frozen=True)
class EnergyEstimate:
    """Estimated energy of the dense and the pruned network, from a table, not a measurement.

    Example:
        >>> EnergyEstimate(dense=Energy(1.0, 9.0), pruned=Energy(0.5, 0.5)).gain
        10.0
    """

    dense: Energy
    pruned: Energy

    @property
    def gain(self) -> float:
        """How many times less energy the pruned network takes; infinite when it takes none."""
        return self.dense.total / self.pruned.total if self.pruned.total else float("inf")


def energy(
    counts: Iterable[LayerCount],
    *,
    table: Energy45nm | None = None,
    sram_bytes: int = 0,
    index_bits: int = 0,
) -> EnergyEstimate:
    """Estimate the energy of one example, dense against pruned.

    This is arithmetic on a table, not a measurement: every multiply-add takes one multiplication
    and one addition, every weight is fetched once per example, and activations, control and
    leakage are free. A network whose weights fit into ``sram_bytes`` fetches them from there,
    another one fetches them all from DRAM. Zero activations save nothing.

    Args:
        counts: layers of one network, from ``count``.
        table: picojoules per 32-bit operation; the 45 nm table of the paper by default.
        sram_bytes: on-chip memory for weights, at least 0; 0 means that nothing fits.
        index_bits: bits for the position of a kept weight, in addition to its 32, at least 0.

    Raises:
        InvalidInput: a negative size.

    Example:
        >>> layer = LayerCount("fc", "Linear", 1000, 100, 1000, 100, 1.0, 1.0, 0.1)
        >>> estimate = energy([layer], sram_bytes=1024)
        >>> round(estimate.dense.total, 4), round(estimate.pruned.total, 5)
        (0.6446, 0.00096)

    Reference: Han et al. 2015, arXiv:1506.02626, section 1 and figure 1.
    """
    for name, value in (("sram_bytes", sram_bytes), ("index_bits", index_bits)):
        if value < 0:
            raise InvalidInput(f"Expected {name} of at least 0, got {value}; give 0 for none.")
    table = table or Energy45nm()
    layers = tuple(counts)

    def spent(multiply_adds: int, weights: int, bits: int) -> Energy:
        fits = weights * bits <= 8 * sram_bytes
        word = table.sram if fits else table.dram
        return Energy(
            arithmetic=_MICROJOULES * multiply_adds * (table.float_multiply + table.float_add),
            fetching=_MICROJOULES * weights * bits / 32 * word,
        )

    return EnergyEstimate(
        dense=spent(
            sum(layer.multiply_adds for layer in layers), sum(layer.weights for layer in layers), 32
        ),
        pruned=spent(
            sum(layer.effective_multiply_adds for layer in layers),
            sum(layer.kept for layer in layers),
            32 + index_bits,
        ),
    )
