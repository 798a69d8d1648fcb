"""One call from a network to a smaller one: it does what the single steps do, and says what is mixed up."""

import pytest
import torch
from torch import nn

import boxwood
from boxwood._internal.graph import surgery
from boxwood._internal.graph.budgets import Budget, parameters
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.shrink import shrink
from boxwood.errors import InvalidInput, NoEffect

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 8),
            nn.Tanh(),
            nn.Linear(8, 2),
        ).eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.75])
def test_one_call_is_the_steps_in_a_row(keep: float) -> None:
    """Units by the sum of their magnitudes, the same share of every group."""
    net = network()
    selection = boxwood.select_units(boxwood.find_units(net, X), keep)
    assert same(shrink(net, X, keep), shrink(net, selection))
    assert same(shrink(net, X, keep=keep), shrink(net, selection))


def test_half_of_the_units_stay_unless_something_else_is_said() -> None:
    net = network()
    found = boxwood.find_units(net, X)
    assert same(shrink(net, X), shrink(net, X, 0.5))
    assert (boxwood.select_units(found).kept == boxwood.select_units(found, 0.5).kept).all()
    budget = Budget(1.0, parameters)
    with pytest.warns(NoEffect):
        assert boxwood.select_units(found, budget=budget).removed == 0


def test_with_data_the_result_is_repaired() -> None:
    """By the same function as in single steps; what comes after the inputs is not looked at."""
    net = network()
    selection = boxwood.select_units(boxwood.find_units(net, X), 0.5)
    cut = shrink(net, selection)
    expected = boxwood.compensate(net, cut, selection, [X])
    targets = torch.zeros(64)
    for made in (
        shrink(net, X, 0.5, [X]),
        shrink(net, X, 0.5, data=[(X, targets)]),
        shrink(net, selection, data=[X]),
    ):
        assert same(made, expected)
    before, after = ((net(X) - each(X)).square().mean() for each in (cut, expected))
    assert after < before


def test_several_inputs_by_place_and_by_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.a(x)) + torch.relu(self.b(y)))

    for example in ((X, X), {"x": X, "y": X}):
        assert shrink(Two(), example).c.in_features == 4  # type: ignore[union-attr]


def test_the_network_is_not_built_again_for_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attributes that changed are known from the selection alone."""
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)).eval()
    selection = boxwood.select_units(boxwood.find_units(net, X), 0.5)
    small = shrink(net, selection)

    def refuse(*_: object, **__: object) -> nn.Module:
        raise AssertionError("built again")

    monkeypatch.setattr(surgery, "rebuilt", refuse)
    report = check_equivalence(net, small, selection)
    assert report.equivalent
    assert [change.path for change in report.attributes] == [("1", "normalized_shape", 0)]


def mixed_up(net: nn.Module) -> dict[str, object]:
    found = boxwood.find_units(net, X)
    selection = boxwood.select_units(found, 0.5)
    return {
        "keep=0.5 as well": lambda: shrink(net, selection, 0.5),
        "all units of a network": lambda: shrink(net, found),
        "example input, got 0.5": lambda: shrink(net, 0.5),
        "example input, got None": lambda: shrink(net, None),
        "masks or weights by parameter name": lambda: shrink(net, boxwood.find_masks(net, 0.5)),
        "weights by parameter name": lambda: shrink(net, dict(net.named_parameters())),
        "batches for the repair as data=": lambda: shrink(net, X, [X]),
        r"fraction of units in \(0, 1\], got a value of type UnitSelection": lambda: shrink(
            net, X, selection
        ),
        r"keep in \(0, 1\], got 2": lambda: shrink(net, X, 2),
        r"batches of inputs, got a value of type Tensor; give .*\[inputs\]": lambda: shrink(
            net, X, data=X
        ),
        "batches of inputs, got none": lambda: shrink(net, X, data=[]),
        "Expected a network, got a value of type Tensor": lambda: shrink(X, net),
    }


@pytest.mark.parametrize("words", list(mixed_up(network())))
def test_arguments_that_are_mixed_up_are_answered(words: str) -> None:
    net = network()
    with pytest.raises(InvalidInput, match=words):
        mixed_up(net)[words]()
