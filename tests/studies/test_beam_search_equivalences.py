"""Beam search against every sequence there is, and against the greedy choice."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwood.errors import BoxwoodError
from boxwood_studies.beam_search import beam_search
from boxwood_studies.seq2seq import Seq2Seq

LONGEST, CLASSES = 4, 3
SOURCES = torch.tensor([[1, 2, 3, 1], [3, 0, 0, 0], [2, 2, 0, 0]])


def net(seed: int) -> Seq2Seq:
    torch.manual_seed(seed)
    return Seq2Seq(sources=4, classes=CLASSES, hidden=5, layers=2, reach=1.5)


def log_probability(network: Seq2Seq, source: Tensor, tokens: tuple[int, ...]) -> float:
    """Of a target and its end, from one pass of the whole network."""
    length = max(len(source), len(tokens) + 1)
    pair = torch.zeros(1, 2, length, dtype=torch.int64)
    pair[0, 0, : len(source)] = source
    pair[0, 1, 1 : len(tokens) + 1] = torch.tensor(tokens)
    rows = network(pair)[0].log_softmax(0)
    return float(sum(rows[token, at] for at, token in enumerate((*tokens, 0))))


@torch.no_grad()
def best_of_all(network: Seq2Seq, source: Tensor, alpha: float) -> tuple[int, ...]:
    every = [
        tokens
        for length in range(LONGEST + 1)
        for tokens in product(range(1, CLASSES), repeat=length)
    ]

    def score(tokens: tuple[int, ...]) -> float:
        return log_probability(network, source, tokens) / ((5 + len(tokens) + 1) / 6) ** alpha

    return max(every, key=score)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.6, 3.0]))
def test_a_beam_that_holds_everything_is_an_exact_search(seed, alpha):
    """With room for all beginnings, the sequence found is the best of all of them."""
    network, width = net(seed), (CLASSES - 1) ** LONGEST * CLASSES
    found = beam_search(
        network.next, network.begin(SOURCES), width=width, longest=LONGEST, length_penalty=alpha
    )
    assert found == [best_of_all(network, source, alpha) for source in SOURCES]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.6]))
def test_a_beam_of_one_is_greedy(seed, alpha):
    """With one beginning, the likeliest token is taken at every place, whatever the penalty."""
    network = net(seed)
    found = beam_search(
        network.next, network.begin(SOURCES), width=1, longest=LONGEST, length_penalty=alpha
    )
    for source, tokens in zip(SOURCES, found, strict=True):
        carry, last, greedy = network.begin(source.unsqueeze(0)), torch.tensor([0]), []
        for _ in range(LONGEST):
            scores, carry = network.next(last, carry)
            last = scores.argmax(1)
            if not last:
                break
            greedy.append(int(last))
        assert tokens == tuple(greedy)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_a_search_does_not_see_its_neighbours(seed, width):
    """Searched together or alone, a source gets the same sequence."""
    network = net(seed)
    together = beam_search(network.next, network.begin(SOURCES), width=width, longest=LONGEST)
    alone = [
        beam_search(network.next, network.begin(source.unsqueeze(0)), width=width, longest=LONGEST)
        for source in SOURCES
    ]
    assert together == [each for (each,) in alone]


def chain(scores: list[list[float]]):
    """A network that scores by the last token alone."""
    return lambda last, carry: (torch.tensor(scores).log()[last], carry)


def test_the_length_penalty_by_hand():
    """P(1) = 0.5 · 0.4 beats P(1, 1) = 0.5 · 0.6 · 0.4 until the penalty forgives its length."""
    step = chain([[0.1, 0.9], [0.4, 0.6]])
    found = {
        alpha: beam_search(step, (torch.zeros(1),), width=4, longest=3, length_penalty=alpha)[0]
        for alpha in (0.0, 1.0, 5.0)
    }
    # log P of (): -2.303, (1,): -1.022, (1, 1): -1.532, (1, 1, 1): -2.043; lp(2) = 7/6, lp(4) = 9/6:
    # by α = 1: -0.876, -1.149, -1.362; by α = 5: -0.473, -0.364, -0.269.
    assert found == {0.0: (1,), 1.0: (1,), 5.0: (1, 1, 1)}


@pytest.mark.parametrize("wrong", [{"width": 0}, {"longest": -1}, {"length_penalty": -0.1}])
def test_settings_out_of_range(wrong):
    """A beam without room, a negative length or penalty is refused."""
    given = {"width": 1, "longest": 1, "length_penalty": 0.0} | wrong
    with pytest.raises(BoxwoodError, match="Expected width >= 1, longest >= 0 and length_penalty"):
        beam_search(chain([[1.0]]), (torch.zeros(1),), **given)
