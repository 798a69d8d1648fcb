"""A part of the training examples, drawn at random from data that are in an order of their own."""

from collections.abc import Callable
from dataclasses import replace

import torch

from boxwood._internal.core.seeds import generator_for
from boxwood._internal.data.splits import fingerprint
from boxwood.data import InMemory, Splits
from boxwood.errors import InvalidInput


def drawn_examples(data: Callable[[], Splits], count: int) -> Splits:
    """Draw ``count`` training examples, the same ones each time; validation and test stay whole.

    For frames of speech, of which the first ones are those of a few utterances.

    Args:
        data: returns the `Splits`.
        count: examples to draw, at least 1.

    Raises:
        InvalidInput: there are fewer.

    Example:
        >>> from boxwood.data import digits
        >>> len(drawn_examples(digits, 100).train)
        100
    """
    whole = data()
    if not 1 <= count <= len(whole.train):
        raise InvalidInput(
            f"Expected between 1 and {len(whole.train)} training examples of {whole.name} to draw, "
            f"got {count}; correct count=."
        )
    order = torch.randperm(len(whole.train), generator=generator_for(0, "drawn examples"))
    return replace(
        whole,
        name=f"{whole.name}, {count} drawn",
        train=InMemory(*whole.train.take(order[:count])),
        identity=fingerprint("drawn", whole.identity, order[:count]),
    )
