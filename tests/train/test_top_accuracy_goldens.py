"""Top-k accuracy by hand, and where it is measured."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from boxwood._internal.data.splits import InMemory, Splits
from boxwood._internal.recipes.phase import Genesis, State, World, state_of
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.train.metrics import Accuracy, accuracy, top_accuracy
from boxwood.errors import BoxwoodError


def test_top_k_counts_targets_among_the_k_largest() -> None:
    """Targets at places 1 to 6 of the ranking: one more is right for each k, those left out never."""
    ranked = torch.arange(6.0, 0, -1).expand(7, 6)
    data = InMemory(ranked, torch.tensor([0, 1, 2, 3, 4, 5, -100]))
    for k in range(1, 7):
        assert top_accuracy(nn.Identity(), data, k, batch=4) == Accuracy(k, 6)
    for k in (0, 7):
        with pytest.raises(BoxwoodError, match="Expected k from 1 to the 6 classes"):
            top_accuracy(nn.Identity(), data, k)


def test_the_first_of_k_is_the_answer() -> None:
    """Top-1 is accuracy, for pixels as for images."""
    chance = torch.Generator().manual_seed(0)
    data = InMemory(
        torch.randn(4, 12, 3, 3, generator=chance),
        torch.randint(-1, 12, (4, 3, 3), generator=chance),
    )
    assert top_accuracy(nn.Identity(), data, 1) == accuracy(nn.Identity(), data)


@pytest.mark.parametrize("classes", [10, 11])
def test_more_than_ten_classes_are_measured_by_top_5_too(classes: int) -> None:
    """Ten classes leave the facts as they always were; eleven add the two counts, and no more."""
    data = InMemory(torch.eye(classes), torch.arange(classes))
    splits = Splits("eye", data, data, data, classes=classes, identity="")
    world = World(Genesis(model=partial(_ranking, classes), data=lambda: splits), splits, _none)
    state = state_of(world.genesis.model(), {}, {})
    facts = Measure().run(state, world).facts
    added = {name: value for name, value in facts.items() if "top5" in name}
    five = {"correct": 5, "total": classes}
    assert added == ({} if classes == 10 else {"test_top5": five, "validation_top5": five})
    assert facts["test"] == {"correct": 1, "total": classes}


def _ranking(classes: int) -> nn.Module:
    """Whatever enters, class 0 is the likeliest, then 1, and so on."""
    net = nn.Linear(classes, classes)
    nn.init.zeros_(net.weight)
    with torch.no_grad():
        net.bias.copy_(-torch.arange(float(classes)))
    return net


_none: Callable[[str], State] = lambda label: State({}, {})  # noqa: E731
