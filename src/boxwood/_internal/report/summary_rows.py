"""What a study measured, one row for each level; without the tables, which take time to import."""

from dataclasses import dataclass

from boxwood._internal.report.statistics import Interval


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One network of the summary table, as means over its seeds.

    Args:
        name: What the reader calls it.
        seeds: Number of trained networks in the row.
        accuracy: Test accuracy as a fraction, with its interval.
        sparsity: Fraction of zeros among the prunable weights, in [0, 1).
        parameters: Number of parameters before pruning.
        nonzero: Number of parameters that are not zero.
        multiply_adds: Multiply-adds for one example of the kept weights.
        dense_multiply_adds: The same before pruning.
        bytes: Size of the encoded file on disk, index and all.
        dense_bytes: The same before pruning.
        epochs: Passes over the training set, from the first step to this network.
        seconds: Wall-clock time of them.
    """

    name: str
    seeds: int
    accuracy: Interval
    sparsity: float
    parameters: int
    nonzero: int
    multiply_adds: int
    dense_multiply_adds: int
    bytes: int
    dense_bytes: int
    epochs: float
    seconds: float
