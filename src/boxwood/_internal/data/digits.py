"""Scikit-learn's handwritten digits: real data that comes with a wheel."""

import torch

from boxwood._internal.core.extras import extra
from boxwood._internal.data.splits import Splits, from_tensors, hold_out

_TEST = 360
_VALIDATION = 240


def digits() -> Splits:
    """Load 1,797 digits of shape (1, 8, 8): 1,197 training, 240 validation and 360 test.

    The same split on every call. The file is ordered by writer, so it is shuffled before it is
    split, and all parts have digits of the same 13 people. A test accuracy is therefore for new
    digits of known writers, and is higher than for unknown writers.

    Raises:
        MissingDependency: scikit-learn is not installed.

    Example:
        >>> data = digits()
        >>> len(data.train), len(data.validation), len(data.test), data.shape, data.classes
        (1197, 240, 360, (1, 8, 8), 10)

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, 1998 (its test file).
    """
    with extra("digits", "scikit-learn for the digits"):
        from sklearn.datasets import load_digits
    loaded = load_digits()
    images = torch.from_numpy(loaded.images).float().unsqueeze(1)
    labels = torch.from_numpy(loaded.target).long()
    rest, test = hold_out(len(images), _TEST, seed=0, purpose="test")
    return from_tensors(
        "digits",
        (images[rest], labels[rest]),
        (images[test], labels[test]),
        validation=_VALIDATION,
    )
