"""Standings of weights among their rivals."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from boxwood._internal.core.granularity import PerRow


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99), st.booleans())
def test_standings_are_those_of_a_stable_sort(width: int, rows: int, seed: int, tied: bool) -> None:
    """Short rows, which are compared pair by pair, and long ones; of equals the first is higher."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, width, generator=generator)
    scores = scores.round() if tied else scores
    alive = torch.rand(rows, width, generator=generator) < 0.8
    found = PerRow().rank(scores, alive)
    for row, kept, standing in zip(scores, alive, found, strict=True):
        order = sorted(range(width), key=lambda i: (not kept[i], -float(row[i]) if kept[i] else 0, i))  # fmt: skip
        wanted = {place: (width - i) / width for i, place in enumerate(order)}
        assert standing.tolist() == [torch.tensor(wanted[i]).item() for i in range(width)]
