"""Distillation of language models: the loss of every token, in little memory.

Shape suffixes: N pieces, T tokens, V words of the vocabulary, k kept.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from boxwood._internal.distill.encodings import EncodedLogits
from boxwood._internal.distill.losses import Distillation, soft_cross_entropy
from boxwood.errors import InvalidInput

_AT_ONCE = 256
"""Tokens whose probabilities are in memory at a time."""
_NONE = -100  # a label that does not count


def top_k_cross_entropy(logits: Tensor, kept: EncodedLogits, temperature: float = 1.0) -> Tensor:
    """Cross-entropy with the k most probable words of a teacher and one class for all the others.

    ``-T² · (Σ_k p_k · log q_k + r · log q_r)`` with r and q_r what teacher and student give to all
    words that are not kept. The student learns the kept probabilities and how much is left; how the
    rest is shared among other words is its own. So a student that equals the teacher has no gradient,
    and with all words kept but one it is `soft_cross_entropy`.

    Args:
        logits: of the student, [T, V].
        kept: by `TopK` of V classes: values, indices [T, k] and rest [T, 1].
        temperature: T > 0; above 1 the rest counts as shared evenly.

    Returns:
        Mean over tokens, in nats.

    Example:
        >>> from boxwood._internal.distill.encodings import TopK
        >>> p = torch.tensor([[0.5, 0.25, 0.125, 0.125]])
        >>> kept = TopK(1, classes=4).encode(p.log())
        >>> found = top_k_cross_entropy(p.log(), kept)  # two classes of one half
        >>> round(float(found), 3) == round(math.log(2), 3)
        True

    Source: Hinton, Vinyals and Dean (2015), section 2.
    Differs from the paper: k classes and one for the rest, since a vocabulary is large.
    """
    indices = kept["indices"].long()
    others = logits.shape[1] - indices.shape[1]
    logs = torch.cat([kept["values"].float(), kept["rest"].float()], 1) / temperature
    logs[:, -1] += math.log(others)
    targets = logs.softmax(1)  # rounding to 16 bits left a sum that is not quite 1
    scaled = logits.float() / temperature
    mine = scaled.gather(1, indices)
    rest = scaled.scatter(1, indices, -math.inf).logsumexp(1, keepdim=True)
    found = torch.cat([mine, rest], 1) - scaled.logsumexp(1, keepdim=True)
    return -(temperature**2) * (targets * found).sum(1).mean()


def text_loss(
    logits: Tensor,
    ids: Tensor,
    teacher: Tensor | EncodedLogits | None,
    distillation: Distillation,
) -> Tensor:
    """Mix what a teacher says of the next token with what the text says.

    Mean over tokens of both parts, as `Distillation` mixes them. The teacher's part is of all T
    tokens of a piece, the text's of the T - 1 whose next one is in the piece. Probabilities are
    computed a few tokens at a time, and again on the way back, so that memory holds the logits and
    their gradient and little more.

    Args:
        logits: of the student, [N, T, V].
        ids: int64 [N, T].
        teacher: logits [N, T, V]; or what `TopK` keeps of N · T rows; None for the text alone.
        distillation: temperature and weights; without a teacher it is not used.

    Raises:
        InvalidInput: the teacher's vocabulary is another one.

    Example:
        >>> even = torch.zeros(1, 3, 4)
        >>> ids = torch.tensor([[0, 1, 2]])
        >>> round(float(text_loss(even, ids, None, Distillation())), 3)  # log 4
        1.386
    """
    if isinstance(teacher, Tensor) and teacher.shape != logits.shape:
        raise InvalidInput(
            f"Expected logits of the teacher of shape {tuple(logits.shape)}, as the student's, got "
            f"{tuple(teacher.shape)}; teacher and student need the same vocabulary."
        )
    labels = functional.pad(ids[:, 1:], (0, 1), value=_NONE).flatten().to(logits.device)
    rows = logits.flatten(0, 1)
    soft, hard = (0.0, 1.0) if teacher is None else (distillation.soft, distillation.hard)
    predicted = max(int((labels != _NONE).sum()), 1)
    total = logits.new_zeros((), dtype=torch.float32)
    for start in range(0, len(rows), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        known = None if not soft or teacher is None else _part(teacher, part, logits.device)
        total = total + checkpoint(
            _weighted,
            rows[part],
            labels[part],
            known,
            distillation.temperature,
            soft / len(rows),
            hard / predicted,
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return total


def _weighted(
    rows: Tensor,
    labels: Tensor,
    teacher: Tensor | EncodedLogits | None,
    temperature: float,
    soft: float,
    hard: float,
) -> Tensor:
    """Sums over some tokens, weighted."""
    total = rows.new_zeros((), dtype=torch.float32)
    if teacher is not None:
        if isinstance(teacher, Tensor):
            found = soft_cross_entropy(rows, teacher, temperature)
        else:
            found = top_k_cross_entropy(rows, teacher, temperature)
        total = total + soft * len(rows) * found
    if hard:
        found = functional.cross_entropy(rows.float(), labels, ignore_index=_NONE, reduction="sum")
        total = total + hard * found
    return total


def _part(
    teacher: Tensor | EncodedLogits, part: slice, device: torch.device
) -> Tensor | EncodedLogits:
    if isinstance(teacher, Tensor):
        return teacher.flatten(0, 1)[part].to(device)
    return {name: tensor[part].to(device) for name, tensor in teacher.items()}
