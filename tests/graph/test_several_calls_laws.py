"""A network that is used in several ways is traced, cut and compared in all of them."""

import pytest
import torch
from torch import nn

from boxwood._internal.graph.compensate import compensate
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.examples import Calls
from boxwood._internal.graph.latency import latency
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood.errors import BoxwoodError

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Tasks(nn.Module):
    """One trunk, and a head that is chosen by name."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU())
        self.heads = nn.ModuleDict({"a": nn.Linear(16, 3), "b": nn.Linear(16, 5)})

    def forward(self, x, task="a"):
        return self.heads[task](self.trunk(x))

    def features(self, x):
        return self.trunk(x)


def test_what_no_call_reads_is_said():
    """A head that the example does not choose is named with the way out, once something goes."""
    net = Tasks()
    selection = select_units(find_units(net, X), 0.5)
    with pytest.warns(UserWarning, match=r"got 2 that no call reads, such as 'heads\.b\.weight'"):
        small = shrink(net, selection)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        small(X, "b")


@pytest.mark.parametrize(
    "found",
    [
        lambda net: find_units(net, {"x": X}, {"x": X, "task": "b"}),
        lambda net: find_units(net, X, call=lambda net, x: [net(x, task) for task in net.heads]),
    ],
    ids=["two examples", "a function"],
)
def test_both_heads_work(found):
    """Both heads lose the same columns, and the report is of both."""
    net = Tasks()
    selection = select_units(found(net), 0.5)
    small = shrink(net, selection)
    report = check_equivalence(net, small, selection)
    assert report.equivalent
    assert report.unread == ()
    assert [small.heads[name].in_features for name in "ab"] == [8, 8]
    assert small(X, "b").shape == (4, 5)
    assert latency(net, repeats=1)(selection) > 0


class Coder(nn.Module):
    """Has no forward at all."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(6, 8), nn.Linear(8, 6)

    def encode(self, x):
        return self.into(x).tanh()

    def decode(self, h):
        return self.out(h)


def code(net, x):
    return net.decode(net.encode(x))


def test_other_methods():
    """A function runs methods; other inputs of the same form are run in the same way."""
    net = Coder().eval()
    selection = select_units(find_units(net, X, call=code), 0.5)
    small = shrink(net, selection)
    assert small.encode(X).shape == (4, 4)
    assert check_equivalence(net, small, selection, torch.randn(3, 6)).equivalent
    assert check_equivalence(net, small, selection, inputs=lambda: torch.randn(7, 6)).equivalent
    better = compensate(net, small, selection, [torch.randn(64, 6)])
    assert (code(better, X) - code(net, X)).norm() < (code(small, X) - code(net, X)).norm()


def test_a_wrong_second_way_is_found():
    """The report compares what each way returns."""
    net = Tasks()
    selection = select_units(find_units(net, {"x": X}, {"x": X, "task": "b"}), 0.5)
    small = shrink(net, selection)
    small.heads["b"].register_forward_hook(lambda module, args, out: 1.01 * out)
    report = check_equivalence(net, small, selection)
    assert not report.equivalent


def test_one_example_for_several_calls_is_refused():
    """Other inputs are asked for each call; `Calls` gives them."""
    net = Tasks()
    selection = select_units(find_units(net, {"x": X}, {"x": X, "task": "b"}), 0.5)
    small = shrink(net, selection)
    with pytest.raises(BoxwoodError, match=r"each of the 2 calls that were traced, got those"):
        check_equivalence(net, small, selection, X)
    assert check_equivalence(
        net, small, selection, Calls(({"x": X + 1}, {"x": X, "task": "b"}))
    ).equivalent


class Lengths(nn.Module):
    """Uses its features in two widths, of which one call knows one."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x, split=False):
        h = self.a(x)
        if split:
            h = h.view(len(h), 2, 4).flip(1).reshape(len(h), 8)
        return self.b(h)


def test_ties_of_all_calls_hold():
    """What one call ties and another does not is tied: a flip of halves leaves no single channel."""
    net = Lengths()
    assert len(find_units(net, X)) == 8
    assert len(find_units(net, X, {"x": X, "split": True})) < 8
