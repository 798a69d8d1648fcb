"""What the bytes of an activation represent: ranges from values that calibration has shown."""

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine.kernels.quads import Quantisation

Values = NDArray[np.float32]

PERCENTILE = 99.99
"""Percent of the values on each side of 0 that `by_percentile` represents."""
SHRINKAGE = tuple(1 - step / 40 for step in range(33))
"""Shares of the whole range that `by_squared_error` tries."""
LEAST_SPAN = 1e-30
"""A range that is narrower holds zeros for all that float32 can tell."""


def spanning(low: float, high: float) -> Quantisation:
    """Return the bytes that span a range; 0 is always one of them.

    Example:
        >>> spanning(-1.0, 254.0)
        Quantisation(scale=1.0, zero=1)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < LEAST_SPAN:
        return Quantisation(1.0, 0)
    scale = (high - low) / 255
    return Quantisation(scale, round(-low / scale))


def by_percentile(values: Values) -> Quantisation:
    """Return bytes that leave out the outermost values.

    Example:
        >>> by_percentile(np.append(np.linspace(0, 1, 99_999, dtype=np.float32), 1000)).scale < 0.004
        True
    """
    low, high = np.percentile(values, (100 - PERCENTILE, PERCENTILE), method="nearest")
    return spanning(float(low), float(high))


def by_squared_error(values: Values) -> Quantisation:
    """Return bytes of least squared error, among ranges shrunk at both ends alike."""
    low, high = float(values.min()), float(values.max())
    tried = [spanning(low * share, high * share) for share in SHRINKAGE]
    return min(tried, key=lambda each: float(np.square(values - rounded(values, each)).sum()))


def rounded(values: Values, by: Quantisation) -> Values:
    """Return values as their bytes represent them.

    Example:
        >>> rounded(np.array([0.26, 9.0], np.float32), Quantisation(0.5, 0)).tolist()
        [0.5, 9.0]
    """
    q = np.clip(np.rint(values / np.float32(by.scale)) + by.zero, 0, 255)
    return np.asarray((q - by.zero) * by.scale, np.float32)
