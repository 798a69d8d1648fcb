"""Parts of a data set: fewer training examples, or fewer classes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from boxwood._internal.data.splits import InMemory, Splits, fingerprint
from boxwood.errors import InvalidInput


def first_examples(data: Callable[[], Splits], count: int) -> Splits:
    """Keep the first ``count`` training examples; validation and test stay whole.

    The training part of Boxwood's data sets is in random order, so these are a fair sample.

    Args:
        data: returns the `Splits`.
        count: examples to keep, at least 1.

    Raises:
        InvalidInput: there are fewer.

    Example:
        >>> from boxwood.data import digits
        >>> len(first_examples(digits, 100).train)
        100
    """
    whole = data()
    if not 1 <= count <= len(whole.train):
        raise InvalidInput(
            f"Expected between 1 and {len(whole.train)} training examples of {whole.name} to "
            f"keep, got {count}; correct count=."
        )
    return _part(whole, torch.arange(count), f"first {count}")


def without_classes(data: Callable[[], Splits], classes: Sequence[int]) -> Splits:
    """Remove the training examples of some classes; validation and test stay whole.

    Args:
        data: returns the `Splits`.
        classes: numbers in [0, classes of the data).

    Raises:
        InvalidInput: a class does not exist, or no training example is left.

    Example:
        >>> from boxwood.data import digits
        >>> part = without_classes(digits, (3,))
        >>> part.classes, 3 in part.train.targets
        (10, False)

    Source: Hinton, Vinyals and Dean (2015), section 3: a transfer set without the digit 3.
    """
    whole = data()
    unknown = sorted(set(classes) - set(range(whole.classes)))
    if unknown:
        raise InvalidInput(
            f"Expected classes of {whole.name} in 0..{whole.classes - 1}, got {unknown}; correct "
            f"classes=."
        )
    _, labels = whole.train.take(torch.arange(len(whole.train)))
    kept = (
        (~torch.isin(labels, torch.tensor(list(classes), device=labels.device))).nonzero().flatten()
    )
    if not len(kept):
        raise InvalidInput(
            f"Expected training examples of {whole.name} that are left, got none without the "
            f"classes {sorted(classes)}; leave out fewer classes."
        )
    return _part(whole, kept, f"without {sorted(classes)}")


def _part(whole: Splits, kept: Tensor, title: str) -> Splits:
    return replace(
        whole,
        name=f"{whole.name}, {title}",
        train=InMemory(*whole.train.take(kept)),
        identity=fingerprint(whole.identity, title),
    )
