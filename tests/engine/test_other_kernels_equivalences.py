"""Matrix–vector, depthwise, pooling, elementwise, copying and recurrent kernels against references."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from boxwood._internal.engine.kernels import (
    activations,
    attention,
    conv,
    copying,
    elementwise,
    matvec,
    normalisation,
    pooling,
    recurrent,
)
from boxwood._internal.engine.kernels.attention import Attention
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.copying import Copy
from boxwood._internal.engine.kernels.elementwise import Elementwise, Operation
from boxwood._internal.engine.kernels.matvec import MatVec
from boxwood._internal.engine.kernels.normalisation import LayerNorm
from boxwood._internal.engine.kernels.pooling import GlobalAverage, Pool
from boxwood._internal.engine.layouts import columns, contiguous, padded, vector
from boxwood._internal.engine.targets import AVX2
from boxwood.errors import BoxwoodError

pytest.importorskip("llvmlite")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def as_planes(values):
    return values[:, :, None, None]


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 70),
    height=st.sampled_from([1, 8, 16]),
    sparsity=st.sampled_from([0, 0.6, 0.95, 1]),
    residual=st.booleans(),
    activation=st.sampled_from([Activation.NONE, Activation.SIGMOID]),
    threads=st.sampled_from([1, 2]),
)
def test_matrix_times_vector(
    run_kernel, inputs, outputs, height, sparsity, residual, activation, threads
):
    """Any matrix in any block height equals the reference."""
    problem = MatVec(inputs, outputs, activation, residual)
    weight = normal(outputs, inputs)
    weight[np.random.default_rng(1).random(weight.shape) < sparsity] = 0
    bias, x, added = normal(outputs, seed=2), normal(2, inputs, seed=3), normal(2, outputs, seed=4)
    kernel = matvec.build(problem, weight, bias, run_kernel.target, height=height, threads=threads)
    second = (problem.target, as_planes(added)) if residual else None
    y = run_kernel(kernel, problem.source, problem.target, as_planes(x), second)
    expected = matvec.reference(problem, x, weight, bias, added if residual else None)
    np.testing.assert_allclose(y[:, :, 0, 0], expected, atol=4e-6)


def test_matrix_of_another_shape():
    """A matrix that is not [outputs, inputs] is refused."""
    with pytest.raises(BoxwoodError, match=r"Expected a weight of shape \(3, 2\), got \(2, 3\)"):
        matvec.build(MatVec(2, 3), np.zeros((2, 3), np.float32), None, AVX2)


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    kernel=st.sampled_from([(3, 3), (5, 5), (1, 3)]),
    stride=st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 2)]),
    halo=st.integers(0, 2),
    channels=st.integers(1, 5),
)
def test_depthwise(run_kernel, size, kernel, stride, halo, channels):
    """One filter per channel, straight or strided, equals the reference."""
    padding = tuple(k // 2 for k in kernel)
    out = [(size[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
    source = padded(channels, *size, halo=max(padding))
    problem = Conv(
        source,
        padded(channels, *out, halo=halo),
        kernel,
        stride,
        padding,
        groups=channels,
        activation=Activation.RELU6,
    )
    weight, bias, x = normal(*problem.weight_shape), normal(channels), normal(2, *source.shape)
    kernel_ = conv.build(problem, weight, bias, run_kernel.target)
    y = run_kernel(kernel_, source, problem.target, x)
    np.testing.assert_allclose(y, conv.reference(problem, x, weight, bias), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    ceil=st.booleans(),
    average=st.booleans(),
    count_padding=st.booleans(),
    dilation=st.integers(1, 2),
)
def test_pooling(run_kernel, size, kernel, stride, ceil, average, count_padding, dilation):
    """Kernel and reference pool as torch does, padding and ceil mode included."""
    padding = kernel // 2
    dilation = 1 if average or (kernel - 1) * 2 >= min(size) else dilation
    x = normal(2, 3, *size)
    pool = functional.avg_pool2d if average else functional.max_pool2d
    settings_ = {"count_include_pad": count_padding} if average else {"dilation": dilation}
    expected = pool(
        torch.from_numpy(x), kernel, stride, padding, ceil_mode=ceil, **settings_
    ).numpy()
    problem = Pool(
        padded(3, *size),
        padded(3, *expected.shape[2:], halo=1),
        (kernel, kernel),
        (stride, stride),
        (padding, padding),
        (dilation, dilation),
        average,
        count_padding,
    )
    np.testing.assert_allclose(pooling.reference(problem, x), expected, atol=1e-6)
    y = run_kernel(pooling.build(problem, run_kernel.target), problem.source, problem.target, x)
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_maximum_keeps_nan(run_kernel):
    """A window with a NaN has the maximum NaN, as in torch."""
    x = normal(1, 1, 9, 9)
    x[0, 0, 4, 4] = np.nan
    problem = Pool(padded(1, 9, 9), padded(1, 4, 4), (3, 3), (2, 2))
    y = run_kernel(pooling.build(problem, run_kernel.target), problem.source, problem.target, x)
    expected = functional.max_pool2d(torch.from_numpy(x), 3, 2).numpy()
    np.testing.assert_array_equal(y, expected)


def test_pooling_into_contiguous_planes():
    """An output that vectors would overrun is refused."""
    with pytest.raises(BoxwoodError, match="Expected an aligned output"):
        pooling.build(Pool(padded(1, 4, 4), contiguous(1, 2, 2), (2, 2), (2, 2)), AVX2)


def test_global_average(run_kernel):
    """The mean of each plane."""
    problem = GlobalAverage(padded(5, 7, 6, halo=1))
    x = normal(3, 5, 7, 6)
    kernel = pooling.build_global(problem, run_kernel.target)
    y = run_kernel(kernel, problem.source, problem.target, x)
    np.testing.assert_allclose(y[:, :, 0, 0], pooling.global_reference(x), atol=1e-6)


def test_global_average_of_contiguous_planes():
    """An input whose lines are not aligned is refused."""
    with pytest.raises(BoxwoodError, match="Expected planes that start on cache lines"):
        pooling.build_global(GlobalAverage(contiguous(2, 3, 3)), AVX2)


@pytest.mark.parametrize("operation", list(Operation))
@pytest.mark.parametrize("per_channel", [False, True])
def test_elementwise(run_kernel, operation, per_channel):
    """Sums, products and copies, against another tensor or a value per channel."""
    layout = padded(5, 6, 7, halo=1)
    problem = Elementwise(layout, layout, operation, per_channel, Activation.SIGMOID)
    x, other = normal(2, 5, 6, 7), normal(2, 5, 6, 7, seed=1)
    if per_channel:
        other = other[:, :, :1, :1]
    second = (vector(5) if per_channel else layout, other)
    kernel = elementwise.build(problem, run_kernel.target)
    y = run_kernel(kernel, layout, layout, x, second)
    given_ = None if operation is Operation.COPY else other
    given_ = given_[:, :, 0, 0] if per_channel and given_ is not None else given_
    np.testing.assert_allclose(y, elementwise.reference(problem, x, given_), atol=1e-6)


def test_elementwise_of_different_rows():
    """Layouts whose rows lie differently are refused."""
    with pytest.raises(BoxwoodError, match="equal shape and row stride"):
        elementwise.build(Elementwise(padded(1, 3, 3), padded(1, 3, 3, halo=1)), AVX2)


@pytest.mark.parametrize("activation", list(Activation))
def test_activations_are_accurate(run_kernel, activation):
    """Errors are at most three units of the last place (of the input for GELU, whose tail torch
    itself rounds at that size), and NaN and infinity go where float64 puts them.
    """
    size = np.logspace(-30, 2.3, 4000)
    special = [0, np.inf, -np.inf, np.nan, 88.7, -88.7, 104, -104]
    x = np.concatenate([np.linspace(-12, 12, 8001), size, -size, special]).astype(np.float32)
    layout = vector(len(x))
    problem = Elementwise(layout, layout, activation=activation)
    kernel = elementwise.build(problem, run_kernel.target)
    y = run_kernel(kernel, layout, layout, as_planes(x[None]), threads=(1,))[0, :, 0, 0]
    expected = activations.reference(activation, x.astype(np.float64))
    assert (np.isnan(y) == np.isnan(expected)).all()
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(y[~finite], expected[~finite].astype(np.float32))
    gelu = activation in {Activation.GELU, Activation.GELU_TANH}
    scale = np.abs(x[finite]) if gelu else np.abs(expected[finite])
    error = np.abs(y[finite] - expected[finite])
    assert (error <= 3.6e-7 * scale + 1e-36).all()  # e^89 is the last in range


@pytest.mark.parametrize(
    ("source", "target", "transposed"),
    [
        (contiguous(19, 8, 9), padded(19, 8, 9, halo=1), False),
        (padded(19, 8, 9, halo=1), contiguous(19, 8, 9), False),
        (padded(3, 5, 21), padded(3, 5, 21, halo=2), False),
        (contiguous(13, 1, 37), columns(37, 13), True),
        (columns(37, 13), contiguous(13, 1, 37), True),
        (contiguous(37, 1, 1), vector(37), False),
        (vector(37), contiguous(37, 1, 1), False),
    ],
)
def test_copies(run_kernel, source, target, transposed):
    """Layouts become one another without a bit changed."""
    problem = Copy(source, target, transposed)
    x = normal(2, *source.shape)
    y = run_kernel(copying.build(problem, run_kernel.target), source, target, x)
    np.testing.assert_array_equal(y, copying.reference(problem, x))


def test_copies_of_different_sizes():
    """Layouts of different values are refused."""
    with pytest.raises(BoxwoodError, match="Expected layouts of the same values"):
        copying.build(Copy(contiguous(1, 2, 3), padded(1, 3, 2)), AVX2)


@pytest.mark.parametrize(("features", "tokens"), [(1, 1), (6, 37), (64, 16)])
def test_layer_norm(run_kernel, features, tokens):
    """Each token is normalised over its features as torch does it."""
    problem = LayerNorm(features, tokens, 1e-6)
    x, weight, bias = normal(2, features, 1, tokens) + 3, normal(features), normal(features, seed=1)
    kernel = normalisation.build(problem, weight, bias, run_kernel.target)
    y = run_kernel(kernel, problem.source, problem.target, x)
    rows = torch.from_numpy(x[:, :, 0]).transpose(1, 2)
    affine = (torch.from_numpy(weight), torch.from_numpy(bias))
    expected = functional.layer_norm(rows, (features,), *affine, 1e-6)
    expected = expected.transpose(1, 2).numpy()[:, :, None]
    np.testing.assert_allclose(
        normalisation.reference(problem, x, weight, bias), expected, atol=2e-5
    )
    np.testing.assert_allclose(y, expected, atol=2e-5)


@pytest.mark.parametrize(("heads", "size", "tokens"), [(1, 1, 1), (2, 7, 37), (3, 16, 130)])
def test_attention(run_kernel, heads, size, tokens):
    """Every head attends as torch's scaled dot product does."""
    problem = Attention(heads, size, tokens)
    x = normal(2, 3 * heads * size, 1, tokens)
    y = run_kernel(attention.build(problem, run_kernel.target), problem.source, problem.target, x)
    parts = torch.from_numpy(x).reshape(2, 3, heads, size, tokens).transpose(3, 4).unbind(1)
    expected = functional.scaled_dot_product_attention(*parts)
    expected = expected.transpose(2, 3).reshape(2, -1, 1, tokens).numpy()
    np.testing.assert_allclose(attention.reference(problem, x), expected, atol=5e-6)
    np.testing.assert_allclose(y, expected, atol=5e-6)


def test_layer_norm_of_another_size():
    """A scale that is not one per feature is refused."""
    with pytest.raises(BoxwoodError, match=r"Expected scale and shift of shape \(3,\), got \(2,\)"):
        normalisation.build(LayerNorm(3, 4), np.ones(2, np.float32), np.ones(3, np.float32), AVX2)


@pytest.mark.parametrize("hidden", [5, 16, 37])
def test_lstm_and_gru_cells(run_kernel, hidden):
    """The pointwise halves equal torch's cells, and may overwrite their state."""
    x, h, c = normal(2, 3), normal(2, hidden, seed=1), normal(2, hidden, seed=2)
    for cell, problem, build in (
        (torch.nn.LSTMCell(3, hidden), recurrent.LstmCell(hidden), recurrent.build_lstm),
        (torch.nn.GRUCell(3, hidden), recurrent.GruCell(hidden), recurrent.build_gru),
    ):
        with torch.no_grad():
            inputs = torch.from_numpy(x) @ cell.weight_ih.T + cell.bias_ih
            own = torch.from_numpy(h) @ cell.weight_hh.T + cell.bias_hh
            lstm = isinstance(problem, recurrent.LstmCell)
            state = (torch.from_numpy(h), torch.from_numpy(c)) if lstm else torch.from_numpy(h)
            new = cell(torch.from_numpy(x), state)
            expected = torch.cat(new, 1).numpy() if lstm else new.numpy()
            gates = (inputs + own).numpy() if lstm else torch.cat([inputs, own], 1).numpy()
        old = np.concatenate([h, c], 1) if lstm else h
        reference = recurrent.lstm_reference if lstm else recurrent.gru_reference
        np.testing.assert_allclose(reference(gates, old), expected, atol=1e-6)
        y = run_kernel(
            build(problem, run_kernel.target),
            problem.source,
            problem.target,
            as_planes(gates),
            (problem.target, as_planes(old)),
            in_place=True,
        )
        np.testing.assert_allclose(y[:, :, 0, 0], expected, atol=1e-6)


TOUCHES = (
    "block = Guarded(64, at_end=True); ctypes.memset(block.address + 64, 0, 1)",
    "arena, starts = arranged(True); ctypes.memset(arena.ctypes.data + starts[0] + 64, 0, 1)",
    "arena, starts = arranged(False); ctypes.memset(arena.ctypes.data + starts[1] - 1, 0, 1)",
)


@pytest.mark.parametrize("touch", TOUCHES)
def test_guard_pages_do_guard(touch, forks):
    """Touching a byte next to guarded memory kills the process, so that silence means something."""
    code = (
        "import sys, ctypes; sys.path.insert(0, sys.argv[1]);"
        f"from conftest import Guarded, arranged; {touch}"
    )
    process = forks.start(code, Path(__file__).parent, entry="code")
    assert process.wait() == -signal.SIGSEGV
