"""Beam search: the most likely sequence that a network can write token by token, or nearly so."""

from collections.abc import Callable

import torch
from torch import Tensor

from boxwood.errors import InvalidInput

Carry = tuple[Tensor, ...]
"""What a network knows after a beginning: tensors whose first axis is the beginnings."""

Next = Callable[[Tensor, Carry], tuple[Tensor, Carry]]
"""The last tokens, int64 [n], and what is carried, to scores [n, classes] and what is carried on."""


@torch.no_grad()
def beam_search(
    step: Next,
    carry: Carry,
    *,
    width: int,
    longest: int,
    length_penalty: float = 0.0,
    boundary: int = 0,
) -> list[tuple[int, ...]]:
    """Write one sequence for every start: among all that the search meets, the one of best score.

    ``score(Y) = log P(Y) / lp(Y)``, ``lp(Y) = ((5 + |Y|) / 6)^α``, where |Y| counts the end too. At
    every place the ``width`` most probable beginnings go on; those that end leave the search with their
    score. A width of one is the greedy choice; one that holds all beginnings is an exact search.
    It stops where no beginning can become better than the best that has ended.

    Args:
        step: scores what comes next; they need not be normalised.
        carry: what is known at the start, [batch, ...] each.
        width: beginnings that go on, at least 1.
        longest: tokens without the end, at least 0; after that number a sequence ends.
        length_penalty: α; 0 scores by log-probability alone, which favours short sequences.
        boundary: the token of beginning and end.

    Returns:
        For every start the tokens between beginning and end.

    Raises:
        InvalidInput: ``width``, ``longest`` or ``length_penalty`` is out of range.

    Example:
        >>> def step(last, carry):  # after the beginning 1 or 2, then the end
        ...     ahead = torch.tensor([[0.0, 0.6, 0.4], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
        ...     return ahead[last].log(), carry
        >>> [beam_search(step, (torch.zeros(1),), width=width, longest=4) for width in (1, 2)]
        [[(1,)], [(2,)]]

    Source: Wu et al., arXiv:1609.08144, 2016, equation 14.
    Differs from the paper: there is no penalty for what the attention has not looked at.
    """
    if width < 1 or longest < 0 or length_penalty < 0:
        raise InvalidInput(
            f"Expected width >= 1, longest >= 0 and length_penalty >= 0, got width={width}, "
            f"longest={longest}, length_penalty={length_penalty}; a width of 4 is usual."
        )
    batch, device = len(carry[0]), carry[0].device
    carry = tuple(part.repeat_interleave(width, 0) for part in carry)
    written = torch.full((batch, width, 1), boundary, device=device)
    # All beams of a start are alike at first: one of them is enough.
    likely = torch.full((batch, width), -torch.inf, device=device)
    likely[:, 0] = 0
    best = torch.full((batch,), -torch.inf, device=device)
    found: list[tuple[int, ...]] = [()] * batch
    rows = torch.arange(batch, device=device).unsqueeze(1)
    for length in range(longest + 1):
        scores, carry = step(written[:, :, -1].flatten(), carry)
        ahead = likely.unsqueeze(2) + scores.log_softmax(1).view(batch, width, -1)
        if length == longest:
            kept = torch.full_like(ahead, -torch.inf)
            kept[:, :, boundary] = ahead[:, :, boundary]
            ahead = kept
        classes = ahead.shape[2]
        likely, places = ahead.flatten(1).topk(width)
        parents, tokens = places // classes, places % classes
        flat = (rows * width + parents).flatten()
        carry = tuple(part.index_select(0, flat) for part in carry)
        written = torch.cat([written[rows, parents], tokens.unsqueeze(2)], 2)
        ended = tokens == boundary
        score = (likely / _penalty(length + 1, length_penalty)).masked_fill(~ended, -torch.inf)
        top, which = score.max(1)
        for start in (top > best).nonzero().flatten().tolist():
            found[start] = tuple(written[start, which[start], 1:-1].tolist())
        best = torch.maximum(best, top)
        likely = likely.masked_fill(ended, -torch.inf)
        # A beginning gets no likelier as it goes on, and no length divides by more than the last.
        hope = likely.max(1).values / _penalty(longest + 1, length_penalty)
        if bool((hope <= best).all()):
            break
    return found


def _penalty(length: int, alpha: float) -> float:
    return float(((5 + length) / 6) ** alpha)
