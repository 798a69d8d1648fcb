"""The loss of every token of a text: by the whole vocabulary, by its likeliest words, by the text."""

import pytest
import torch
from torch.nn import functional

from boxwood._internal.distill import token_losses
from boxwood._internal.distill.encodings import TopK
from boxwood._internal.distill.losses import Distillation, TeacherTargets, soft_cross_entropy
from boxwood._internal.distill.token_losses import text_loss, top_k_cross_entropy
from boxwood.errors import InvalidInput


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("at_once", [1, 3, 4, 256])
def test_it_is_the_loss_of_one_example_for_each_token(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In value and gradient, however many tokens are in memory at a time."""
    monkeypatch.setattr(token_losses, "_AT_ONCE", at_once)
    ids = torch.tensor([[1, 4, 2, 0, 3], [2, 2, 1, 0, 4]])
    teacher = drawn(2, 5, 6, seed=1)
    for how in (Distillation(temperature=2.0, soft=0.7, hard=0.4), Distillation(hard=0.0)):
        mine, plain = (drawn(2, 5, 6).requires_grad_() for _ in range(2))
        text_loss(mine, ids, teacher, how).backward()
        soft = Distillation(temperature=how.temperature, soft=how.soft, hard=0.0)
        labels = torch.zeros(10, dtype=torch.long)
        loss = soft(plain.flatten(0, 1), TeacherTargets(labels, teacher.flatten(0, 1)))
        text = functional.cross_entropy(plain[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        (loss + how.hard * text).backward()
        torch.testing.assert_close(mine.grad, plain.grad, rtol=1e-5, atol=1e-7)
    alone = text_loss(plain, ids, None, Distillation())
    torch.testing.assert_close(alone, text, rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_words_but_one_are_all_words(temperature: float) -> None:
    """Only rounding to 16 bits is left."""
    teacher, logits = drawn(7, 9, seed=1), drawn(7, 9).requires_grad_()
    kept = TopK(8, classes=9).encode(teacher)
    found = top_k_cross_entropy(logits, kept, temperature)
    torch.testing.assert_close(
        found, soft_cross_entropy(logits, teacher, temperature), rtol=2e-3, atol=0
    )


def test_a_student_that_equals_its_teacher_learns_nothing() -> None:
    """However few words are kept: the rest is one class, whose shares are the student's own."""
    teacher = drawn(5, 12, seed=2)
    student = teacher.clone().requires_grad_()
    other = drawn(5, 12).requires_grad_()
    kept = TopK(3, classes=12).encode(teacher)
    top_k_cross_entropy(student, kept).backward()
    top_k_cross_entropy(other, kept).backward()
    assert student.grad is not None
    assert other.grad is not None
    assert float(student.grad.abs().max()) < 1e-3 * float(other.grad.abs().max())


def test_another_vocabulary_is_refused() -> None:
    """Both shapes are named."""
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(
        InvalidInput, match=r"of shape \(1, 3, 5\), as the student's, got \(1, 3, 6\)"
    ):
        text_loss(torch.zeros(1, 3, 5), ids, torch.zeros(1, 3, 6), Distillation())
