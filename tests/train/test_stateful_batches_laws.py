"""Texts read in order: what is carried, in which order, and that nothing else disturbs it."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boxwood._internal.data.splits import InMemory
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.loop import train_
from boxwood._internal.train.losses import cross_entropy
from boxwood._internal.train.metrics import evaluate
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Regularisation, Training
from boxwood._internal.train.stateful_batches import stateful_batches
from boxwood._internal.zoo.language_models import LSTMLanguageModel
from boxwood.errors import BoxwoodError

WORDS = 13


def text(rows: int = 23, length: int = 4) -> InMemory:
    stream = torch.randint(WORDS, (rows * length + 1,), generator=torch.Generator().manual_seed(5))
    return InMemory(stream[:-1].view(rows, length), stream[1:].view(rows, length))


def network(dropout: float = 0.0) -> LSTMLanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return LSTMLanguageModel(words=WORDS, hidden=6, dropout=dropout)


def training(**changes: Any) -> Training:
    whole = Training(
        epochs=2,
        batch=3,
        optimizer=SGD(lr=1.0),
        regularisation=Regularisation(max_gradient_norm=0.25),
        stateful=True,
    )
    return replace(whole, **changes)


@settings(deadline=None)
@given(rows=st.integers(1, 60), batch=st.integers(1, 9))
def test_each_stream_continues_at_the_next_row(rows: int, batch: int) -> None:
    """Whole batches, every row at most once, and each stream goes on to the row after its last."""
    if rows < batch:
        with pytest.raises(BoxwoodError, match=f"at least {batch} rows for .*, got {rows};"):
            stateful_batches(rows, batch)
        return
    batches = stateful_batches(rows, batch)
    assert len(batches) == rows // batch
    assert all(len(indices) == batch for indices in batches)
    for before, after in itertools.pairwise(batches):
        assert torch.equal(after, before + 1)
    read = torch.cat(batches)
    assert len(read.unique()) == len(read) > rows - batch


@settings(deadline=None)
@given(cuts=st.lists(st.integers(1, 19), max_size=4, unique=True))
def test_a_text_in_pieces_reads_like_the_whole(cuts: list[int]) -> None:
    """Wherever a text is cut, carrying the state on gives the scores of the whole."""
    net = network()
    tokens = torch.randint(WORDS, (2, 20), generator=torch.Generator().manual_seed(0))
    state: dict[str, Tensor] = {}
    scores = []
    with torch.no_grad():
        for start, end in itertools.pairwise([0, *sorted(cuts), 20]):
            found, state = net.forward_with_state(tokens[:, start:end], state)
            scores.append(found)
        torch.testing.assert_close(torch.cat(scores, 2), net(tokens))


def test_training_is_truncated_backpropagation() -> None:
    """The loop is the one written out: state carried, gradients cut, afresh in every epoch."""
    ours, plain, data = network(), network(), text()
    train_(ours, data, training(), seed=0)
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0)
    stream_inputs, stream_targets = data.inputs[:21].view(3, 28), data.targets[:21].view(3, 28)
    for _ in range(2):
        hidden = cell = torch.zeros(2, 3, 6)
        for start in range(0, 28, 4):
            inputs, targets = (
                each[:, start : start + 4] for each in (stream_inputs, stream_targets)
            )
            inner, (hidden, cell) = plain.lstm(plain.embedding(inputs), (hidden, cell))
            hidden, cell = hidden.detach(), cell.detach()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(plain.output(inner).flatten(0, 1), targets.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.25)
            optimizer.step()
    for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_measuring_on_the_way_changes_nothing() -> None:
    """A network that is evaluated after every step ends with the weights of one that is not."""
    watched, alone, data = network(0.5), network(0.5), text()
    losses = []

    def watch(net: nn.Module, _: object) -> dict[str, float]:
        losses.append(evaluate(net, data, cross_entropy).loss)
        return {}

    train_(watched, data, training(watch_every=1), seed=0, callbacks=Callbacks(watch=watch))
    train_(alone, data, training(), seed=0)
    assert len(losses) == 14
    for mine, other in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_held_out_rows_are_read_from_their_beginning() -> None:
    """The order of held-out rows, and how many are read at once, change nothing."""
    net, data = network(0.5), text()
    found = evaluate(net, data, cross_entropy)
    moved = torch.randperm(23, generator=torch.Generator().manual_seed(2))
    again = evaluate(net, InMemory(*data.take(moved)), cross_entropy, batch=2)
    assert (found.correct, found.total) == (again.correct, again.total)
    assert found.loss == pytest.approx(again.loss, rel=1e-6)


def test_what_cannot_be_read_statefully() -> None:
    """Networks that carry no state, and texts with fewer rows than streams, are refused."""
    with pytest.raises(
        BoxwoodError, match="a method forward_with_state for a stateful training, got Linear"
    ):
        train_(nn.Linear(4, 3), InMemory(torch.eye(4), torch.arange(4)), training(), seed=0)
    with pytest.raises(
        BoxwoodError, match="at least 30 rows for a batch of 30 streams, got 23; give a"
    ):
        train_(network(), text(), training(batch=30), seed=0)
