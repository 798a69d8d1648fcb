"""Sources and targets of different lengths as two tensors: what sequence-to-sequence nets learn from."""

from collections.abc import Sequence

import torch

from boxwood.data import InMemory
from boxwood.errors import InvalidInput

NO_TARGET = -100
"""Marks places where there is nothing to say; losses and accuracies leave it out."""

Tokens = Sequence[int]


def paired(sources: Sequence[Tokens], targets: Sequence[Tokens], what: str) -> InMemory:
    """Put every source and its target side by side, filled up to the length of the longest.

    Inputs are int64 [n, 2, length]. Row 0 is the source, filled up with 0. Row 1 is what a decoder
    is fed: 0 for the beginning and then the target, one place late, filled up with 0. Targets are
    int64 [n, length]: the target, a 0 for its end, and `NO_TARGET` where nothing is asked.

    Args:
        sources: numbers from 1, at least one each.
        targets: numbers from 1, at least one each, as many as there are sources.
        what: what messages call them.

    Raises:
        InvalidInput: there are no pairs, or as many sources as targets; one is empty, or a number
            is below 1.

    Example:
        >>> data = paired([[3, 1, 2], [2]], [[5], [4, 4]], "toy")
        >>> data.inputs
        tensor([[[3, 1, 2],
                 [0, 5, 0]],
        <BLANKLINE>
                [[2, 0, 0],
                 [0, 4, 4]]])
        >>> data.targets
        tensor([[   5,    0, -100],
                [   4,    4,    0]])
    """
    if not sources or len(sources) != len(targets):
        raise InvalidInput(
            f"Expected as many sources as targets in the {what}, and at least one, got "
            f"{len(sources)} and {len(targets)}; give them in pairs."
        )
    for index, pair in enumerate(zip(sources, targets, strict=True)):
        if not all(tokens and min(tokens) > 0 for tokens in pair):
            raise InvalidInput(
                f"Expected tokens from 1, at least one, in pair {index} of the {what}, got "
                f"{list(pair[0])} and {list(pair[1])}; leave the pair out, or renumber it."
            )
    length = max(max(map(len, sources)), max(map(len, targets)) + 1)
    inputs = torch.zeros(len(sources), 2, length, dtype=torch.int64)
    wanted = torch.full((len(sources), length), NO_TARGET)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        inputs[row, 0, : len(source)] = torch.tensor(source)
        inputs[row, 1, 1 : len(target) + 1] = torch.tensor(target)
        wanted[row, : len(target) + 1] = torch.tensor([*target, 0])
    return InMemory(inputs, wanted)
