"""Compiling and running leave the user's network as it was, and state runs as in torch."""

import copy
import functools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.model_copy import copy_model
from boxwood._internal.engine.session import Session, Uncompiled
from boxwood.errors import BoxwoodError


class Base(nn.Module):
    """Two layers, and whatever a network keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.o = nn.Linear(6, 5), nn.Linear(5, 3)
        self.kept = None

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.f(x))


class Spiking(Base):
    def forward(self, x):
        self.kept = self.f(x) + (0 if self.kept is None else 0.5 * self.kept)
        spike = (self.kept > 0.3).float()
        self.kept = self.kept * (1 - spike)
        return spike + self.kept


class ReassignedBuffer(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(1, 5))

    def forward(self, x):
        self.h = torch.tanh(self.f(x).mean(0, keepdim=True) + self.h)
        return self.h


class BufferInPlace(ReassignedBuffer):
    def forward(self, x):
        self.h += 1
        return self.f(x) * self.h


class DataOfABuffer(ReassignedBuffer):
    def forward(self, x):
        self.h.data = self.f(x).mean(0, keepdim=True) + self.h.data
        return self.h * 2


class LastInput(Base):
    def forward(self, x):
        last, self.kept = self.kept, x
        return self.o(self.f(x - (x if last is None else last)))


class CountedCalls(Base):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.f(x) * self.calls


class ListOfStates(Base):
    def __init__(self) -> None:
        super().__init__()
        self.states = []

    def forward(self, x):
        self.states.append(self.f(x).mean())
        return x + torch.stack(self.states).sum()


class StatisticsInEvaluation(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x):
        y = F.batch_norm(
            self.f(x), self.norm.running_mean, self.norm.running_var, training=True, momentum=0.5
        )
        return y + self.norm.running_mean


class NumpyNoise(Base):
    def forward(self, x):
        return self.f(x) + float(np.random.rand())  # noqa: NPY002


class PythonNoise(Base):
    def forward(self, x):
        return self.f(x) * random.random()


class SeedsItself(Base):
    def forward(self, x):
        torch.manual_seed(7)
        return self.f(x) + torch.randn(5)


class InnerGradient(Base):
    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.o(self.f(x).tanh()).sum(), x)[0]


class OuterGradient(Base):
    def forward(self, x):
        x = x.requires_grad_()
        return torch.autograd.grad(self.o(self.f(x).tanh()).sum(), x)[0]


class RenormedEmbedding(Base):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 6, max_norm=0.1)

    def forward(self, x):
        return self.f(self.words((x > 0).long().sum(-1)))


class ReadsTheData(Base):
    def forward(self, x):
        return self.f(torch.from_numpy(x.detach().numpy().copy()))


class PassesThroughDlpack(Base):
    def forward(self, x):
        return self.f(torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(x.clone())))


class DeepCopies(Base):
    def forward(self, x):
        return self.f(copy.deepcopy(x)) + x.sum()


class ReturnsAnObject(Base):
    class Held:
        """Holds a tensor where nobody sees it."""

        def __init__(self, tensor) -> None:
            self.tensor = tensor

    def forward(self, x):
        return self.f(x), self.Held(x)


STAYS_IN_TORCH = (
    Spiking, ReassignedBuffer, BufferInPlace, LastInput, CountedCalls, ListOfStates,
    StatisticsInEvaluation, NumpyNoise, PythonNoise, SeedsItself, InnerGradient, OuterGradient,
    RenormedEmbedding, ReadsTheData, PassesThroughDlpack, DeepCopies, ReturnsAnObject,
    DataOfABuffer,
)  # fmt: skip


class TableAtFirstCall(Base):
    def forward(self, x):
        if self.kept is None:
            self.kept = torch.cos(torch.arange(5.0))
        return self.o(self.f(x) * self.kept)


class TableByLength(Base):
    def __init__(self) -> None:
        super().__init__()
        self.tables = {}

    def forward(self, x):
        if x.shape[-1] not in self.tables:
            self.tables[x.shape[-1]] = torch.linspace(0, 1, x.shape[-1])
        return self.f(x * self.tables[x.shape[-1]])


@functools.cache
def shared_table(length: int) -> Tensor:
    return torch.linspace(0.5, 1, length)


class TableOfAFunction(Base):
    def forward(self, x):
        return self.f(x * shared_table(x.shape[-1]))


class StoredActivation(Base):
    def forward(self, x):
        self.kept = {"hidden": [self.f(x).relu()]}
        return self.o(self.kept["hidden"][0])


class TorchNoise(Base):
    def forward(self, x):
        return self.f(x) + torch.randn_like(x[:, :5]) + torch.rand(5)


class OwnGenerator(Base):
    def __init__(self) -> None:
        super().__init__()
        self.chance = torch.Generator().manual_seed(3)

    def forward(self, x):
        return self.f(x) + torch.rand(5, generator=self.chance)


class DataOfAnInput(Base):
    def forward(self, x):
        return self.f(x.data) + x.detach()[:, :5]


class InItsOwnMode(Base):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x):
        return self.norm(self.drop(self.f(x)))


class HookThatHoldsIt(Base):
    def __init__(self) -> None:
        super().__init__()
        self.features = []
        self.f.register_forward_hook(lambda module, given, result: self.features.append(result))
        self.double = lambda x: 2 * self.f(x)

    def forward(self, x):
        return self.double(x) + self.features[-1]


COMPILED = (
    HookThatHoldsIt,
    TableAtFirstCall, TableByLength, TableOfAFunction, StoredActivation, TorchNoise, OwnGenerator,
    DataOfAnInput, InItsOwnMode,
)  # fmt: skip


def digest(value: object) -> object:
    """Everything that a value holds, down to the bytes of tensors."""
    if isinstance(value, Tensor):
        flags = (value.requires_grad, value.is_inference(), value.grad is None, value._version)
        return ("tensor", value.shape, value.dtype, flags, value.detach().numpy().tobytes())
    if isinstance(value, nn.Module):
        return (type(value).__name__, [(name, digest(each)) for name, each in vars(value).items()])
    if isinstance(value, dict):
        return [(str(key), digest(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [digest(each) for each in value]
    if isinstance(value, torch.Generator):
        return digest(value.get_state())
    return repr(value) if isinstance(value, int | float | str | bool) else type(value).__name__


def chance() -> object:
    return digest((torch.get_rng_state(), *map(str, (random.getstate(), np.random.get_state()))))  # noqa: NPY002


def seeded(call, x):
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)  # noqa: NPY002
    return call(x)


@pytest.mark.parametrize("kind", [*STAYS_IN_TORCH, *COMPILED])
def test_the_network_is_left_as_it_was_and_runs_as_in_torch(kind) -> None:
    """Call after call, from the state that it had when it was compiled."""
    torch.manual_seed(0)
    net = kind()
    net.f.weight.requires_grad_(False)
    if kind is InItsOwnMode:
        net.drop.eval()
    else:
        net.eval()
    start = copy_model(net).eval()
    x = torch.randn(2, 6)
    before, given, drawn = digest(net), digest(x), chance()
    fast = compile_(net, x)
    assert (digest(net), digest(x), chance()) == (before, given, drawn)
    assert isinstance(fast, Uncompiled if kind in STAYS_IN_TORCH else Session)
    for step in range(4):
        y = x * (step + 1)
        wanted = seeded(start, y.clone())
        got = seeded(fast, y.clone())
        if kind is ReturnsAnObject:
            wanted, got = (wanted[0], wanted[1].tensor), (got[0], got[1].tensor)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    if kind in COMPILED:  # another batch, which is planned at its first call
        y = torch.randn(5, 6)
        torch.testing.assert_close(seeded(fast, y), seeded(start, y), rtol=1e-5, atol=1e-6)
    assert digest(net) == before


@pytest.mark.parametrize("kind", [TableAtFirstCall, TableByLength, TableOfAFunction])
def test_a_network_can_be_trained_after_it_was_compiled(kind) -> None:
    """Tables that it builds at its first call are ordinary tensors."""
    shared_table.cache_clear()
    net, x = kind(), torch.randn(2, 6)
    compile_(net, x)(x)
    net(x).sum().backward()
    assert net.f.weight.grad is not None


def test_generators_of_the_user_are_left_as_they_were() -> None:
    """Also those that no attribute holds."""
    generator = torch.Generator().manual_seed(5)

    class Drawing(Base):
        def forward(self, x):
            return self.f(x) + torch.rand(5, generator=generator)

    before = generator.get_state()
    compile_(Drawing(), torch.randn(2, 6))
    assert torch.equal(generator.get_state(), before)


def test_what_functions_hold_is_left_as_it_was() -> None:
    """A list that a hook writes into is not written into by compiling, nor by the session."""
    net, seen = Base(), []
    net.f.register_forward_hook(lambda module, given, result: seen.append(result))
    x = torch.randn(2, 6)
    fast = compile_(net, x)
    fast(x)
    assert seen == []
    net(x)
    assert len(seen) == 1


def test_what_cannot_be_copied_is_said() -> None:
    """Compiling works on a copy."""
    net = Base()
    net.lines = open("/dev/null")  # noqa: SIM115, PTH123
    with net.lines, pytest.raises(BoxwoodError, match=r"deepcopy can copy.*TextIOWrapper"):
        compile_(net, torch.randn(2, 6))
