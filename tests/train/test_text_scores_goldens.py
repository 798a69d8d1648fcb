"""Which tokens a language model predicts in windows, and what they add up to, by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from boxwood._internal.train.text_scores import score_windows, windows
from boxwood.errors import InvalidInput


def fading(ids: Tensor) -> Tensor:
    """A model for which token 0 has the probability 1 / (t + 2) after t + 1 tokens."""
    logits = torch.full((*ids.shape, 8), -math.inf)
    for place in range(ids.shape[1]):
        logits[:, place, : place + 2] = 0
    return logits


@pytest.mark.parametrize(
    ("length", "stride", "prefix", "products", "read"),
    [
        (3, 3, None, (2 * 3 * 4, 2 * 3), 5),  # 0 1 2 predict 1 2 3; 3 4 predict 4 5
        (3, 2, None, (2 * 3 * 4, 3 * 4), 6),  # 0 1 2 predict 1 2 3; 2 3 4 predict 4 5 of 3 4 5
        (3, 1, None, (2 * 3 * 4, 4 * 4), 9),
        (5, 5, None, (2 * 3 * 4 * 5 * 6,), 5),
        (3, 3, 7, (2 * 3 * 4, 2 * 3 * 4), 6),  # 7 0 1 predict 0 1 2; 7 3 4 predict 3 4 5
        (2, 1, 7, (2 * 3, 3 * 3, 3 * 3), 10),
    ],
)
def test_six_tokens(
    length: int, stride: int, prefix: int | None, products: tuple[int, ...], read: int
) -> None:
    """The probability of each piece is one over a product; pieces of ``length`` tokens."""
    ids = torch.zeros(6, dtype=torch.long)
    for batch in (1, 2, 9):
        score = score_windows(
            fading, ids, length=length, stride=stride, size=6, prefix=prefix, batch=batch
        )
        assert score.nats == pytest.approx([math.log(each) for each in products], rel=1e-6)
        assert sum(score.tokens) == (6 if prefix is not None else 5)
        assert score.tokens_read == read
        assert score.bits_per_byte == pytest.approx(math.log2(math.prod(products)) / 6, rel=1e-6)


@given(st.data())
def test_every_token_is_predicted_once(data: st.DataObject) -> None:
    """And none but the first is left out, whatever the stride; no window is longer than asked."""
    count, length = data.draw(st.integers(2, 60)), data.draw(st.integers(1, 12))
    stride, prefixed = data.draw(st.integers(1, length)), data.draw(st.booleans())
    seen: list[int] = []
    for each in windows(count, length, stride, prefixed=prefixed):
        assert each.start + (0 if prefixed else 1) <= each.first < each.stop
        assert each.stop - 1 - each.start + prefixed <= length
        if each.first > (0 if prefixed else 1):  # those of the first window have less
            assert each.first - each.start >= length - stride + (not prefixed)
        seen += range(each.first, each.stop)
    assert seen == list(range(0 if prefixed else 1, count))


def test_too_short_a_text_and_damaged_weights() -> None:
    """They are named."""
    ids = torch.zeros(4, dtype=torch.long)
    with pytest.raises(InvalidInput, match="at least 5 tokens for one piece of 4, got 4"):
        score_windows(fading, ids, length=4, stride=4, size=4)
    assert score_windows(fading, ids, length=4, stride=4, size=4, prefix=0).tokens == (4,)
    with pytest.raises(InvalidInput, match="finite losses of a language model"):
        score_windows(lambda x: fading(x) * math.nan, ids, length=3, stride=3, size=4)
