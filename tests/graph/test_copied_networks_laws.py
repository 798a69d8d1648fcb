"""Whatever a network holds beside weights, its copies compute with their own parts of it."""

import functools
import math
import re
import threading
import weakref
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood.errors import BoxwoodError

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.prepare()

    def prepare(self):
        pass

    def between(self, h):
        return h

    def forward(self, x):
        return self.b(self.between(self.a(x).relu()))


def half_of(net: nn.Module, x=X):
    """Train one step, remove half of the units, and check the rest."""
    net(x).abs().sum().backward()
    found = find_units(net, x)
    selection = select_units(found, 0.5)
    small = shrink(net, selection)
    report = check_equivalence(net, small, selection)
    assert report.equivalent, str(report)
    return found, small


class Box:
    pass


class KeepsActivations(Net):
    def prepare(self):
        self.log, self.maps, self.box, self.pair = {}, [], Box(), ()
        self.kept = None

    def between(self, h):
        self.kept = self.log["h"] = self.box.h = h
        self.maps, self.pair = [{"inner": [h]}], (h, h)
        return h


def test_activations_that_are_kept():
    """Activations in attributes, dicts, lists, tuples and objects do not hinder a trained network."""
    found, small = half_of(KeepsActivations())
    assert len(found) == 8
    assert small(X).shape == (4, 3)


class WrittenInInit(Net):
    def prepare(self):
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        inner = lambda h: h * self.scale  # noqa: E731
        self.scaled = lambda h: inner(h)
        self.functions = {"one": [self.scaled]}

    def between(self, h):
        return self.functions["one"][0](h)


def test_functions_use_the_parts_of_the_copy():
    """A function that refers to the network scales by the small network's own parameter."""
    net = WrittenInInit()
    found, small = half_of(net)
    assert ("scale", 0) in found.groups[0].axes
    before = small(X)
    with torch.no_grad():
        small.scale.mul_(2)
    assert torch.allclose(small(X) - small.b.bias, 2 * (before - small.b.bias), atol=1e-6)


class RefersWeakly(Net):
    def prepare(self):
        self.whole, self.gain = weakref.ref(self), nn.Parameter(torch.rand(8))

    def between(self, h):
        return h * self.whole().gain


def test_weak_references_lead_into_the_copy():
    """A weak reference to the network leads to the small network."""
    found, small = half_of(RefersWeakly())
    assert len(found) == 8
    assert small.whole() is small


class RefersByProxy(Net):
    def prepare(self):
        self.gain = nn.Parameter(torch.rand(8))
        object.__setattr__(self, "whole", weakref.proxy(self))  # torch takes it for a part

    def between(self, h):
        return h * self.whole.gain


def test_proxies_lead_into_the_copy():
    """A proxy of the network gives the small network's parameter."""
    found, small = half_of(RefersByProxy())
    assert len(found) == 8
    assert small.whole.gain is small.gain


class FindsLayersInVariables(Net):
    """Runs layers that a list, a method and a partial function lead to."""

    def prepare(self):
        layers, method = [self.a], self.after
        self.run = lambda x: method(layers[0](x))
        self.forward = functools.partial(lambda net, x: net.run(x), self)

    def after(self, h):
        return self.b(h.relu())


def test_layers_in_variables_of_functions():
    """A forward that was put on the instance runs the copy's own layers."""
    found, small = half_of(FindsLayersInVariables())
    assert len(found) == 8
    assert small.a.out_features == 4


class FindsLayersWeakly(Net):
    def prepare(self):
        self.layers = weakref.WeakValueDictionary({"a": self.a})

    def forward(self, x):
        return self.b(self.layers["a"](x).relu())


class ReadsAnother(Net):
    def between(self, h):
        return h * REPLACED["net"].gain


REPLACED: dict[str, Net] = {}


class Shared(nn.Linear):
    def __deepcopy__(self, memo):
        return self


def test_parts_that_are_copied_to_themselves():
    """A part that is its own copy would be changed with the copy, and is named."""
    net = nn.Sequential(Net(), Shared(3, 4), nn.Linear(4, 2)).train()
    with pytest.raises(BoxwoodError, match=r"got '1', a Shared whose __deepcopy__ returns itself"):
        find_units(net, X)
    assert net[1].training
    assert type(net[1].in_features) is int


def test_copies_that_compute_with_the_original_are_refused():
    """What leads to the original from outside is said, with the parameter."""
    with pytest.raises(BoxwoodError, match=r"copy of FindsLayersWeakly that reads 'a\.weight' of"):
        find_units(FindsLayersWeakly(), X)
    net = REPLACED["net"] = ReadsAnother()
    net.gain = nn.Parameter(torch.rand(8))
    with pytest.raises(BoxwoodError, match=r"reads 'gain' of the original, which a global"):
        find_units(net, X)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_compiled_python_is_refused():
    """TorchScript cannot be followed, whole or in part."""
    scripted = torch.jit.script(Net().b)
    with pytest.raises(BoxwoodError, match="in Python, got one in TorchScript"):
        find_units(scripted, torch.randn(2, 8))
    net = Net()
    net.b = scripted
    with pytest.raises(BoxwoodError, match="in Python, got b in TorchScript"):
        find_units(net, X)


class HoldsLocks(Net):
    def prepare(self):
        self.lock, self.nested, self.module = threading.Lock(), {"r": [threading.RLock()]}, math
        self.noise = torch.Generator().manual_seed(3)

    def between(self, h):
        with self.lock, self.nested["r"][0]:
            return h * self.module.sqrt(2)


def test_locks_modules_and_generators():
    """Locks and Python modules are shared, and a generator's state is the original's afterwards."""
    net = HoldsLocks()
    state = net.noise.get_state()
    _, small = half_of(net)
    assert small.lock is net.lock
    assert small.module is math
    assert small.noise is not net.noise
    assert torch.equal(net.noise.get_state(), state)


class HoldsAnIterator(Net):
    def prepare(self):
        self.inner = nn.Sequential(nn.Identity())
        self.inner[0].steps = (step for step in range(3))


def test_what_cannot_be_copied_is_named():
    """A generator of Python is named with its place."""
    with pytest.raises(BoxwoodError, match=r"can be copied, got 'inner\.0\.steps' of generator"):
        find_units(HoldsAnIterator(), X)


def test_hooks_write_nothing_for_the_user():
    """A hook's list gets no activations of copies, and those of the small network when it runs."""
    net, seen = Net(), []
    net.a.register_forward_hook(lambda module, args, out: seen.append(out))
    _, small = half_of(net)
    assert len(seen) == 1
    assert type(seen[0]) is Tensor
    small(X)
    assert [each.shape[1] for each in seen] == [8, 4]


class Marked(nn.Parameter):
    pass


def test_marks_on_parameters_stay():
    """Flags, classes and requires_grad of parameters are those of the original."""
    net = Net()
    net.a.weight = Marked(net.a.weight.data)
    net.a.weight.no_decay = True
    net.b.weight.requires_grad_(False)
    _, small = half_of(net)
    assert small.a.weight.no_decay
    assert isinstance(small.a.weight, Marked)
    assert [p.requires_grad for p in small.parameters()] == [
        p.requires_grad for p in net.parameters()
    ]
    assert all(p.grad is None for p in small.parameters())


@dataclass
class Inputs:
    x: Tensor
    scale: float = 2.0


class TakesOne(Net):
    def forward(self, given):
        if isinstance(given, Inputs):
            return super().forward(given.x * given.scale)
        return super().forward(given["x"] if isinstance(given, dict) else torch.cat(given))


@pytest.mark.parametrize("example", [[X, X], ({"x": X},), Inputs(X)], ids=["list", "dict", "data"])
def test_forms_of_examples(example):
    """One argument that is a list, a dict or a dataclass of tensors."""
    net = TakesOne()
    found = find_units(net, example)
    selection = select_units(found, 0.5)
    assert len(found) == 8
    assert check_equivalence(net, shrink(net, selection), selection).equivalent


class Graph(Net):
    """Averages over neighbours by a sparse matrix."""

    def __init__(self, compressed: bool, operator: bool):
        self.compressed, self.operator = compressed, operator
        super().__init__()

    def prepare(self):
        matrix = torch.eye(4) + torch.eye(4).roll(1, 0)
        self.register_buffer(
            "adjacency", matrix.to_sparse_csr() if self.compressed else matrix.to_sparse()
        )

    def between(self, h):
        return self.adjacency @ h if self.operator else torch.sparse.mm(self.adjacency, h)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("operator", [False, True])
def test_sparse_buffers(compressed, operator):
    """A sparse buffer is kept whole, whether it is read or not, and lets channels pass."""
    net = Graph(compressed, operator)
    net.register_buffer("unread", torch.eye(3).to_sparse())
    found, small = half_of(net)
    assert len(found) == 8
    assert small.adjacency.layout == net.adjacency.layout
    assert torch.equal(small.adjacency.to_dense(), net.adjacency.to_dense())


class TakesGraphs(Net):
    def forward(self, x, adjacency):
        return self.b(torch.sparse.mm(adjacency, self.a(x)).relu())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("sparse", [Tensor.to_sparse, Tensor.to_sparse_csr])
def test_sparse_inputs(sparse):
    """A sparse input is what it is; dense ones beside it are varied."""
    net, example = TakesGraphs(), (X, sparse(torch.eye(4).roll(1, 0)))
    found = find_units(net, example)
    selection = select_units(found, 0.5)
    report = check_equivalence(net, shrink(net, selection), selection)
    assert len(found) == 8
    assert report.equivalent
    assert [trial.inputs for trial in report.trials] == ["given", "given", "random"]


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Linear(6, 8, dtype=torch.cfloat), nn.Linear(8, 3, dtype=torch.cfloat))
        self.c = nn.Conv1d(1, 4, 1, dtype=torch.cfloat)

    def forward(self, x):
        h = self.a(x)
        h = self.b(torch.complex(h.real.relu(), h.imag.relu()))
        return self.c(h[:, None]).abs()


def test_complex_weights():
    """Complex units are ranked by the magnitude of their weights, and the smallest go exactly."""
    net, x = Complex(), torch.complex(X, X.flip(0))
    found, _ = half_of(net, x)
    sizes = net.a.weight.abs().sum(1) + net.a.bias.abs() + net.b.weight.abs().sum(0)
    kept = select_units(found, 0.5).kept
    assert sorted(sizes.topk(4).indices.tolist()) == kept.nonzero()[0].tolist()
    with pytest.raises(BoxwoodError, match=r"real scores, got complex ones for 'a\.weight'"):
        select_units(found, 0.5, criterion=lambda weight: weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda net: net.register_parameter("c", nn.Parameter(torch.eye(2).to_sparse())),
            r"dense parameters, got 'c', which is sparse",
        ),
        (
            lambda net: net.to(torch.float8_e4m3fn),
            r"got 'a\.weight' in float8_e4m3fn; shrink the network before it is quantised",
        ),
        (
            lambda net: setattr(net.a, "_packed_params", object()),
            r"got 'a', a quantised Linear that holds them packed",
        ),
    ],
)
def test_weights_that_nothing_is_cut_from(change, message):
    """Sparse, 8-bit and packed weights are refused by name."""
    net = Net()
    change(net)
    with pytest.raises(BoxwoodError, match=message):
        find_units(net, X)


def test_the_message_is_whole():
    """What is packed is named with the way out."""
    net = Net()
    net.a._packed_params = object()
    whole = (
        "Expected a network with ordinary weights, got 'a', a quantised Linear that holds them "
        "packed for quantised arithmetic; shrink the network before it is quantised."
    )
    with pytest.raises(BoxwoodError, match=f"^{re.escape(whole)}$"):
        find_units(net, X)
