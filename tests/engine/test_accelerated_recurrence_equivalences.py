"""Accelerated LSTMs and GRUs give what torch's give, step by step and over whole sequences."""

import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("llvmlite")

import boxwood
from boxwood._internal.engine import accelerate, layer_ops
from boxwood._internal.engine.kernels import bitmask
from boxwood._internal.engine.measured_shapes import MeasuredShapes
from boxwood._internal.engine.targets import host

pytestmark = pytest.mark.skipif(
    not bitmask.is_supported(host()), reason="no kernel on this processor"
)
CHANGED = "Expected the weights that accelerate_ has packed"


@pytest.fixture(autouse=True)
def in_kernels(monkeypatch) -> None:
    """Whatever is fastest, and whatever the size."""
    monkeypatch.setattr(MeasuredShapes, "_faster", lambda self, ours, *_: ours)
    monkeypatch.setattr(accelerate, "SMALLEST", 0)
    monkeypatch.setattr(accelerate, "DENSE", 0.0)


def pruned(layer: nn.Module, sparsity: float = 0.6) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim > 1:
                parameter *= torch.rand_like(parameter) >= sparsity
    return layer.eval()


def parts(found: tuple[Tensor, Tensor | tuple[Tensor, ...]]) -> list[Tensor]:
    y, state = found
    return [y, *(state if isinstance(state, tuple) else [state])]


def near(got: object, wanted: object) -> None:
    for ours, theirs in zip(parts(got), parts(wanted), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from([nn.LSTM, nn.GRU]),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 36)),
    length=st.sampled_from([(1, 1), (1, 5), (3, 2), (17, 1), (9, 3)]),
    depth=st.integers(1, 2), both=st.booleans(), first=st.booleans(), bias=st.booleans(),
    sparsity=st.sampled_from([0.0, 0.6, 1.0]), threads=st.sampled_from([1, 2]),
)  # fmt: skip
def test_any_stack(kind, sizes, length, depth, both, first, bias, sparsity, threads) -> None:
    """Of any sizes and directions, from zeros and from a state."""
    torch.manual_seed(0)
    layer = kind(*sizes, depth, bidirectional=both, batch_first=first, bias=bias)
    pruned(layer, sparsity)
    x = torch.randn(*(length[::-1] if first else length), sizes[0])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            wanted = layer(x)
            later = layer(x, wanted[1])
            assert boxwood.accelerate_(layer).replaced == 1
            near(layer(x), wanted)
            near(layer(x, wanted[1]), later)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_what_happens_around_it(kind) -> None:
    """State, copies, files, gradients, changes and restoring."""
    torch.manual_seed(0)
    net, x = pruned(kind(12, 20, 2)), torch.randn(5, 2, 12)
    reference = copy.deepcopy(net)
    names = set(net.__dict__)
    assert boxwood.accelerate_(net).replaced == 1
    with torch.no_grad():
        near(net(x), reference(x))
        twin = copy.deepcopy(net)
        near(twin(x), reference(x))
        assert twin.plan._shapes is net.plan._shapes
        again = pickle.loads(pickle.dumps(net))  # noqa: S301
        assert again.plan is None
        near(again(x), reference(x))
        near(net(x[:, 0]), reference(x[:, 0]))  # no batch: torch's
        packed = nn.utils.rnn.pack_sequence([x[:, 0], x[:3, 1]])
        assert torch.equal(net(packed)[0].data, reference(packed)[0].data)
        with pytest.raises(RuntimeError, match="size"):
            net(torch.randn(5, 2, 13))
    for each in (net, reference):
        each(x)[0].square().sum().backward()
    for ours, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    with torch.no_grad():
        for each in (net, reference):
            each.weight_hh_l0.mul_(2)
        with pytest.warns(RuntimeWarning, match=CHANGED):
            near(net(x), reference(x))
        boxwood.accelerate_(net)
        near(net(x), reference(x))
    boxwood.restore_(net)
    assert type(net) is kind
    assert set(net.__dict__) == names


@pytest.mark.parametrize("gates", [3, 4])
def test_the_operator_is_one_of_torchs(gates) -> None:
    """Its schema, shapes and tracing hold."""
    layer = pruned((nn.LSTM if gates == 4 else nn.GRU)(6, 8, bidirectional=True))
    weights = [weight.detach() for weight in layer._flat_weights]
    state = [torch.randn(2, 3, 8) for _ in range(gates - 2)]
    torch.library.opcheck(
        layer_ops.recurrence,
        (torch.randn(4, 3, 6), state, weights, gates, True, 1, True, False, 0),
    )


def test_many_threads_and_forks() -> None:
    """Calls at the same time and in a child get the bits that a call alone gets."""
    torch.manual_seed(0)
    net = pruned(nn.LSTM(8, 24))
    boxwood.accelerate_(net)
    xs = [torch.randn(1 + number % 6, 2, 8) for number in range(12)]

    def call(x: Tensor) -> Tensor:
        with torch.no_grad():
            return net(x)[0]

    alone = [call(x) for x in xs]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            assert all(map(torch.equal, pool.map(call, xs), alone))
    if hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            os._exit(0 if all(map(torch.equal, map(call, xs), alone)) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_projections_stay_torchs() -> None:
    """The report says so."""
    report = boxwood.accelerate_(pruned(nn.LSTM(8, 16, proj_size=4)))
    assert [each.why for each in report.layers] == ["projected outputs"]
