"""The law of structural pruning: the smaller network computes what the masked network computes."""

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.parametrize import is_parametrized

from boxwood._internal.graph.carrying import carry_optimizer
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.pair import Pair
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units, kept_indices

_SPEC = importlib.util.spec_from_file_location(
    "structure_nets", Path(__file__).parent / "structure_nets.py"
)
nets = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(nets)
EVERY = sorted(nets.NETS)
pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported"),
    pytest.mark.filterwarnings("ignore:Expected weights that are the same function of fewer"),
]


def random_selection(found, seed: int, fraction: float = 0.6) -> UnitSelection:
    """Remove units at random, and nothing entirely."""
    random = np.random.default_rng(seed)
    kept = random.random(len(found)) < fraction
    for axis in found.axes:
        if not kept_indices(axis, kept).any():
            kept[axis.units[random.integers(len(axis.units))]] = True
    return UnitSelection(found, kept)


@pytest.mark.parametrize("name", EVERY)
def test_every_family_has_units(name):
    """Each network of the list has something to remove, so that no law holds by emptiness."""
    net, x = nets.build(name)
    assert len(find_units(net, x)) >= 2


@pytest.mark.parametrize("name", EVERY)
def test_small_equals_masked(name):
    """Small equals masked within 1e-5 in single and 1e-10 in double, also in gradients."""
    net, x = nets.build(name)
    found = find_units(net, x)
    for seed in range(3):
        selection = random_selection(found, seed)
        small = shrink(net, selection)
        report = check_equivalence(net, small, selection, gradients=seed == 0)
        assert report.equivalent, str(report)
        assert all(t.difference <= 1e-10 * max(t.scale, 1) for t in report.trials)
        gradients = report.gradients and report.gradients.difference
        assert gradients is None or gradients < 1e-9
        single = Pair(net, small, selection, 0)._compare(x, "given", perturbed=False, dtype=None)
        assert single.difference <= 1e-5 * max(single.scale, 1)


@pytest.mark.parametrize("name", EVERY)
def test_two_removals_are_one(name):
    """Removing some and then more gives the weights of removing all at once."""
    net, x = nets.build(name)
    found = find_units(net, x)
    last = random_selection(found, 1, 0.4)
    first = UnitSelection(found, last.kept | random_selection(found, 2).kept)
    middle = shrink(net, first)
    again = find_units(middle, x)
    # A unit of the middle network is the unit of the original that its first member came from.
    numbers = {}
    by_name = {(a.names[0], a.dim): a for a in found.axes}
    for axis in again.axes:
        old = by_name[axis.names[0], axis.dim]
        places = np.flatnonzero(kept_indices(old, first.kept))
        for mine, place in zip(axis.units, places, strict=True):
            if mine >= 0:
                numbers[int(mine)] = int(old.units[place])
    kept = np.array([last.kept[numbers[unit]] for unit in range(len(again))])
    twice = shrink(middle, UnitSelection(again, kept)).state_dict()
    once = shrink(net, last).state_dict()
    assert list(once) == list(twice)
    for key, tensor in once.items():
        assert torch.equal(tensor, twice[key])


@pytest.mark.parametrize("name", EVERY)
def test_nothing_else_changes(name):
    """The original stays bit for bit, and keeping everything gives it back."""
    net, x = nets.build(name)
    before = copy.deepcopy(net.state_dict())
    attributes = {n: dict(vars(m)) for n, m in net.named_modules()}
    found = find_units(net, x)
    shrink(net, random_selection(found, 0))
    same = shrink(net, UnitSelection(found, np.ones(len(found), dtype=bool)))
    for key, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[key])
        assert torch.equal(tensor, same.state_dict()[key])
    for path, module in net.named_modules():
        ints = {k: v for k, v in vars(module).items() if isinstance(v, int)}
        assert ints == {k: v for k, v in attributes[path].items() if isinstance(v, int)}
        twin = same.get_submodule(path)
        assert ints == {k: v for k, v in vars(twin).items() if isinstance(v, int)}
        # PyTorch makes a class of its own for each parametrised module, and so does a copy.
        kinds = [type(m).__bases__ if is_parametrized(m) else type(m) for m in (twin, module)]
        assert kinds[0] == kinds[1]


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_random_graphs(data):
    """Random convolutional graphs of additions, joins, splits and groups obey the law."""
    net = RandomGraph(data.draw(st.integers(0, 10**6), label="seed"))
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    found = find_units(net, x)
    selection = random_selection(found, data.draw(st.integers(0, 100), label="removal"))
    small = shrink(net, selection)
    with torch.no_grad():
        assert small(x).shape == net(x).shape
    assert check_equivalence(net, small, selection, gradients=False).equivalent


class RandomGraph(torch.nn.Module):
    """A pool of tensors; each step takes some, makes one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.steps = []
        self.layers = torch.nn.ModuleList()
        random = np.random.default_rng(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            widths = [3]
            for _ in range(int(random.integers(4, 9))):
                place = int(random.integers(len(widths)))
                kind = ["conv", "norm", "depthwise", "grouped", "add", "cat", "chunk", "gate"][
                    int(random.integers(8))
                ]
                widths.append(self._step(kind, place, widths, random))
            self.head = torch.nn.Conv2d(sum(widths[1:]), 2, 1)
        self.eval()

    def _step(self, kind, place, widths, random):
        width, wide = widths[place], int(random.integers(2, 4)) * 4
        layer = torch.nn.Identity()
        if kind in ("chunk", "grouped") and width % 4:
            kind = "conv"
        if kind == "conv":
            layer, width = torch.nn.Conv2d(width, wide, 3, padding=1), wide
        elif kind == "norm":
            layer = torch.nn.BatchNorm2d(width)
        elif kind == "depthwise":
            layer, width = torch.nn.Conv2d(width, 2 * width, 1, groups=width), 2 * width
        elif kind == "grouped":
            layer, width = torch.nn.Conv2d(width, wide, 1, groups=2), wide
        elif kind == "gate":
            layer = torch.nn.Conv2d(width, width, 1)
        elif kind == "chunk":
            width = width // 2
        partners = [i for i, w in enumerate(widths) if w == width and i != place]
        partner = int(random.choice(partners)) if partners else place
        if kind == "cat":
            width = width + widths[partner]
        self.layers.append(layer)
        self.steps.append((kind, place, partner))
        return width

    def forward(self, x):
        pool = [x]
        for (kind, place, partner), layer in zip(self.steps, self.layers, strict=True):
            x, y = pool[place], pool[partner]
            if kind == "add":
                pool.append(x + y)
            elif kind == "cat":
                pool.append(torch.cat([x, y], 1))
            elif kind == "chunk":
                pool.append(x.chunk(2, 1)[1])
            elif kind == "gate":
                pool.append(torch.sigmoid(layer(x)) * x)
            else:
                pool.append(torch.relu(layer(x)))
        return self.head(torch.cat(pool[1:], 1))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_the_optimizer_goes_on(kind):
    """One step of the small network with carried state equals the kept part of a masked step."""
    net, x = nets.build("linear")
    optimizer = kind(
        net.parameters(), lr=0.01, **({"momentum": 0.9} if kind is not torch.optim.Adam else {})
    )
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    selection = random_selection(find_units(net, x), 0)
    small = shrink(net, selection)
    carried = carry_optimizer(optimizer, net, small, selection)
    for old, new in zip(optimizer.state.values(), carried.state.values(), strict=True):
        assert set(old) == set(new)
    small(x).square().sum().backward()
    carried.step()
    assert all(torch.isfinite(p).all() for p in small.parameters())
    assert carried.param_groups[0]["lr"] == 0.01
