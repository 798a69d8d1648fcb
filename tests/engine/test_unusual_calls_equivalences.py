"""Calls that are not like the example in ways that shapes do not show."""

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.session import Session, Uncompiled, load_session
from boxwood._internal.engine.supported import supported_problems
from boxwood.errors import BoxwoodError


class Of(nn.Module):
    """A layer and a function of it and the inputs."""

    def __init__(self, function, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.layer = function, layer or nn.Linear(6, 6)

    def forward(self, *inputs: Tensor):
        return self.function(self.layer, *inputs)


def both_ways(net: nn.Module, *example: Tensor) -> list[Session]:
    """Return sessions with every operation in a kernel that can be, and with none."""
    session = compile_(net.eval(), example)
    assert isinstance(session, Session)
    able = frozenset(supported_problems(session.program, session.program.batch or 0))
    return [session.with_native(able), session.with_native(frozenset())]


def same(net: nn.Module, sessions: list[Session], *inputs: Tensor) -> None:
    with torch.no_grad():
        wanted = net(*inputs)
    for session in sessions:
        torch.testing.assert_close(session(*inputs), wanted, rtol=1e-4, atol=1e-5)


def test_strides_that_code_asks_for_are_those_of_the_example() -> None:
    """A convolution in torch leaves its channels last, in the recording they were not."""
    net = Of(
        lambda layer, x: layer(x).as_strided((2, 3, 4), (64, 16, 4), 1) + 1,
        nn.Conv2d(3, 4, 3, padding=1),
    )
    x = torch.randn(2, 3, 4, 4)
    sessions = both_ways(net, x)
    same(net, sessions, x)
    wanted = sessions[1](x)
    for other in (x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        for session in sessions:
            torch.testing.assert_close(session(other), wanted)


def test_inputs_in_any_strides() -> None:
    """Views, slices, turned and expanded ones."""
    net = Of(lambda layer, x: layer(x) + x.as_strided((1, 6), (6, 1)))
    x = torch.randn(4, 6)
    sessions = both_ways(net, x)
    for each in (x.t().contiguous().t(), torch.randn(4, 12)[:, ::2], torch.randn(4, 7)[:, 1:]):
        with torch.no_grad():
            wanted = net(each.contiguous())
        for session in sessions:
            torch.testing.assert_close(session(each), wanted, rtol=1e-4, atol=1e-5)
    expanded = torch.randn(1, 6).expand(4, 6)
    net = Of(lambda layer, x: layer(x))
    same(net, both_ways(net, expanded), expanded)


def test_one_tensor_twice_stays_one_tensor() -> None:
    """Self-attention is recorded as such; other queries than keys are another network."""
    net = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x, y = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    fast = compile_(net, (x, x, x))
    with torch.no_grad():
        torch.testing.assert_close(fast(y, y, y)[0], net(y, y, y)[0])
    with pytest.raises(BoxwoodError, match="tensors 0 and 1 of the call to be the same tensor"):
        fast(x, y, y)
    apart = compile_(net, (x, x.clone(), x.clone()))
    with torch.no_grad():
        torch.testing.assert_close(apart(x, y, y)[0], net(x, y, y)[0])
        torch.testing.assert_close(apart(y, y, y)[0], net(y, y, y)[0])


def test_calls_by_position_and_by_name_are_one() -> None:
    """What is read the short way, and what is not: names, parameters, arguments left out."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor, y: Tensor | None = None, *, z: Tensor | None = None) -> Tensor:
            found = self.layer(x)
            found = found if y is None else found - 2 * y
            return found if z is None else found + 3 * z

    net = Two().eval()
    x, y, z = torch.randn(3, 2, 6).unbind()
    fast = compile_(net, (x, y))
    with torch.no_grad():
        wanted = net(x, y)
        for got in (fast(x, y), fast(x, y=y), fast(y=y, x=x), fast(nn.Parameter(x), y)):
            torch.testing.assert_close(got, wanted)
        torch.testing.assert_close(compile_(net, (x,))(y), net(y))
        named = compile_(net, {"x": x, "z": z})
        torch.testing.assert_close(named(y, z=x), net(y, z=x))
    for args, kwargs in (((x,), {}), ((x, y), {"z": z})):
        with pytest.raises(BoxwoodError, match="arguments like the example's"):
            fast(*args, **kwargs)
    with pytest.raises(BoxwoodError, match="arguments like the example's"):
        named(x, z)
    with pytest.raises(BoxwoodError, match="Expected a tensor, got NoneType"):
        fast(x, None)


def test_results_share_memory_with_nothing() -> None:
    """Whoever writes into one changes neither another one nor what he gave."""
    net = Of(lambda layer, x: (x, x.clone(), x.clone()[:, :2], layer(x), layer(x).clone(), x.t()))
    x = torch.randn(2, 6)
    for session in both_ways(net, x):
        given = x.clone()
        wanted = [each.clone() for each in session(given)]
        for index in range(len(wanted)):
            results = session(given)
            results[index].fill_(7.0)
            assert torch.equal(given, x)
            for other, (one, two) in enumerate(zip(results, wanted, strict=True)):
                assert other == index or torch.equal(one, two)


def test_a_sign_beside_the_memory_is_seen() -> None:
    """The imaginary part of a conjugate is negated where it is read."""
    net = Of(lambda layer, x: layer(x))
    plain = torch.randn(2, 6)
    sessions = both_ways(net, plain)
    negated = torch._neg_view(plain)
    assert negated.is_neg()
    same(net, sessions, negated)
    spectrum = Of(lambda layer, x: layer(torch.fft.fft(x).conj().imag.contiguous()))
    same(spectrum, both_ways(spectrum, plain), plain)


def test_autocast_does_not_reach_a_session() -> None:
    """Kernels read the types that they were compiled for."""
    net = Of(lambda layer, x: layer(torch.softmax(layer(x) @ x.t(), -1) @ x))
    x = torch.randn(4, 6)
    sessions = both_ways(net, x)
    wanted = [session(x) for session in sessions]
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(one(x), two) for one, two in zip(sessions, wanted, strict=True))
        assert compile_(net, x)(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("unusual", "message"),
    [
        (lambda x: x.to_sparse(), "to be dense, got one of layout torch.sparse_coo"),
        (lambda x: x.to("meta"), "on cpu, got torch.float32 on meta"),
        (lambda x: x.to(torch.complex64), "to be torch.float32 on cpu, got torch.complex64"),
        (lambda x: x[None], r"of shape \(batch, 6\), got \(1, 2, 6\)"),
        (lambda x: x[:0], r"of shape \(batch, 6\), got \(0, 6\)"),
        (lambda x: x.numpy(), "Expected a tensor, got ndarray"),
        (lambda x: [x], "arguments like the example's"),
    ],
)
def test_other_kinds_of_tensors_are_refused(unusual, message) -> None:
    """Before anything reads them."""
    fast = compile_(Of(lambda layer, x: layer(x)).eval(), torch.randn(2, 6))
    with pytest.raises(BoxwoodError, match=message):
        fast(unusual(torch.randn(2, 6)))


def test_a_sparse_example_stays_in_torch() -> None:
    """Programs hold dense tensors."""
    net = Of(lambda layer, x: layer(x.to_dense())).eval()
    x = torch.randn(2, 6).relu().to_sparse()
    fast = compile_(net, x)
    assert isinstance(fast, Uncompiled)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x))


def test_arguments_that_may_hold_tensors_stay_in_torch() -> None:
    """An array changes without the program's knowledge."""
    import numpy as np

    net = Of(lambda layer, x, scale: layer(x) * float(scale[0])).eval()
    x, scale = torch.randn(2, 6), np.ones(1)
    fast = compile_(net, (x, scale))
    assert isinstance(fast, Uncompiled)
    scale[0] = 3.0
    with torch.no_grad():
        torch.testing.assert_close(fast(x, scale), net(x, scale))


def test_a_network_that_writes_into_its_input_does_so_when_called(tmp_path) -> None:
    """As in torch; compiling leaves the example alone."""
    net = Of(lambda layer, x: layer(x.mul_(2))).eval()
    x = torch.randn(2, 6)
    kept = x.clone()
    fast = compile_(net, x)
    assert torch.equal(x, kept)
    fast(x)
    assert torch.equal(x, 2 * kept)


def test_a_default_type_of_another_day_is_refused_not_read_as_floats() -> None:
    """Kernels read as much memory as the plan says."""
    net = Of(lambda layer, x: layer(x + torch.zeros(x.shape[0], 6)))
    x = torch.randn(2, 6)
    sessions = both_ways(net, x)
    try:
        torch.set_default_dtype(torch.float64)
        for session in sessions:
            with pytest.raises(BoxwoodError, match=r"to give .* torch.float32 .*, got"):
                session(torch.randn(3, 6, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_file_remembers_which_tensors_were_one(tmp_path) -> None:
    """The interface goes with it."""
    net = Of(lambda layer, x, y: layer(x) + y).eval()
    x = torch.randn(2, 6)
    compile_(net, (x, x)).save(tmp_path / "net.bxw")
    with pytest.raises(BoxwoodError, match="tensors 0 and 1 of the call to be the same tensor"):
        load_session(tmp_path / "net.bxw")(x, x.clone())


def test_shapes_that_torch_tells_wrongly_without_values_are_no_reason_to_refuse() -> None:
    """Of one of its results that nobody reads, an embedding bag gives none, and says otherwise."""

    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.EmbeddingBag(10, 6), nn.Linear(6, 3)

        def forward(self, words, starts):
            return self.out(self.words(words, starts))

    words, starts = torch.tensor([1, 2, 3, 4]), torch.tensor([0, 2])
    net = Bags().eval()
    same(net, both_ways(net, words, starts), words.flip(0), starts)
