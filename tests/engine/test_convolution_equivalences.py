"""Convolutions and linear layers compute what their reference computes, whatever the plan."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import boxwood
from boxwood._internal.engine.kernels import conv
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.packing import ConvPacking
from boxwood._internal.engine.layouts import columns, contiguous, padded
from boxwood._internal.engine.targets import AVX2
from boxwood.errors import BoxwoodError

pytest.importorskip("llvmlite")


def sparse(rng, shape, sparsity):
    weight = rng.standard_normal(shape).astype(np.float32)
    weight[rng.random(shape) < sparsity] = 0
    return weight


def check(run_kernel, problem, packing, *, sparsity, images=1, seed=0, in_place=False):
    rng = np.random.default_rng(seed)
    weight = sparse(rng, problem.weight_shape, sparsity)
    bias = rng.standard_normal(problem.target.channels).astype(np.float32)
    x = rng.standard_normal((images, *problem.source.shape)).astype(np.float32)
    residual = None
    if problem.residual:
        residual = rng.standard_normal((images, *problem.target.shape)).astype(np.float32)
    kernel = conv.build(problem, weight, bias, run_kernel.target, packing=packing)
    second = None if residual is None else (problem.target, residual)
    y = run_kernel(kernel, problem.source, problem.target, x, second, in_place=in_place)
    expected = conv.reference(problem, x, weight, bias, residual)
    scale = np.abs(weight).reshape(len(weight), -1).sum(1).max() + 2
    np.testing.assert_allclose(y, expected, rtol=0, atol=4e-7 * scale)
    return y


packings = st.builds(
    ConvPacking,
    vectors=st.sampled_from([1, 3, 4]),
    block=st.integers(1, 60),
    height=st.sampled_from([1, 4]),
    gathered=st.booleans(),
    chunks=st.integers(1, 3),
)


@st.composite
def convolutions(draw):
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 2), (5, 5)]))
    stride = draw(st.sampled_from([(1, 1), (2, 2), (3, 3), (2, 1)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2)]))
    padding = tuple(draw(st.integers(0, (size - 1) * dilation[0])) for size in kernel)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    size = [draw(st.integers(1, 19)) for _ in range(2)]
    out = [
        (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    if min(out) < 1:
        size = [s + dilation[i] * kernel[i] for i, s in enumerate(size)]
        out = [
            (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
            for i in range(2)
        ]
    halo = max(*padding, draw(st.integers(0, 1)))
    return Conv(
        padded(groups * draw(st.integers(1, 5)), *size, halo=halo),
        padded(groups * draw(st.integers(1, 9)), *out, halo=draw(st.integers(0, 2))),
        kernel,
        stride,
        padding,
        dilation,
        groups,
        draw(st.sampled_from([Activation.NONE, Activation.RELU])),
        draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(
    problem=convolutions(), packing=st.none() | packings, sparsity=st.sampled_from([0, 0.5, 0.9, 1])
)
def test_any_convolution(run_kernel, problem, packing, sparsity):
    """Any kernel size, stride, dilation, padding, groups and plan: equal to the reference."""
    check(run_kernel, problem, packing, sparsity=sparsity, images=2)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 70), st.none() | packings)
def test_linear(run_kernel, inputs, outputs, tokens, packing):
    """A linear layer over any number of tokens equals its reference."""
    check(run_kernel, conv.linear(inputs, outputs, tokens), packing, sparsity=0.7)


@pytest.mark.parametrize("activation", list(Activation))
def test_fused_activations(run_kernel, activation):
    """Every activation is fused after the residual."""
    problem = conv.linear(9, 12, 20, activation=activation, residual=True)
    check(run_kernel, problem, None, sparsity=0.5)


@pytest.mark.parametrize("block", [4, 100])
def test_residual_in_place(run_kernel, block):
    """The residual may be the output's buffer, with one column block and with many."""
    problem = conv.linear(20, 13, 37, residual=True)
    check(run_kernel, problem, ConvPacking(2, block), sparsity=0.5, in_place=True)


def test_plans_agree_to_the_last_bit(run_kernel):
    """Tiles, blocks, chunks and gathering change no bit; block rows change none either."""
    layout = padded(6, 9, 11, halo=1)
    problem = Conv(layout, padded(10, 9, 11, halo=1), (3, 3), padding=(1, 1))
    results = [
        check(run_kernel, problem, packing, sparsity=0.6)
        for packing in (
            ConvPacking(4, 9),
            ConvPacking(1, 54),
            ConvPacking(3, 20, gathered=True),
            ConvPacking(2, 18, chunks=3),
        )
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_a_slice_of_channels(run_kernel):
    """Producers of slices of one buffer concatenate their channels."""
    whole = padded(7, 5, 5, halo=1)
    source = padded(3, 5, 5)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *source.shape)).astype(np.float32)
    part = whole.slice(2, 6)
    weight = sparse(rng, (4, 3, 1, 1), 0.3)
    kernel = conv.build(Conv(source, part), weight, None, run_kernel.target)
    y = run_kernel(kernel, source, part, x)
    expected = conv.reference(Conv(source, part), x, weight, None)
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_nan_and_infinity_flow_along_weights(run_kernel):
    """What a non-zero weight touches becomes NaN or infinite as in torch; nothing else does."""
    x = np.zeros((1, 3, 1, 40), np.float32)
    x[0, 0, 0, 5], x[0, 1, 0, 6], x[0, 2, 0, 7] = np.nan, np.inf, np.inf
    weight = np.array([[1, 1, 0], [0, -1, 0], [0, 0, 0]], np.float32)[:, :, None, None]
    problem = conv.linear(3, 3, 40)
    kernel = conv.build(problem, weight, None, run_kernel.target, packing=ConvPacking(2, 2))
    y = run_kernel(kernel, problem.source, problem.target, x)[0, :, 0]
    assert np.isnan(y[0, 5])
    assert y[0, 6] == np.inf
    assert y[1, 6] == -np.inf
    assert np.isfinite(np.delete(y.ravel(), [5, 6, 46])).all()


def test_more_rows_than_one_chunk_can_number(run_kernel):
    """Wide outputs are chunked before 16-bit row numbers run out."""
    problem = conv.linear(2, 70000, 1)
    check(run_kernel, problem, ConvPacking(1, 2, chunks=2), sparsity=0.5)


def test_wrong_weight_shape():
    """A weight of another shape is refused by name and number."""
    with pytest.raises(BoxwoodError, match=r"Expected a weight of shape \(4, 3, 1, 1\), got"):
        conv.build(conv.linear(3, 4, 5), np.zeros((3, 4, 1, 1), np.float32), None, AVX2)


def test_unaligned_output():
    """A contiguous output is refused, because vectors would overrun its planes."""
    problem = Conv(columns(2, 5), contiguous(2, 1, 5))
    with pytest.raises(BoxwoodError, match="planes start on cache lines"):
        conv.build(problem, np.zeros((2, 2, 1, 1), np.float32), None, AVX2)


def test_halo_too_small():
    """Padding that the input's layout does not hold is refused."""
    with pytest.raises(BoxwoodError, match="Expected a halo of at least 1 around the input, got 0"):
        Conv(padded(1, 4, 4), padded(1, 4, 4), (3, 3), padding=(1, 1))


def test_groups_that_do_not_divide():
    """Channels that the groups do not divide are refused."""
    with pytest.raises(BoxwoodError, match="Expected channels that 2 groups divide, got 3 in"):
        Conv(padded(3, 4, 4), padded(4, 4, 4), groups=2)


def test_outputs_behind_the_input():
    """A 1×1 output that would read past the input is refused."""
    with pytest.raises(BoxwoodError, match="Expected outputs that stay within the input, got 5"):
        Conv(padded(1, 4, 4), padded(1, 5, 4))


@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize(
    ("pad", "padding"),
    [((1, 1, 2, 2), 0), ((1, 1, 1, 1), (0, 1)), ((0, 1, 0, 1), 0), ((0, 2, 1, 0), (1, 0))],
)
def test_padding_goes_into_its_convolution(pad, padding, in_torch):
    """Zeros that are put around an image are the convolution's own, in kernels and in torch."""

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=padding)

        def forward(self, x):
            return self.conv(nn.functional.pad(x, pad))

    net, x = Padded(), torch.randn(2, 3, 9, 11)
    session = boxwood.compile(net, x)
    assert len(session.program.ops) == 1
    session = session.with_native(frozenset(() if in_torch else (0,)))
    with torch.no_grad():
        torch.testing.assert_close(session(x), net(x), rtol=0, atol=2e-6)


@pytest.mark.parametrize("in_torch", [False, True])
def test_same_with_an_even_filter(in_torch):
    """Where one side has to get one zero more, it is the last, as in torch."""
    net, x = nn.Conv2d(3, 4, (2, 4), padding="same"), torch.randn(2, 3, 7, 9)
    session = boxwood.compile(net, x)
    session = session.with_native(frozenset(() if in_torch else (0,)))
    with torch.no_grad():
        torch.testing.assert_close(session(x), net(x), rtol=0, atol=2e-6)


def test_other_padding_stays():
    """Padding with another number or with neighbours is none of a convolution."""
    for mode in ("reflect", "replicate"):
        net = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode)
        x = torch.randn(1, 2, 6, 6)
        with torch.no_grad():
            torch.testing.assert_close(boxwood.compile(net, x)(x), net(x), rtol=0, atol=2e-6)
    net = nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Conv2d(2, 3, 3))
    with torch.no_grad():
        torch.testing.assert_close(boxwood.compile(net, x)(x), net(x), rtol=0, atol=2e-6)
