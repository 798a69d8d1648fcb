"""Masked and grouped attention, rotary positions and root-mean-square norms against torch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("llvmlite")

from boxwood._internal.engine.kernels import attention, head_norm, normalisation, rotary
from boxwood._internal.engine.kernels.attention import Attention, Mask
from boxwood._internal.engine.kernels.head_norm import HeadNorm
from boxwood._internal.engine.kernels.normalisation import LayerNorm
from boxwood._internal.engine.kernels.rotary import Rotary
from boxwood._internal.engine.layouts import vector
from boxwood._internal.engine.targets import AVX2
from boxwood.errors import InvalidInput


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("features", "tokens"), [(1, 1), (6, 37), (64, 16)])
def test_root_mean_square_norm(run_kernel, features, tokens):
    """Each token is divided by the root of its mean square, as torch does it."""
    problem = LayerNorm(features, tokens, 1e-6, centred=False)
    x, weight, bias = normal(2, features, 1, tokens) + 3, normal(features), normal(features, seed=1)
    kernel = normalisation.build(problem, weight, bias, run_kernel.target)
    y = run_kernel(kernel, problem.source, problem.target, x)
    rows = torch.from_numpy(x[:, :, 0]).transpose(1, 2)
    expected = functional.rms_norm(rows, (features,), torch.from_numpy(weight), 1e-6)
    expected = (expected + torch.from_numpy(bias)).transpose(1, 2).numpy()[:, :, None]
    np.testing.assert_allclose(
        normalisation.reference(problem, x, weight, bias), expected, atol=5e-6
    )
    np.testing.assert_allclose(y, expected, atol=5e-6)


@pytest.mark.parametrize(
    ("heads", "key_heads", "size", "tokens", "causal", "mask"),
    [
        (1, 1, 1, 1, True, Mask.NONE),
        (4, 2, 7, 37, True, Mask.NONE),
        (6, 2, 16, 130, True, Mask.NONE),
        (2, 1, 8, 70, False, Mask.KEYS),
        (2, 2, 5, 33, False, Mask.PAIRS),
        (3, 1, 8, 17, False, Mask.HEADS),
        (2, 1, 8, 66, True, Mask.PAIRS),
    ],
)
def test_masked_attention(run_kernel, heads, key_heads, size, tokens, causal, mask):
    """Masked, causal and with shared heads, every head attends as torch's scaled dot product does."""
    problem = Attention(heads, size, tokens, None, key_heads, causal, mask)
    x = normal(2, (heads + 2 * key_heads) * size, 1, tokens)
    added, second = None, None
    if mask is not Mask.NONE:
        # Numbers, a key that nobody sees, and some queries that see nothing.
        added = normal(heads if mask is Mask.HEADS else 1, tokens, tokens, seed=1)
        added = added[:, :1] if mask is Mask.KEYS else added
        added[:, :, tokens // 2] = -np.inf
        if mask is not Mask.KEYS:
            added[:, 3] = -np.inf
        second = (problem.second, added.reshape(-1, tokens).T[None, :, None].copy())
    kernel = attention.build(problem, run_kernel.target)
    y = run_kernel(kernel, problem.source, problem.target, x, second)
    parts = torch.from_numpy(x).reshape(2, -1, size, tokens).transpose(2, 3)
    parts = parts.split((heads, key_heads, key_heads), 1)
    wide = torch.zeros(1, tokens, tokens) if added is None else torch.from_numpy(added)
    if causal:
        wide = wide.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
    expected = functional.scaled_dot_product_attention(*parts, attn_mask=wide, enable_gqa=True)
    expected = expected.transpose(2, 3).reshape(2, -1, 1, tokens).numpy()
    given = None
    if added is not None:
        given = added[0, 0] if mask is Mask.KEYS else np.moveaxis(added, 2, 0)
    np.testing.assert_allclose(attention.reference(problem, x, given), expected, atol=5e-6)
    np.testing.assert_allclose(y, expected, atol=5e-6)


@pytest.mark.parametrize(("sequences", "tokens"), [(2, 1), (3, 5), (2, 16), (3, 37), (2, 70)])
@pytest.mark.parametrize("causal", [False, True])
def test_several_sequences(run_kernel, sequences, tokens, causal):
    """Each attends to itself, wherever it begins."""
    problem = Attention(2, 6, tokens, None, 1, causal, sequences=sequences)
    x = normal(1, 24, 1, sequences * tokens)
    kernel = attention.build(problem, run_kernel.target)
    y = run_kernel(kernel, problem.source, problem.target, x)
    rows = torch.from_numpy(x).reshape(4, 6, sequences, tokens).permute(2, 0, 3, 1)
    parts = rows.split((2, 1, 1), 1)
    expected = functional.scaled_dot_product_attention(*parts, is_causal=causal, enable_gqa=True)
    expected = expected.permute(1, 3, 0, 2).reshape(1, 12, 1, -1).numpy()
    np.testing.assert_allclose(attention.reference(problem, x), expected, atol=5e-6)
    np.testing.assert_allclose(y, expected, atol=5e-6)


@pytest.mark.parametrize("mask", [Mask.KEYS, Mask.SEQUENCES, Mask.PAIRS, Mask.HEADS])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("sequences", "tokens"), [(2, 5), (3, 17), (5, 33)])
def test_masks_of_several_sequences(run_kernel, mask, own, sequences, tokens):
    """Each sequence has its own mask, or all have one, in every form of masks."""
    if mask is Mask.SEQUENCES and not own:
        pytest.skip("one vector then")
    heads, size = 2, 6
    problem = Attention(heads, size, tokens, None, 1, False, mask, sequences, own)
    x = normal(1, 4 * size, 1, sequences * tokens)
    by_keys = mask in (Mask.KEYS, Mask.SEQUENCES)
    added = normal(
        sequences if own else 1, heads if mask is Mask.HEADS else 1, 1 if by_keys else tokens,
        tokens, seed=1,
    )  # fmt: skip
    for number, each in enumerate(added):  # keys that nobody sees, others in each sequence
        each[..., tokens - 1 - number % 3 :] = -np.inf
    layout, laid = problem.second, added.reshape(-1, tokens).T[None, :, None].copy()
    if mask is Mask.KEYS:  # the images of several vectors, in one
        whole = np.zeros((len(added), layout.image), np.float32)
        whole[:, :tokens] = added.reshape(-1, tokens)
        layout, laid = vector(whole.size), whole.reshape(1, -1, 1, 1)
    kernel = attention.build(problem, run_kernel.target)
    y = run_kernel(kernel, problem.source, problem.target, x, (layout, laid))
    rows = torch.from_numpy(x).reshape(4, size, sequences, tokens).permute(2, 0, 3, 1)
    expected = functional.scaled_dot_product_attention(
        *rows.split((2, 1, 1), 1), attn_mask=torch.from_numpy(added), enable_gqa=True
    )
    expected = expected.permute(1, 3, 0, 2).reshape(1, heads * size, 1, -1).numpy()
    given = added[:, 0, 0] if by_keys else np.moveaxis(added, 3, 1)
    given = given if own else given[0]
    np.testing.assert_allclose(attention.reference(problem, x, given), expected, atol=5e-6)
    np.testing.assert_allclose(y, expected, atol=5e-6)


@pytest.mark.parametrize(
    ("heads", "size", "rest", "tokens"), [(1, 1, 0, 1), (3, 8, 2, 37), (5, 64, 3, 16)]
)
def test_norms_of_heads(run_kernel, heads, size, rest, tokens):
    """Each head of each token is normalised as torch does it, and what follows is as it was."""
    problem = HeadNorm((heads + rest) * size, tokens, heads, size, 1e-6)
    x, scales = normal(2, problem.features, 1, tokens) + 2, normal(heads, size, seed=1)
    kernel = head_norm.build(problem, scales, run_kernel.target)
    y = run_kernel(kernel, problem.source, problem.target, x)
    rows = torch.from_numpy(x[:, : heads * size]).reshape(2, heads, size, tokens).transpose(2, 3)
    expected = functional.rms_norm(rows, (size,), None, 1e-6) * torch.from_numpy(scales)[:, None]
    expected = expected.transpose(2, 3).reshape(2, -1, 1, tokens).numpy()
    expected = np.concatenate([expected, x[:, heads * size :]], 1)
    np.testing.assert_allclose(head_norm.reference(problem, x, scales), expected, atol=5e-6)
    np.testing.assert_allclose(y, expected, atol=5e-6)


def test_scales_of_other_heads_are_refused():
    """The scales are one for each feature of each head."""
    with pytest.raises(InvalidInput, match=r"Expected scales of shape \(2, 8\)"):
        head_norm.build(HeadNorm(32, 5, 2, 8, 1e-6), normal(3, 8), AVX2)
    with pytest.raises(InvalidInput, match="Expected scales of shape"):
        head_norm.build(HeadNorm(30, 5, 2, 8, 1e-6), normal(2, 8), AVX2)


def test_rotary_positions_of_several_sequences(run_kernel):
    """Each begins at the first position."""
    problem, table = Rotary(7, 5, 2, (1, 0, 2), sequences=3), normal(2, 5, 3, seed=1)
    x = normal(1, 7, 1, 15)
    y = run_kernel(
        rotary.build(problem, table, run_kernel.target), problem.source, problem.target, x
    )
    alone = Rotary(7, 5, 2, (1, 0, 2))
    parts = [rotary.reference(alone, x[..., at : at + 5], table) for at in (0, 5, 10)]
    np.testing.assert_allclose(y, np.concatenate(parts, -1), atol=1e-6)


@pytest.mark.parametrize(("heads", "size", "tokens"), [(1, 2, 1), (3, 8, 37), (2, 6, 16)])
def test_rotary_positions(run_kernel, heads, size, tokens):
    """Halves of heads are rotated against each other; what follows is copied as it is."""
    half = size // 2
    problem = Rotary(heads * size + 3, tokens, heads, (*range(half, size), *range(half)))
    x, table = normal(2, problem.features, 1, tokens), normal(2, tokens, size, seed=1)
    kernel = rotary.build(problem, table, run_kernel.target)
    y = run_kernel(kernel, problem.source, problem.target, x)
    rows = torch.from_numpy(x[:, : heads * size, 0]).unflatten(1, (heads, size)).transpose(2, 3)
    swapped = torch.cat((rows[..., half:], rows[..., :half]), -1)
    near, far = torch.from_numpy(table)
    expected = (rows * near + swapped * far).transpose(2, 3).flatten(1, 2).numpy()
    np.testing.assert_allclose(
        rotary.reference(problem, x, table)[:, : heads * size, 0], expected, atol=1e-6
    )
    np.testing.assert_allclose(y[:, : heads * size, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(y[:, heads * size :], x[:, heads * size :])


def test_factors_of_other_sizes():
    """Factors that are not one per token and feature, and partners outside of the head, are refused."""
    table = np.ones((2, 4, 2), np.float32)
    with pytest.raises(InvalidInput, match=r"Expected factors of shape \(2, 5, 2\)"):
        rotary.build(Rotary(4, 5, 2, (1, 0)), table, AVX2)
    with pytest.raises(InvalidInput, match="Expected partners within 2 features"):
        rotary.build(Rotary(4, 4, 2, (1, 2)), table, AVX2)
