"""What a student learns from a teacher: soft targets, logits, or hidden features.

Shape suffixes: N examples, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from boxwood.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class TeacherTargets:
    """The targets of a batch with a teacher: its labels, and the teacher's logits.

    Args:
        labels: int64 [N].
        logits: of the teacher, floating point [N, C], at temperature 1.

    Example:
        >>> len(TeacherTargets(torch.tensor([0, 1]), torch.zeros(2, 10)))
        2
    """

    labels: Tensor
    logits: Tensor

    def to(self, device: torch.device) -> "TeacherTargets":
        """Move both to a device."""
        return TeacherTargets(self.labels.to(device), self.logits.to(device))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learn soft targets at a temperature, mixed with labels: the loss of a training with a teacher.

    ``soft · T² · CE(softmax(v/T), softmax(z/T)) + hard · CE(y, softmax(z))``, the mean over a
    batch, in nats. The T² keeps the two parts in proportion when T changes, because the gradient
    of the soft part shrinks as 1/T². Without a teacher, as on validation examples, it is the
    cross-entropy of the labels alone.

    Args:
        temperature: T > 0 of both softmaxes; the student is used at T = 1 afterwards. Choose it by
            validation accuracy: small students need it near 1, and for wide ones any value above 8
            works.
        soft: α >= 0, weight of the teacher.
        hard: β >= 0, weight of the labels, usually much smaller.

    Raises:
        InvalidInput: T is not above 0, or a weight is negative or both are 0.

    Example:
        >>> loss = Distillation(temperature=2.0, soft=1.0, hard=0.0)
        >>> z = torch.tensor([[2.0, 0.0]])
        >>> loss(z, TeacherTargets(torch.tensor([0]), z)) < loss(-z, TeacherTargets(torch.tensor([0]), z))
        tensor(True)

    Source: Hinton, Vinyals and Dean (2015), section 2, equation 1.
    """

    temperature: float = 4.0
    soft: float = 0.9
    hard: float = 0.1

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        if min(self.soft, self.hard) < 0 or not self.soft + self.hard > 0:
            raise InvalidInput(
                f"Expected weights soft >= 0 and hard >= 0, not both 0, got soft={self.soft}, "
                f"hard={self.hard}; give the labels a small weight next to the teacher's."
            )

    def __call__(self, logits: Tensor, targets: TeacherTargets | Tensor) -> Tensor:
        """Mix the two losses.

        Args:
            logits: z of the student, [N, C].
            targets: labels with the teacher's logits; or labels alone, int64 [N].
        """
        if isinstance(targets, Tensor):
            return functional.cross_entropy(logits, targets)
        parts = []
        if self.soft:
            parts.append(self.soft * soft_cross_entropy(logits, targets.logits, self.temperature))
        if self.hard:
            parts.append(self.hard * functional.cross_entropy(logits, targets.labels))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def soft_cross_entropy(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy with soft targets, ``-T² · Σ_i softmax(v/T)_i · log softmax(z/T)_i``.

    Its gradient by z is ``T · (softmax(z/T) - softmax(v/T)) / N``; for large T, and logits of mean
    zero, that is the gradient of `logit_matching`. Half-precision logits are computed in float32.

    Args:
        logits: z of the student, [N, C].
        teacher: v, [N, C]; no gradient flows into them.
        temperature: T > 0.

    Returns:
        Mean over the batch, a scalar in nats.

    Raises:
        InvalidInput: T is not above 0, or the shapes differ.

    Example:
        >>> soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2), 1.0)
        tensor(0.6931)

    Source: Hinton, Vinyals and Dean (2015), section 2, equations 1 and 2.
    """
    _check_temperature(temperature)
    _check_shapes(logits, teacher)
    logits, teacher = _at_least_single(logits), _at_least_single(teacher.detach())
    targets = (teacher / temperature).softmax(1).to(logits.dtype)
    return temperature**2 * functional.cross_entropy(logits / temperature, targets)


def logit_matching(logits: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared distance of centred logits, ``Σ_i (z_i - v_i)² / (2 C)``: the limit T → ∞.

    Logits are first centred to mean zero, because the softmax does not depend on their mean.

    Args:
        logits: z of the student, [N, C].
        teacher: v, [N, C].

    Returns:
        Mean over the batch.

    Example:
        >>> logit_matching(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
        tensor(0.5000)

    Source: Hinton, Vinyals and Dean (2015), section 2.1, equations 3 and 4.
    """
    _check_shapes(logits, teacher)
    apart = _at_least_single(logits) - _at_least_single(teacher.detach())
    return (apart - apart.mean(1, keepdim=True)).square().mean() / 2


def feature_matching(features: Tensor, teacher: Tensor, projection: Tensor | None = None) -> Tensor:
    """Half the mean squared distance of hidden features, ``mean((P h - g)²) / 2``.

    Args:
        features: h of the student, [N, F].
        teacher: g, [N, G]; no gradient flows into them.
        projection: P, [G, F], learned together with the student; needed if F differs from G.

    Raises:
        InvalidInput: the shapes do not fit.

    Example:
        >>> feature_matching(torch.ones(1, 3), torch.zeros(1, 2), torch.ones(2, 3))
        tensor(4.5000)

    Source: Romero et al., arXiv:1412.6550, 2015, equation 3.
    """
    projected = features if projection is None else functional.linear(features, projection)
    if projected.shape != teacher.shape:
        raise InvalidInput(
            f"Expected features of the teacher's shape {tuple(teacher.shape)}, got "
            f"{tuple(projected.shape)}; give a projection of shape [{teacher.shape[-1]}, "
            f"{features.shape[-1]}]."
        )
    return functional.mse_loss(projected, teacher.detach()) / 2


def _at_least_single(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise InvalidInput(
            f"Expected a temperature above 0, got {temperature}; 1 leaves probabilities as they "
            f"are, and logit_matching is the limit of large ones."
        )


def _check_shapes(logits: Tensor, teacher: Tensor) -> None:
    if logits.shape != teacher.shape or logits.dim() != 2:
        raise InvalidInput(
            f"Expected logits [batch, classes] of student and teacher alike, got "
            f"{tuple(logits.shape)} and {tuple(teacher.shape)}; give both the same classes."
        )
