"""Laws of soft targets: their gradient, its size over temperatures, and its limit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from boxwood._internal.distill.losses import (
    Distillation,
    TeacherTargets,
    feature_matching,
    logit_matching,
    soft_cross_entropy,
)
from boxwood.errors import BoxwoodError

TEMPERATURES = st.floats(0.5, 1000.0)
SEEDS = st.integers(0, 10_000)


def pair(seed: int, n: int = 5, classes: int = 7, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    z, v = scale * torch.randn(2, n, classes, generator=chance, dtype=torch.float64)
    return z.requires_grad_(), v


def gradient(loss: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.grad(loss, z)[0]


@settings(deadline=None, max_examples=25)
@given(SEEDS, TEMPERATURES)
def test_gradient_by_hand(seed: int, t: float) -> None:
    """The gradient is T (softmax(z/T) - softmax(v/T)) / N, for all T from 0.5 to 1000."""
    z, v = pair(seed)
    expected = t * ((z / t).softmax(1) - (v / t).softmax(1)) / len(z)
    torch.testing.assert_close(gradient(soft_cross_entropy(z, v, t), z), expected)


@settings(deadline=None, max_examples=10)
@given(SEEDS, st.floats(0.5, 50.0))
def test_gradient_by_finite_differences(seed: int, t: float) -> None:
    """The gradient of the mixed loss is its difference quotient."""
    z, v = pair(seed, n=3)
    labels = torch.tensor([0, 1, 2])
    loss = Distillation(temperature=t, soft=0.7, hard=0.3)
    assert torch.autograd.gradcheck(lambda each: loss(each, TeacherTargets(labels, v)), z)


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_limit_is_logit_matching(seed: int) -> None:
    """At T = 1000 the gradient is that of matching centred logits, up to terms of order z / T."""
    z, v = pair(seed)
    soft = gradient(soft_cross_entropy(z, v, 1000.0), z)
    matching = gradient(logit_matching(z, v), z)
    bound = 2 * float(torch.cat([z.detach(), v]).abs().max()) / 1000
    assert float((soft - matching).norm()) < bound * float(matching.norm())


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_gradient_scale_over_temperatures(seed: int) -> None:
    """The norm of the T²-scaled gradient changes by less than 2x over T in [5, 50]."""
    z, v = pair(seed, n=50, classes=10, scale=5.0)
    temperatures = [5.0, 8.0, 12.0, 20.0, 35.0, 50.0]
    norms = [float(gradient(soft_cross_entropy(z, v, t), z).norm()) for t in temperatures]
    assert max(norms) < 2 * min(norms)


@pytest.mark.parametrize("t", [0.5, 1.0, 20.0, 1000.0])
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits_stay_finite(t: float, offset: float, dtype: torch.dtype) -> None:
    """Logits of any size give a finite loss and gradient, at any temperature."""
    z = (torch.tensor([[80.0, -80.0, 0.0]]) + offset).to(dtype).requires_grad_()
    v = (torch.tensor([[-80.0, 80.0, 0.0]]) + offset).to(dtype)
    loss = soft_cross_entropy(z, v, t)
    assert loss.isfinite()
    assert gradient(loss, z).isfinite().all()


def test_single_precision_at_the_largest_temperature() -> None:
    """At T = 1000 float32 keeps the gradient to three digits."""
    z, v = pair(0, n=50, classes=10)
    exact = gradient(soft_cross_entropy(z, v, 1000.0), z)
    rough = z.detach().float().requires_grad_()
    found = gradient(soft_cross_entropy(rough, v.float(), 1000.0), rough)
    assert float((found - exact).norm() / exact.norm()) < 1e-3


@settings(deadline=None, max_examples=25)
@given(SEEDS, TEMPERATURES)
def test_least_at_the_teacher(seed: int, t: float) -> None:
    """No student has a smaller loss than the teacher itself, whose gradient is zero."""
    z, v = pair(seed)
    own = v.clone().requires_grad_()
    best = soft_cross_entropy(own, v, t)
    assert soft_cross_entropy(z, v, t) >= best
    assert gradient(best, own).abs().max() < 1e-12


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.floats(-50.0, 50.0))
def test_offsets_do_not_count(seed: int, offset: float) -> None:
    """Adding a constant to all logits of student or teacher changes no loss."""
    z, v = pair(seed)
    for loss in (lambda a, b: soft_cross_entropy(a, b, 4.0), logit_matching):
        torch.testing.assert_close(loss(z + offset, v - offset), loss(z, v))


def test_parts_of_the_mixture() -> None:
    """With no weight on the teacher it is cross-entropy; at T = 1 with one-hot answers as well."""
    z, _ = pair(1)
    labels = torch.arange(5)
    certain = torch.full((5, 7), -math.inf, dtype=torch.float64)
    certain[range(5), labels] = 0.0
    expected = functional.cross_entropy(z, labels)
    lesson = TeacherTargets(labels, certain)
    torch.testing.assert_close(Distillation(soft=0.0, hard=1.0)(z, lesson), expected)
    taught = Distillation(temperature=1.0, soft=1.0, hard=0.0)
    torch.testing.assert_close(taught(z, lesson), expected)
    torch.testing.assert_close(taught(z, labels), expected)


def test_features_without_projection() -> None:
    """Equal features have no loss, and the teacher's get no gradient."""
    mine, theirs = torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    assert feature_matching(theirs, theirs) == 0
    feature_matching(mine, theirs).backward()
    assert theirs.grad is None
    assert mine.grad is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Distillation(temperature=0.0), "temperature above 0, got 0.0"),
        (lambda: Distillation(soft=0.0, hard=0.0), "not both 0"),
        (lambda: Distillation(soft=-1.0), "soft >= 0"),
        (lambda: soft_cross_entropy(torch.ones(1, 2), torch.ones(1, 3), 1.0), r"\(1, 2\) and \(1, 3\)"),
        (lambda: logit_matching(torch.ones(2), torch.ones(2)), r"logits \[batch, classes\]"),
        (lambda: feature_matching(torch.ones(1, 3), torch.ones(1, 2)), r"projection of shape \[2, 3\]"),
    ],
)  # fmt: skip
def test_refusals(call: object, message: str) -> None:
    """What cannot be learnt from is refused with the way out."""
    with pytest.raises(BoxwoodError, match=message):
        call()  # type: ignore[operator]
