"""What is kept of every answer is exact: it can be read back, and adds up to what is reported."""

import base64

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from boxwood import BoxwoodError
from boxwood._internal.data.splits import InMemory
from boxwood._internal.train.answers import Answers, examine
from boxwood._internal.train.losses import cross_entropy
from boxwood._internal.train.metrics import accuracy, evaluate


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_bits_are_read_back(right: list[bool]) -> None:
    """Whatever the number of examples, its bits are the ones that were written."""
    answers = Answers.of_classes(torch.tensor(right))
    found = Answers.read(answers.facts())
    assert found.right.tolist() == [int(each) for each in right]
    assert found.targets.tolist() == [1] * len(right)


@example([(-1, 1, 0.0)])
@given(st.lists(st.tuples(st.integers(-5, 99), st.integers(0, 99), st.floats(0, 9, width=32))))
def test_counts_and_losses_are_read_back(rows: list[tuple[int, int, float]]) -> None:
    """Of examples with several targets, counts and losses come back as they were."""
    right, targets, loss = (np.array([row[k] for row in rows]) for k in range(3))
    found = Answers.read(Answers(right, targets, loss.astype(np.float32)).facts())
    assert found.right.tolist() == right.tolist()
    assert found.targets.tolist() == targets.tolist()
    assert found.loss is not None
    assert found.loss.tolist() == loss.astype(np.float32).tolist()


def test_small_counts_take_a_byte_each_and_rounded_losses_two() -> None:
    """A results file has them of every network; older files have four bytes each, and are read too."""
    right, targets, loss = np.array([3, 7, 0]), np.array([7, 255, 1]), np.array([0.5, 70.25, 2.0])
    facts = Answers(right, targets, loss.astype(np.float16)).facts()
    assert [len(facts[name]) for name in ("right", "targets", "loss")] == [4, 4, 8]
    whole = {name: base64.b64encode(array.astype(kind).tobytes()).decode()
             for name, array, kind in (("right", right, "<i4"), ("targets", targets, "<i4"), ("loss", loss, "<f4"))}  # fmt: skip
    for found in (Answers.read(facts), Answers.read({"examples": 3, **whole})):
        assert found.right.tolist() == right.tolist()
        assert found.targets.tolist() == targets.tolist()
        assert found.loss is not None
        assert found.loss.tolist() == loss.tolist()
    for name in ("right", "loss"):
        with pytest.raises(BoxwoodError, match="Expected the answers"):
            Answers.read({**facts, name: base64.b64encode(bytes(5)).decode()})


def test_ten_thousand_examples_take_kilobytes() -> None:
    """A bit for each example, in base64."""
    facts = Answers.of_classes(torch.ones(10_000, dtype=torch.bool)).facts()
    assert len(facts["right"]) == 4 * -(-1250 // 3)


def test_what_is_no_answer_is_refused() -> None:
    """Damaged facts are named, and nothing is guessed."""
    for facts in ({}, {"examples": 9, "right": "oA=="}, {"examples": 3, "right": "!"}):
        with pytest.raises(BoxwoodError, match="Expected the answers"):
            Answers.read(facts)


def test_answers_add_up_to_accuracy_and_loss() -> None:
    """Sums over examples are what `accuracy` and `evaluate` report, left-out targets left out."""
    outputs = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor(
        [[0, -100, -100], [1, 2, 3], [3, 3, -100], [-100, -100, -100], [2, -100, 1]]
    )
    data = InMemory(outputs, targets)
    found, answers = examine(nn.Identity(), data, cross_entropy)
    assert found == evaluate(nn.Identity(), data, cross_entropy)
    assert (int(answers.right.sum()), int(answers.targets.sum())) == (found.correct, found.total)
    assert answers.targets.tolist() == [1, 3, 2, 0, 2]
    assert float(answers.of("loss").sum()) / found.total == pytest.approx(found.loss, rel=1e-6)
    plain, _ = examine(nn.Identity(), data)
    assert plain == accuracy(nn.Identity(), data)
    with pytest.raises(BoxwoodError, match="Expected a loss of each example"):
        examine(nn.Identity(), data)[1].of("loss")
