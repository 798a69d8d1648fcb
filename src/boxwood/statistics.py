"""Statistics of studies: intervals over seeds and examples, tests, and the rules by which claims hold or fail."""

from boxwood._internal.report.estimates import (
    Estimate,
    over_seeds,
    over_seeds_and_examples,
    two_way_bootstrap,
)
from boxwood._internal.report.grids import choose
from boxwood._internal.report.significance import holm, mcnemar, seeds_needed
from boxwood._internal.report.statistics import Interval, PairedComparison, paired_difference, ratio
from boxwood._internal.report.verdicts import corrected, exceeds, in_every_seed, within_margin

__all__ = [
    "Estimate",
    "Interval",
    "PairedComparison",
    "choose",
    "corrected",
    "exceeds",
    "holm",
    "in_every_seed",
    "mcnemar",
    "over_seeds",
    "over_seeds_and_examples",
    "paired_difference",
    "ratio",
    "seeds_needed",
    "two_way_bootstrap",
    "within_margin",
]
