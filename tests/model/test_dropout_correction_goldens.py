"""Dropout rates for retraining, by hand."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from boxwood._internal.model.dropout import corrected_dropout, set_dropout_
from boxwood.errors import BoxwoodError


def network() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Dropout(0.2), nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(6, 4), nn.ReLU(), nn.Dropout(0.4), nn.Linear(4, 2), nn.Dropout(0.1)),
    )


def keeping(count: int, *shape: int) -> torch.Tensor:
    return (torch.arange(math.prod(shape)) < count).view(shape)


def test_rates_by_hand():
    """Each rate shrinks with the square root of the kept part of the layer that it feeds."""
    masks = {"1.weight": keeping(6, 6, 4), "4.weight": keeping(4, 4, 6)}
    rates = corrected_dropout(network(), masks)
    # 0.2 √(6/24) = 0.1; 0.5 √(4/24) = 0.5 / √6; no mask for layer 7; nothing after dropout 8.
    assert rates == pytest.approx({"0": 0.1, "3": 0.5 / math.sqrt(6), "6": 0.4}, rel=1e-15)


def test_the_rate_of_the_paper_for_a_ninth_of_the_connections():
    """Half dropout over 9 % of the connections becomes 0.15."""
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(100, 1))
    assert corrected_dropout(net, {"1.weight": keeping(9, 1, 100)}) == pytest.approx({"0": 0.15})


def test_filters_count_their_connections_too():
    """Dropout before a convolution follows the kept part of its weights."""
    net = nn.Sequential(nn.Dropout2d(0.4), nn.Conv2d(2, 2, 2))
    rates = corrected_dropout(net, {"1.weight": keeping(4, 2, 2, 2, 2)})
    assert rates == pytest.approx({"0": 0.2}, rel=1e-15)


def test_set_dropout_sets_these_and_no_others():
    """Rates are written to the modules of their names; the model is unchanged before that."""
    net = network()
    rates = corrected_dropout(net, {"4.weight": keeping(6, 4, 6)})
    assert [module.p for module in net if isinstance(module, nn.Dropout)] == [0.2, 0.5, 0.4, 0.1]
    set_dropout_(net, rates)
    assert [module.p for module in net if isinstance(module, nn.Dropout)] == [0.2, 0.25, 0.4, 0.1]


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(2, 2), nn.Linear(2, 2), nn.Dropout()

    def forward(self, x):
        return self.b(self.drop(self.a(self.drop(x))))


class Called(Shared):
    def forward(self, x):
        return self.b(F.dropout(self.a(x), training=self.training))


def test_dropout_that_cannot_be_set_is_refused():
    """One module for two layers and a function call have no rate of their own."""
    with pytest.raises(BoxwoodError, match="got 'drop' for two of them, 'b' the second"):
        corrected_dropout(Shared(), {})
    with pytest.raises(BoxwoodError, match=r"got the function call 'dropout' before 'b'"):
        corrected_dropout(Called(), {})


def test_wrong_rates_and_masks_are_refused_and_nothing_is_set():
    """A name that is no dropout, a rate out of range and a mask that does not fit are refused."""
    net = network()
    for rates, words in (
        ({"0": 0.3, "1": 0.3}, r"names of dropout modules \(0, 3, 6, 8\), got '1'"),
        ({"0": 0.3, "3": 1.0}, r"a dropout rate in \[0, 1\) for '3', got 1.0"),
        ({"0": 0.3, "3": -0.1}, r"a dropout rate in \[0, 1\) for '3', got -0.1"),
    ):
        with pytest.raises(BoxwoodError, match=words):
            set_dropout_(net, rates)
    assert net[0].p == 0.2
    with pytest.raises(BoxwoodError, match="Expected a bool mask of shape"):
        corrected_dropout(net, {"1.weight": keeping(1, 4, 6)})
