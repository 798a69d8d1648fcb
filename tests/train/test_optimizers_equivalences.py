"""Optimizers, learning-rate schedules and losses of recipes are torch's own, step by step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler

from boxwood._internal.core.call import Call
from boxwood._internal.data.splits import InMemory
from boxwood._internal.train.loop import train_
from boxwood._internal.train.losses import cross_entropy
from boxwood._internal.train.lr_schedules import (
    ConstantLR,
    CosineLR,
    LinearWarmup,
    LRSchedule,
    OneCycleLR,
    StepDecay,
)
from boxwood._internal.train.optimizers import SGD, AdamW
from boxwood._internal.train.settings import Training
from boxwood.errors import BoxwoodError

FACTORS = st.floats(0, 1)
RISES = st.floats(0.01, 0.99)


def torch_rates(steps: int, make: object, lr: float) -> list[float]:
    """The rate of every step under a scheduler of torch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def rates_of(schedule: LRSchedule, steps: int, lr: float = 1.0) -> list[float]:
    """The rate of every step of a training."""
    return [lr * schedule(step, steps) for step in range(steps)]


@settings(deadline=None)  # the first step of an optimizer imports much
@given(st.integers(1, 60), FACTORS, st.floats(1e-4, 10))
def test_the_cosine_is_that_of_torch(steps: int, final: float, lr: float) -> None:
    """``final`` is ``eta_min`` relative to the rate. Torch computes each rate from the one before."""
    expected = torch_rates(
        steps, lambda o: lr_scheduler.CosineAnnealingLR(o, steps, eta_min=final * lr), lr
    )
    assert rates_of(CosineLR(final=final), steps, lr) == pytest.approx(expected, abs=1e-9 * lr)


@settings(deadline=None)
@given(st.integers(1, 60), RISES, st.floats(1, 100), st.floats(1, 1e5), st.floats(1e-4, 10))
def test_the_cycle_is_that_of_torch(
    steps: int, rise: float, div: float, final_div: float, lr: float
) -> None:
    """Torch divides by zero where the peak is the first step; here the rate is then the full one."""
    schedule = OneCycleLR(rise=rise, start=1 / div, final=1 / div / final_div)
    if rise * steps == 1:
        assert schedule(0, steps) == 1
        return
    expected = torch_rates(
        steps,
        lambda o: lr_scheduler.OneCycleLR(
            o,
            lr,
            steps,
            pct_start=rise,
            cycle_momentum=False,
            div_factor=div,
            final_div_factor=final_div,
        ),
        lr,
    )
    assert rates_of(schedule, steps, lr) == pytest.approx(expected, rel=1e-9, abs=1e-12 * lr)


def test_the_defaults_of_the_cycle_are_those_of_torch() -> None:
    """A cycle without settings."""
    expected = torch_rates(
        40, lambda o: lr_scheduler.OneCycleLR(o, 0.3, 40, cycle_momentum=False), 0.3
    )
    assert rates_of(OneCycleLR(), 40, 0.3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [2, 4, 10])
def test_a_cycle_may_peak_at_its_first_step(steps: int) -> None:
    """Nothing is divided by zero, and the rate falls from the full one to the last one."""
    rates = rates_of(OneCycleLR(rise=1 / steps, final=0.1), steps)
    assert rates[0] == 1
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.1)


@given(st.integers(1, 80), FACTORS, FACTORS, RISES)
def test_factors_stay_within_their_ends(
    steps: int, start: float, final: float, rise: float
) -> None:
    """A cosine falls and never undercuts ``final``; a cycle has one peak and stays at or below 1."""
    falling = rates_of(CosineLR(final=final), steps)
    assert falling[0] == 1
    assert falling == sorted(falling, reverse=True)
    assert min(falling) >= final - 1e-12
    cycle = rates_of(OneCycleLR(rise=rise, start=start, final=final), steps)
    peak = cycle.index(max(cycle))
    assert cycle[:peak] == sorted(cycle[:peak])
    assert cycle[peak:] == sorted(cycle[peak:], reverse=True)
    assert min(start, final) - 1e-12 <= min(cycle)
    assert max(cycle) <= 1 + 1e-12
    if steps > 1:
        assert cycle[-1] == pytest.approx(final, abs=1e-9)


@given(st.integers(1, 40), st.integers(1, 50), FACTORS)
def test_a_warm_up_multiplies_the_schedule_and_then_leaves_it(
    rise: int, steps: int, final: float
) -> None:
    """As torch's chain of a multiplied factor and a cosine; from the end of the rise on, the same bits."""
    cosine = CosineLR(final=final)
    rates = rates_of(LinearWarmup(steps=rise, schedule=cosine), steps)
    assert rates[rise:] == rates_of(cosine, steps)[rise:]
    assert rates[0] == 0
    line = rates_of(LinearWarmup(steps=rise, schedule=ConstantLR()), steps)
    assert rates == [a * b for a, b in zip(line, rates_of(cosine, steps), strict=True)]


@given(
    st.integers(1, 5), st.integers(2, 6), st.floats(0, 0.99), st.floats(0.5, 4), st.integers(0, 99)
)
def test_label_smoothing_is_a_target_that_all_classes_share(
    count: int, classes: int, smoothing: float, temperature: float, seed: int
) -> None:
    """Torch's own, and the cross-entropy with the target written out."""
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=chance, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=chance)
    found = cross_entropy(logits, labels, temperature=temperature, label_smoothing=smoothing)
    scaled = logits / temperature
    assert torch.equal(found, functional.cross_entropy(scaled, labels, label_smoothing=smoothing))
    shared = (1 - smoothing) * functional.one_hot(labels, classes).double() + smoothing / classes
    assert found.item() == pytest.approx(
        -(shared * scaled.log_softmax(1)).sum(1).mean().item(), rel=1e-9, abs=1e-12
    )
    assert torch.equal(cross_entropy(logits, labels), functional.cross_entropy(logits, labels))


@pytest.mark.parametrize("shape", [(3, 7), (3, 4, 5)], ids=["text", "pixels"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_side_by_side_in_memory_give_the_loss_of_classes_in_second_place(
    shape: tuple[int, ...], smoothing: float
) -> None:
    """A language model's scores are read as rows: the same loss and gradient, -100 left out."""
    chance = torch.Generator().manual_seed(0)
    rows = torch.randn(*shape, 6, generator=chance)
    labels = torch.randint(6, shape, generator=chance)
    labels[0, 0] = -100
    losses, gradients = [], []
    for contiguous in (False, True):
        leaf = rows.clone().requires_grad_()
        scores = leaf.movedim(-1, 1)
        scores = scores.contiguous() if contiguous else scores
        loss = cross_entropy(scores, labels, label_smoothing=smoothing)
        loss.backward()
        losses.append(loss.item())
        gradients.append(leaf.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-8)


def test_a_training_is_the_plain_loop_with_the_parts_of_torch() -> None:
    """AdamW, one-cycle and label smoothing: the weights of a bare loop, to the rounding of rates."""
    steps, inputs = 12, torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(8) % 3
    start = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))

    def net() -> nn.Linear:
        layer = nn.Linear(5, 3, bias=False)
        with torch.no_grad():
            layer.weight.copy_(start)
        return layer

    plain, ours = net(), net()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.05, weight_decay=0.3)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.05, steps, cycle_momentum=False)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(plain(inputs), labels, label_smoothing=0.1).backward()
        optimizer.step()
        scheduler.step()
    training = Training(
        steps=steps,
        batch=8,
        optimizer=AdamW(lr=0.05, weight_decay=0.3, lr_schedule=OneCycleLR()),
        loss=Call.of(cross_entropy, label_smoothing=0.1),
    )
    train_(ours, InMemory(inputs, labels), training, seed=0)
    assert torch.allclose(ours.weight, plain.weight, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours.weight, start, atol=1e-2)


def test_decoupled_decay_does_not_depend_on_the_gradient() -> None:
    """Where the gradient is zero, a step multiplies by ``1 - lr · weight_decay``; zeros stay zero."""
    weight = nn.Parameter(torch.tensor([2.0, 0.0, -4.0]))
    optimizer = AdamW(lr=0.1, weight_decay=0.5).build([weight])
    for _ in range(3):
        weight.grad = torch.zeros(3)
        optimizer.step()
    assert torch.allclose(weight.detach(), torch.tensor([2.0, 0.0, -4.0]) * 0.95**3)


def test_what_they_refuse() -> None:
    """Each message says what is wrong and what to do."""
    with pytest.raises(BoxwoodError, match=r"a learning rate above 0, got 0"):
        AdamW(lr=0.0)
    for final in (-0.1, 1.1, float("nan")):
        with pytest.raises(BoxwoodError, match=r"a final factor in \[0, 1\], got"):
            CosineLR(final=final)
        with pytest.raises(BoxwoodError, match=r"rise in \(0, 1\), and start and final"):
            OneCycleLR(final=final)
        with pytest.raises(BoxwoodError, match=r"rise in \(0, 1\), and start and final"):
            OneCycleLR(start=final)
    for rise in (0.0, 1.0):
        with pytest.raises(BoxwoodError, match=r"rise in \(0, 1\), and start and final"):
            OneCycleLR(rise=rise)
    for smoothing in (-0.1, 1.0):
        with pytest.raises(BoxwoodError, match=r"label_smoothing in \[0, 1\), got"):
            cross_entropy(torch.zeros(1, 2), torch.tensor([0]), label_smoothing=smoothing)


@pytest.mark.parametrize(
    "schedule",
    [
        ConstantLR(),
        StepDecay(fractions=(0.5,)),
        LinearWarmup(steps=3, schedule=CosineLR()),
        OneCycleLR(),
    ],
)
def test_schedules_are_data(schedule: LRSchedule) -> None:
    """Equal settings are equal, which the keys of runs rest on."""
    optimizer = SGD(lr=0.1, lr_schedule=schedule)
    assert optimizer == SGD(lr=0.1, lr_schedule=schedule)
    assert hash(optimizer) == hash(SGD(lr=0.1, lr_schedule=schedule))
