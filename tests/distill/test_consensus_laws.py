"""Laws of the inference with specialists: exact special cases, and the minimum itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwood._internal.distill.consensus import (
    SpecialistPrediction,
    consensus,
    divergence,
    relevant_specialists,
)
from boxwood._internal.distill.ensembles import arithmetic_mean, geometric_mean
from boxwood.errors import BoxwoodError

SEEDS = st.integers(0, 10_000)
GROUPS = ((0, 2, 4), (4, 5), (1, 6, 7, 3))


def distributions(seed: int, *shape: int) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, generator=chance, dtype=torch.float64)).softmax(-1)


def opinions_of(
    seed: int, n: int, groups: tuple[tuple[int, ...], ...] = GROUPS
) -> list[SpecialistPrediction]:
    return [
        SpecialistPrediction(classes, distributions(seed + 1 + index, n, len(classes) + 1))
        for index, classes in enumerate(groups)
    ]


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(1, 5))
def test_full_support_is_the_arithmetic_mean(seed: int, members: int) -> None:
    """Where all members know all classes, the minimum is their arithmetic mean."""
    p = distributions(seed, members + 1, 4, 6)
    q = consensus(p[0], [SpecialistPrediction(tuple(range(6)), each) for each in p[1:]])
    torch.testing.assert_close(q, p.mean(0))
    torch.testing.assert_close(q, arithmetic_mean(p.log()).exp())


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_geometric_mean_minimises_the_reverse(seed: int) -> None:
    """The geometric mean minimises Σ KL(q, p_m): any other distribution has a larger sum."""
    p = distributions(seed, 3, 1, 6)
    best = geometric_mean(p.log()).softmax(1)

    def reverse(q: Tensor) -> Tensor:
        return (q * (q.log() - p.log())).sum()

    for other in distributions(seed + 1, 20, 1, 6):
        near = (0.99 * best.log() + 0.01 * other.log()).softmax(1)
        assert reverse(other) >= reverse(best) - 1e-12
        assert reverse(near) >= reverse(best) - 1e-12


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_no_gradient_is_left(seed: int) -> None:
    """At the minimum the gradient over logits vanishes, as gradient descent over them would find."""
    generalist, said = distributions(seed, 6, 8), opinions_of(seed, 6)
    q = consensus(generalist, said, tolerance=1e-12)
    logits = q.log().requires_grad_()
    loss = divergence(generalist, said, logits.softmax(1)).sum()
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-5


@settings(deadline=None, max_examples=10)
@given(SEEDS)
def test_tolerance_is_kept(seed: int) -> None:
    """A rough answer is no farther from a fine one than its tolerance, in nats."""
    generalist, said = distributions(seed, 6, 8), opinions_of(seed, 6)
    fine = divergence(generalist, said, consensus(generalist, said, tolerance=1e-12))
    for tolerance in (1e-1, 1e-3, 1e-6):
        rough = divergence(generalist, said, consensus(generalist, said, tolerance=tolerance))
        assert (rough - fine).max() <= tolerance
        assert (rough - fine).min() >= -1e-11


def test_no_better_logits_by_descent() -> None:
    """A thousand steps of Adam over logits find no smaller sum."""
    generalist, said = distributions(3, 5, 8), opinions_of(3, 5)
    logits = generalist.log().requires_grad_()
    descent = torch.optim.Adam([logits], lr=0.03)
    for _ in range(1000):
        descent.zero_grad()
        divergence(generalist, said, logits.softmax(1)).sum().backward()
        descent.step()
    ours = divergence(generalist, said, consensus(generalist, said, tolerance=1e-10))
    theirs = divergence(generalist, said, logits.detach().softmax(1))
    assert (ours <= theirs + 1e-10).all()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_batched_is_one_by_one() -> None:
    """Images do not disturb each other, though they need different numbers of steps."""
    generalist, said = distributions(5, 7, 8), opinions_of(5, 7)
    together = consensus(generalist, said)
    for index in range(7):
        alone = [
            SpecialistPrediction(each.classes, each.probabilities[index : index + 1])
            for each in said
        ]
        torch.testing.assert_close(
            together[index : index + 1], consensus(generalist[index : index + 1], alone)
        )


def test_who_is_not_asked_says_nothing() -> None:
    """An image that no specialist is asked about keeps the generalist's answer."""
    generalist = distributions(1, 4, 8)
    asked = torch.tensor([True, False, True, False])
    said = [
        SpecialistPrediction(each.classes, each.probabilities, asked) for each in opinions_of(1, 4)
    ]
    q = consensus(generalist, said)
    torch.testing.assert_close(q[~asked], generalist[~asked])
    with_all = consensus(generalist, opinions_of(1, 4))
    torch.testing.assert_close(q[asked], with_all[asked])


def test_agreeing_specialists_change_nothing() -> None:
    """Specialists that say what the generalist says leave its answer as it is."""
    generalist = distributions(2, 4, 8)
    said = []
    for classes in GROUPS:
        inside = generalist[:, list(classes)]
        said.append(
            SpecialistPrediction(classes, torch.cat([inside, 1 - inside.sum(1, keepdim=True)], 1))
        )
    torch.testing.assert_close(consensus(generalist, said), generalist)


def test_impossible_classes_and_certain_specialists() -> None:
    """Probabilities of 0 and 1 are allowed: what all hold impossible stays so."""
    generalist = torch.tensor([[0.5, 0.5, 0.0]])
    certain = SpecialistPrediction((0,), torch.tensor([[0.0, 1.0]]))
    q = consensus(generalist, [certain])
    torch.testing.assert_close(q, torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64))


def test_many_specialists_about_the_rest() -> None:
    """Ten specialists that all say "something else" still reach the tolerance."""
    generalist = distributions(4, 3, 12)
    said = [
        SpecialistPrediction((index,), torch.tensor([[1e-6, 1 - 1e-6]]).double().expand(3, 2))
        for index in range(10)
    ]
    q = consensus(generalist, said, tolerance=1e-9)
    torch.testing.assert_close(q.sum(1), torch.ones(3, dtype=torch.float64))


def test_covering_takes_likely_classes() -> None:
    """More likely classes are looked up as `top` grows."""
    p = torch.tensor([[0.6, 0.3, 0.1]])
    assert relevant_specialists(p, [(1,), (0,)]).tolist() == [[False, True]]
    assert relevant_specialists(p, [(1,), (0,)], top=2).tolist() == [[True, True]]


@pytest.mark.parametrize(
    ("said", "settings_", "message"),
    [
        (
            SpecialistPrediction((0, 1), torch.ones(1, 2) / 2),
            {},
            "from specialist 0; give it one more column",
        ),
        (
            SpecialistPrediction((0,), torch.ones(2, 2) / 2),
            {},
            "Expected probabilities of 1 images",
        ),
        (
            SpecialistPrediction((0,), torch.ones(1, 2) / 2),
            {"tolerance": 0.0},
            "tolerance above 0 nats",
        ),
    ],
)
def test_refusals(said: SpecialistPrediction, settings_: dict[str, float], message: str) -> None:
    """Opinions that do not fit are refused."""
    with pytest.raises(BoxwoodError, match=message):
        consensus(torch.tensor([[0.5, 0.3, 0.2]]), [said], **settings_)


def test_tolerance_out_of_reach() -> None:
    """A tolerance below rounding is an error, not an answer that pretends."""
    with pytest.raises(BoxwoodError, match="allow a larger tolerance"):
        consensus(distributions(0, 50, 8), opinions_of(0, 50), tolerance=1e-300)
