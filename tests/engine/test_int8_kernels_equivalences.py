"""Kernels on bytes compute what their numpy references compute, bit for bit, and touch nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood._internal.engine.kernels import (
    borders,
    int8_build,
    int8_conv,
    int8_depthwise,
    int8_matvec,
    pooling,
    quads,
)
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.int8_build import Int8Packing
from boxwood._internal.engine.kernels.int8_conv import Int8Conv
from boxwood._internal.engine.kernels.packing import ConvPacking
from boxwood._internal.engine.kernels.quads import Quantisation, quad_count, to_bytes, to_words
from boxwood._internal.engine.layouts import columns, padded, vector
from boxwood._internal.engine.llvm.objects import assembly
from boxwood._internal.engine.targets import AVX2, AVX512_VNNI, AVX_VNNI, NEON
from boxwood.errors import BoxwoodError

pytest.importorskip("llvmlite")


def gutter(zero):
    return np.array(Quantisation(1.0, zero).word, np.int32).view(np.float32)[()]


def words_of(values, fill=0):
    return to_words(values, fill).view(np.float32)


def check(run_on_bytes, problem, packing, weight, x, *, zero=9, seed=0, in_place=False):
    """Run a convolution of bytes on guarded memory and compare with its reference."""
    rng = np.random.default_rng(seed)
    source, out = problem.shape.source, problem.shape.target
    constants = np.stack(
        [rng.uniform(1e-5, 1e-3, problem.outputs), rng.normal(size=problem.outputs)]
    ).astype(np.float32)
    residual = second = None
    if problem.shape.residual:
        shape = (len(x), problem.outputs, *out.shape[1:])
        if problem.out:
            residual = rng.integers(0, 256, shape).astype(np.uint8)
            second = (out, words_of(residual))
        else:
            residual = rng.standard_normal(shape).astype(np.float32)
            second = (out, residual)
    kernel = int8_build.build(problem, weight, constants, run_on_bytes.target, packing=packing)
    after = gutter(problem.out.zero) if problem.out else np.float32(0)
    y = run_on_bytes(
        kernel, source, out, words_of(x, zero), second, in_place=in_place,
        around=(gutter(zero), after),
    )  # fmt: skip
    wanted = int8_conv.reference(problem, x, weight, constants, zero, residual)
    if problem.out:
        y = to_bytes(y.view(np.int32), problem.outputs)
    np.testing.assert_array_equal(y, wanted)
    return kernel


def drawn(problem, sparsity, most, seed):
    """A weight in blocks of four inputs, and bytes."""
    rng = np.random.default_rng(seed)
    shape = problem.weight_shape
    weight = rng.integers(-most, most + 1, shape).astype(np.int8)
    dropped = rng.random((shape[0], quad_count(shape[1]), *shape[2:])) < sparsity
    weight[np.repeat(dropped, 4, 1)[:, : shape[1]]] = 0
    channels = problem.inputs * problem.shape.groups
    x = rng.integers(0, 256, (2, channels, *problem.shape.source.shape[1:])).astype(np.uint8)
    return weight, x


packings = st.builds(
    ConvPacking,
    vectors=st.sampled_from([2, 4]),
    block=st.integers(1, 60),
    height=st.sampled_from([1, 4]),
    gathered=st.booleans(),
    chunks=st.integers(1, 3),
)


@st.composite
def convolutions(draw):
    """Any kernel size, stride, padding and groups, to bytes or floats, with and without a residual."""
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 1)]))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2)]))
    padding = tuple(draw(st.integers(0, size - 1)) for size in kernel)
    groups = draw(st.sampled_from([1, 1, 2]))
    size = [draw(st.integers(4, 19)) for _ in range(2)]
    out = [(size[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
    inputs, outputs = draw(st.integers(1, 17)), draw(st.integers(1, 17))
    if groups > 1:
        inputs, outputs = quad_count(inputs) * 4, quad_count(outputs) * 4
    to = draw(st.sampled_from([None, Quantisation(0.03, 100), Quantisation(0.05, 0)]))
    residual = draw(st.booleans())
    channels = quad_count(outputs * groups) if to else outputs * groups
    shape = Conv(
        padded(quad_count(inputs * groups), *size, halo=max(*padding, draw(st.integers(0, 1)))),
        padded(channels, *out, halo=draw(st.integers(0, 2))),
        kernel,
        stride,
        padding,
        groups=groups,
        activation=draw(st.sampled_from([Activation.NONE, Activation.RELU6])),
        residual=residual,
    )
    of = Quantisation(0.04, 50) if residual and to else None
    return Int8Conv(shape, outputs * groups, inputs, to, of)


@settings(max_examples=25, deadline=None)
@given(
    problem=convolutions(),
    packing=st.none() | packings,
    sparsity=st.sampled_from([0, 0.7, 1]),
    most=st.sampled_from([63, 127]),
    seed=st.integers(0, 9),
)
def test_any_convolution(run_on_bytes, problem, packing, sparsity, most, seed):
    weight, x = drawn(problem, sparsity, most, seed)
    packing = packing and Int8Packing(packing, wide=False)
    check(run_on_bytes, problem, packing, weight, x, seed=seed)


def linear(inputs, outputs, tokens, *, to=None, residual=False, activation=Activation.NONE):
    shape = Conv(
        columns(quad_count(inputs), tokens),
        columns(quad_count(outputs) if to else outputs, tokens),
        activation=activation,
        residual=residual,
    )
    return Int8Conv(shape, outputs, inputs, to, Quantisation(0.02, 7) if residual and to else None)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 300), st.integers(0, 8), st.sampled_from([-1, 0, 1]), st.sampled_from([0, 1]),
    st.integers(0, 5),
)  # fmt: skip
def test_extreme_bytes_saturate_nothing(run_on_bytes, inputs, seed, sign, height, most):
    """The greatest bytes with the greatest weights of either sign, and with the greatest that pairs may have."""
    rng = np.random.default_rng(seed)
    problem = linear(inputs, 8, 20)
    size = [127, 64, 63, 127, 64, 65][most]
    weight = np.full(problem.weight_shape, size, np.int8)
    if sign <= 0:
        weight *= np.where(rng.random(weight.shape) < 0.5 + sign / 2, 1, -1).astype(np.int8)
    if most == 3:  # pairs of unequal weights that just fit, or just do not
        weight[:, 1::2] = 1 + seed % 2
    x = np.full((1, inputs, 1, 20), 255, np.uint8)
    packing = Int8Packing(ConvPacking(2, 256, (1, 4)[height]), wide=False)
    check(run_on_bytes, problem, packing, weight, x)


@pytest.mark.parametrize("to", [None, Quantisation(0.03, 40)])
@pytest.mark.parametrize("packing", [ConvPacking(2, 3), ConvPacking(2, 3, height=4)])
def test_residual_in_place(run_on_bytes, to, packing):
    """The residual may be the output's buffer; rows that are listed twice read it once."""
    problem = linear(20, 13, 37, to=to, residual=True)
    weight, x = drawn(problem, 0.5, 63, 1)
    check(run_on_bytes, problem, Int8Packing(packing, wide=False), weight, x, in_place=True)


@pytest.mark.parametrize(
    "activation", [Activation.GELU, Activation.GELU_TANH, Activation.SILU, Activation.TANH]
)
def test_curved_activations(run_on_bytes, activation):
    """Other activations are float32 before they are rounded: a byte differs by one at most."""
    problem = linear(24, 9, 20, to=Quantisation(0.01, 60), activation=activation)
    weight, x = drawn(problem, 0.5, 63, 1)
    constants = np.full((2, 9), 3e-4, np.float32)  # results from about -3 to 9
    kernel = int8_build.build(problem, weight, constants, run_on_bytes.target)
    y = run_on_bytes(
        kernel, problem.shape.source, problem.shape.target, words_of(x),
        around=(gutter(0), gutter(60)),
    )  # fmt: skip
    wanted = int8_conv.reference(problem, x, weight, constants, 0)
    off = np.abs(to_bytes(y.view(np.int32), 9).astype(int) - wanted)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.03


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 2), st.integers(0, 255))
def test_borders(run_on_bytes, channels, size, halo, zero):
    """Floats become the nearest bytes, NaN the least one, and bytes floats."""
    of = Quantisation(0.017, zero)
    floats = padded(channels, size, size + 1, halo=halo)
    words = padded(quad_count(channels), size, size + 1, halo=halo)
    rng = np.random.default_rng(zero)
    x = (3 * rng.standard_normal((2, *floats.shape))).astype(np.float32)
    x[0, 0, 0, :3] = (np.nan, np.inf, -np.inf)[: size + 1]
    kernel = borders.build(borders.ToBytes(floats, words, of), run_on_bytes.target)
    y = run_on_bytes(kernel, floats, words, x, around=(np.float32(0), gutter(zero)))
    found = to_bytes(y.view(np.int32), channels)
    np.testing.assert_array_equal(found, quads.quantised(x, of))
    kernel = borders.build(borders.ToFloats(words, floats, of), run_on_bytes.target)
    back = run_on_bytes(
        kernel, words, floats, words_of(found), around=(gutter(zero), np.float32(0))
    )
    wanted = (found.astype(np.float32) - np.float32(zero)) * np.float32(0.017)
    np.testing.assert_array_equal(back, wanted)


@pytest.mark.parametrize("tokens", [True, False])
def test_vectors_become_planes(run_on_bytes, tokens):
    """Vectors of tokens are positions of one image, vectors of images are images."""
    of = Quantisation(0.02, 100)
    x = np.random.default_rng(0).standard_normal((3, 10, 1, 1)).astype(np.float32)
    out = columns(3, 3) if tokens else padded(3, 1, 1)
    problem = borders.ToBytes(vector(10), out, of, tokens)
    kernel = borders.build(problem, run_on_bytes.target)
    bytes_ = quads.quantised(x, of)
    wanted = to_words(bytes_.transpose(3, 1, 2, 0) if tokens else bytes_, 0)
    results = []
    for at_end in (False, True):
        y = run_on_bytes.once(kernel, vector(10), out, x, None, 2, at_end, in_place=False)
        found = out.view(y[: out.size(len(wanted))], len(wanted)).view(np.int32)
        results.append(found)
    for found in results:
        np.testing.assert_array_equal(to_bytes(found, 10), to_bytes(wanted, 10))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.sampled_from([(3, 2, 1), (2, 2, 0), (3, 1, 1)]), st.integers(3, 20))
def test_maximum_of_bytes(run_on_bytes, channels, window, size):
    kernel, stride, padding = window
    after = (size + 2 * padding - kernel) // stride + 1
    source = padded(quad_count(channels), size, size)
    out = padded(quad_count(channels), after, after, halo=1)
    pair = lambda each: (each, each)  # noqa: E731
    problem = pooling.Pool(source, out, pair(kernel), pair(stride), pair(padding), gutter=77)
    x = np.random.default_rng(size).integers(0, 256, (2, channels, size, size)).astype(np.uint8)
    y = run_on_bytes(
        pooling.build(problem, run_on_bytes.target), source, out, words_of(x),
        around=(gutter(77), gutter(77)),
    )  # fmt: skip
    plain = replace(problem, source=padded(channels, size, size), gutter=None)
    wanted = pooling.reference(
        replace(plain, target=padded(channels, after, after)), x.astype(np.float32)
    )
    np.testing.assert_array_equal(to_bytes(y.view(np.int32), channels), wanted)


@pytest.mark.parametrize(
    ("target", "instruction"),
    [(AVX2, "vpmaddubsw"), (AVX_VNNI, "vpdpbusd"), (AVX512_VNNI, "vpdpbusd"), (NEON, "sdot")],
)
@pytest.mark.parametrize("height", [1, 4])
def test_instructions(target, instruction, height):
    """Each family's text becomes its own instruction for products of bytes, without spills."""
    problem = linear(64, 32, 64, to=Quantisation(0.1, 0))
    weight, _ = drawn(problem, 0.0, 63, 0)
    vectors = 4 if target.registers == 32 else 2
    packing = Int8Packing(ConvPacking(vectors, 16, height), wide=False)
    kernel = int8_build.build(
        problem, weight, np.ones((2, 32), np.float32), target, packing=packing
    )
    text = assembly(kernel.code.emit(), target)
    assert instruction in text


def test_refusals():
    """Sums that may exceed 32 bits and groups that split quads are refused."""
    with pytest.raises(BoxwoodError, match="compute this layer in float32"):
        linear(70_000, 4, 1)
    shape = Conv(padded(2, 4, 4), padded(6, 4, 4), groups=2)
    with pytest.raises(BoxwoodError, match="groups of whole quads"):
        Int8Conv(shape, 6, 3)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9), st.sampled_from([(3, 1), (3, 2), (5, 2), (2, 1)]), st.integers(5, 21),
    st.sampled_from([Activation.NONE, Activation.RELU6]), st.sampled_from([63, 127]), st.booleans(),
)  # fmt: skip
def test_depthwise(run_on_bytes, channels, window, size, activation, most, wider):
    """A filter for each channel, its taps in fours, equals the reference."""
    kernel, stride = window
    padding = kernel // 2
    after = (size + 2 * padding - kernel) // stride + 1
    quads_ = quad_count(channels)
    shape = Conv(
        padded(quads_, size, size + wider, halo=padding),
        padded(quads_, after, (size + wider + 2 * padding - kernel) // stride + 1, halo=1),
        (kernel, kernel), (stride, stride), (padding, padding), groups=quads_,
        activation=activation,
    )  # fmt: skip
    problem = int8_conv.Int8Depthwise(shape, channels, Quantisation(0.05, 31))
    rng = np.random.default_rng(size)
    weight = rng.integers(-most, most + 1, problem.weight_shape).astype(np.int8)
    if most == 127:
        weight = np.where(weight < 0, -127, 127).astype(np.int8)
    x = rng.integers(0, 256, (2, channels, size, size + wider)).astype(np.uint8)
    x[0] = 255
    constants = np.stack([rng.uniform(1e-5, 1e-3, channels), rng.normal(size=channels)]).astype(
        np.float32
    )
    kernel_ = int8_depthwise.build(problem, weight, constants, run_on_bytes.target)
    y = run_on_bytes(
        kernel_, shape.source, shape.target, words_of(x, 9), around=(gutter(9), gutter(31))
    )
    wanted = int8_conv.reference(problem, x, weight, constants, 9)
    np.testing.assert_array_equal(to_bytes(y.view(np.int32), channels), wanted)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 70) | st.integers(1000, 1300), st.integers(1, 40), st.booleans(),
    st.sampled_from([0, 0.8, 1]), st.sampled_from([63, 127]), st.integers(1, 3),
)  # fmt: skip
def test_vectors(run_on_bytes, inputs, outputs, residual, sparsity, most, many):
    """A matrix times one vector, in one column block and in two."""
    rng = np.random.default_rng(inputs)
    problem = int8_matvec.Int8MatVec(inputs, outputs, residual)
    weight = rng.integers(-most, most + 1, (outputs, inputs)).astype(np.int8)
    if most == 127:
        weight = np.where(weight < 0, -127, 127).astype(np.int8)
    dropped = rng.random((outputs, quad_count(inputs))) < sparsity
    weight[np.repeat(dropped, 4, 1)[:, :inputs]] = 0
    x = rng.integers(0, 256, (2, inputs)).astype(np.uint8)
    x[0] = 255
    constants = np.stack([rng.uniform(1e-5, 1e-3, outputs), rng.normal(size=outputs)]).astype(
        np.float32
    )
    second = other = None
    if residual:
        other = rng.standard_normal((2, outputs)).astype(np.float32)
        second = (problem.target, other[..., None, None])
    kernel = int8_matvec.build(problem, weight, constants, run_on_bytes.target, threads=many)
    y = run_on_bytes(
        kernel, problem.source, problem.target, words_of(x[..., None, None]), second,
        in_place=residual,
    )  # fmt: skip
    wanted = int8_matvec.reference(x, weight, constants, other)
    np.testing.assert_array_equal(y[..., 0, 0], wanted)
