"""Laws of specialists: their classes, what they learn from, and how a generalist becomes one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from boxwood._internal.data.splits import InMemory
from boxwood._internal.distill.specialists import (
    BalancedExamples,
    confusable_classes,
    online_k_means,
    replace_output_layer_,
    specialist_targets,
    specialist_weights,
)
from boxwood._internal.model.output import output_layer
from boxwood._internal.recipes.phases.specialise import GroupClasses
from boxwood._internal.recipes.specialists import specialists
from boxwood.errors import BoxwoodError


def examples(counts: list[int]) -> InMemory:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return InMemory(torch.arange(len(labels)).float()[:, None], labels)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=6))
def test_half_and_half(counts: list[int]) -> None:
    """An epoch has both halves, all examples of each, and none of them over twice as often."""
    whole = examples(counts)
    half = BalancedExamples.of(whole, (0, 2))
    inputs, targets = half.take(torch.arange(len(half)))
    seen = inputs.flatten().long()
    own = torch.isin(whole.targets[seen], torch.tensor([0, 2]))
    assert int(own.sum()) == len(half) // 2 == len(half) - int(own.sum())
    times = torch.bincount(seen, minlength=len(whole))
    for part in (half.own, half.others):
        assert int(times[part].max() - times[part].min()) <= 1
        assert times[part].min() >= 1
    expected = {0: 0, 1: 2, 2: 1}
    assert targets.tolist() == [expected.get(label, 2) for label in whole.targets[seen].tolist()]


def test_dustbin_shift_restores_the_odds() -> None:
    """A specialist that learnt the half-and-half odds exactly has, shifted, those of the data."""
    counts = [30, 10, 40, 20]
    half = BalancedExamples.of(examples(counts), (1, 3))
    learnt = torch.tensor([10 / 60, 20 / 60, 30 / 60]).log()
    learnt[-1] += half.dustbin_shift
    torch.testing.assert_close(learnt.softmax(0), torch.tensor([0.1, 0.2, 0.7]))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000))
def test_cut_generalist_says_the_same_about_its_classes(seed: int) -> None:
    """A fresh specialist has the generalist's logits for its classes, and for a dustbin of equals their sum."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5))
    layer = output_layer(net, 5)
    with torch.no_grad():
        # The classes that go have the same logits, so the dustbin is exact.
        net[2].weight[[0, 2, 4]] = net[2].weight[0].clone()
        net[2].bias[[0, 2, 4]] = net[2].bias[0].clone()
    special = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5))
    replace_output_layer_(special, layer, 3)
    special.load_state_dict(specialist_weights(net.state_dict(), layer, (3, 1)))
    inputs = torch.randn(4, 3)
    p, q = net(inputs).softmax(1), special(inputs).softmax(1)
    expected = torch.stack([p[:, 3], p[:, 1], p[:, [0, 2, 4]].sum(1)], 1)
    torch.testing.assert_close(q, expected)


def test_clusters_of_separated_points() -> None:
    """Clusters far from each other are found, whatever the seed."""
    chance = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(4)
    points = centres.repeat_interleave(6, 0) + 0.1 * torch.randn(24, 4, generator=chance)
    for seed in range(5):
        found = online_k_means(points, 4, seed=seed).reshape(4, 6)
        assert (found == found[:, :1]).all()
        assert len(found[:, 0].unique()) == 4


def test_confused_classes_are_grouped() -> None:
    """Classes that share probability are one group, and those that share none are in none."""
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (2000,), generator=chance)
    group = torch.tensor([0, 0, 0, 1, 1, 2, 3])[labels]
    near = torch.tensor([0, 0, 0, 1, 1, 2, 3]) == group[:, None]
    logits = 1.5 * nn.functional.one_hot(labels, 7) + 6.0 * near
    assert confusable_classes(logits.softmax(1), 4) == ((0, 1, 2), (3, 4))


def test_places_of_classes_in_any_order() -> None:
    """A class has the place that it has in the specialist's list."""
    assert specialist_targets(torch.tensor([5, 1, 0]), (5, 0, 1)).tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusable_classes(torch.ones(3, 2) / 2, 3), "between 1 and 2 clusters"),
        (lambda: BalancedExamples.of(examples([1, 1]), (0, 1)), "some of the classes, but not all"),
        (lambda: BalancedExamples.of(examples([1, 1]), (5,)), "got 0 and 2"),
        (lambda: output_layer(nn.Linear(2, 3), 4), "with 4 outputs, one per class, got '' with 3"),
        (lambda: output_layer(nn.ReLU(), 4), "got none"),
        (lambda: GroupClasses(), "either clusters or given groups"),
        (lambda: specialists((), None, groups=()), "at least one group"),  # type: ignore[arg-type]
    ],
)
def test_refusals(call: object, message: str) -> None:
    """Groups and networks that cannot work are refused with the way out."""
    with pytest.raises(BoxwoodError, match=message):
        call()  # type: ignore[operator]


def test_dustbin_of_one_own_example() -> None:
    """The rarer its classes, the larger the shift."""
    assert BalancedExamples.of(examples([1, 99]), (0,)).dustbin_shift == pytest.approx(math.log(99))
