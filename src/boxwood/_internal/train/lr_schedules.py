"""Learning-rate schedules as frozen data: a factor on the optimizer's rate, step by step."""

import math
from dataclasses import dataclass
from typing import Protocol

from boxwood.errors import InvalidInput


class LRSchedule(Protocol):
    """A function from the step and the length of the training to a factor on the learning rate.

    A frozen dataclass with this method, or a function at the top level of a file.
    """

    def __call__(self, step: int, steps: int) -> float:
        """Return the factor at ``step``, counted from 0, of ``steps``."""
        ...


@dataclass(frozen=True)
class ConstantLR:
    """The same learning rate throughout.

    Example:
        >>> ConstantLR()(7, 10)
        1.0
    """

    def __call__(self, step: int, steps: int) -> float:  # noqa: ARG002 - as for every schedule
        """Return 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class StepDecay:
    """Multiply the learning rate by ``factor`` at given moments of the training.

    Args:
        fractions: the moments as fractions of the training, each in (0, 1), such as
            ``(0.5, 0.75)``.
        steps: the moments in steps instead, each at least 1, whatever the length of the training.
        factor: factor on the rate at each moment, above 0.

    Raises:
        InvalidInput: not exactly one of ``fractions`` and ``steps`` is given, or a value is out of
            range.

    Example:
        >>> [round(StepDecay(fractions=(0.5, 0.75))(t, 4), 3) for t in range(4)]
        [1.0, 1.0, 0.1, 0.01]
        >>> [round(StepDecay(steps=(2, 3), factor=0.5)(t, 4), 3) for t in range(4)]
        [1.0, 1.0, 0.5, 0.25]
    """

    fractions: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()
    factor: float = 0.1

    def __post_init__(self) -> None:
        within = all(0 < each < 1 for each in self.fractions) and all(s >= 1 for s in self.steps)
        if bool(self.fractions) == bool(self.steps) or not within or not self.factor > 0:
            raise InvalidInput(
                f"Expected either fractions in (0, 1) or steps >= 1, and a factor above 0, got "
                f"fractions={self.fractions}, steps={self.steps}, factor={self.factor}; give "
                f"StepDecay(fractions=(0.5, 0.75)), or ConstantLR() for no decay."
            )

    def __call__(self, step: int, steps: int) -> float:
        """Return ``factor`` to the power of the number of moments so far."""
        moments = self.steps or tuple(round(fraction * steps) for fraction in self.fractions)
        return float(self.factor ** sum(step >= moment for moment in moments))


@dataclass(frozen=True, kw_only=True)
class CosineLR:
    """Fall from the full rate along half a cosine: ``final + (1 - final) (1 + cos(π t / T)) / 2``.

    Here t is the step and T the number of steps of the training. The rate would be ``final`` at
    step T, the first step that is not taken. ``LinearWarmup(steps=500, schedule=CosineLR())`` warms
    up first.

    Args:
        final: the factor at the end, in [0, 1].

    Raises:
        InvalidInput: ``final`` is out of range.

    Example:
        >>> [round(CosineLR()(t, 4), 3) for t in range(4)]
        [1.0, 0.854, 0.5, 0.146]
        >>> round(CosineLR(final=0.1)(4, 4), 3)
        0.1

    Source: Loshchilov and Hutter (2017), "SGDR", equation 5, without restarts.
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.final <= 1:
            raise InvalidInput(
                f"Expected a final factor in [0, 1], got {self.final}; it multiplies the "
                f"optimizer's learning rate: leave it out to end at 0."
            )

    def __call__(self, step: int, steps: int) -> float:
        """Return the height of the cosine."""
        return _half_cosine(1.0, self.final, step / steps)


@dataclass(frozen=True, kw_only=True)
class LinearLR:
    """Fall linearly from the full rate: ``1 - (1 - final) t / every``, once or repeatedly.

    Args:
        final: the factor at the end of a decay, in [0, 1].
        every: steps of one decay, after which the rate is full again, at least 1; None for one
            decay over the whole training.

    Raises:
        InvalidInput: a value is out of range.

    Example:
        >>> LinearLR()(1, 4), [LinearLR(final=0.5, every=2)(t, 4) for t in range(4)]
        (0.75, [1.0, 0.75, 1.0, 0.75])

    Source: Kurtic and Alistarh (2022), section 2, for the repeated falls, two epochs each.
    """

    final: float = 0.0
    every: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.final <= 1 or (self.every is not None and self.every < 1):
            raise InvalidInput(
                f"Expected a final factor in [0, 1] and every >= 1 steps, got {self.final} and "
                f"{self.every}; leave every out for one decay over the whole training."
            )

    def __call__(self, step: int, steps: int) -> float:
        """Return the height of the slope."""
        length = steps if self.every is None else self.every
        return 1 - (1 - self.final) * (step % length / length)


@dataclass(frozen=True, kw_only=True)
class OneCycleLR:
    """Rise to the full rate along half a cosine, then fall along another, to almost nothing.

    With T the steps of the training and ``p = rise · T - 1``, the factor goes from ``start`` at step
    0 to 1 at step p, and to ``final`` at step T - 1, the last one. The optimizer's learning rate is
    the peak, ``max_lr`` in torch.

    Args:
        rise: the fraction of the training in which the rate rises, in (0, 1).
        start: the factor at the first step, in [0, 1]; 1 / ``div_factor`` in torch.
        final: the factor at the last step, in [0, 1]; ``start / final_div_factor`` in torch.

    Raises:
        InvalidInput: a value is out of range.

    Example:
        >>> [round(OneCycleLR(rise=0.5)(t, 8), 2) for t in range(8)]
        [0.04, 0.28, 0.76, 1.0, 0.85, 0.5, 0.15, 0.0]

    Source: Smith and Topin (2019), "Super-convergence", section 3.

    Differs from the paper: it falls in one phase and along cosines, as in torch, where the paper has
    two phases and straight lines. The momentum of the optimizer stays as it is.
    """

    rise: float = 0.3
    start: float = 1 / 25
    final: float = 1 / 250_000

    def __post_init__(self) -> None:
        if not (0 < self.rise < 1 and 0 <= self.start <= 1 and 0 <= self.final <= 1):
            raise InvalidInput(
                f"Expected rise in (0, 1), and start and final in [0, 1], got {self.rise}, "
                f"{self.start} and {self.final}; these are factors on the rate of the peak."
            )

    def __call__(self, step: int, steps: int) -> float:
        """Return the height of the cycle."""
        peak = self.rise * steps - 1
        if step < peak:
            return _half_cosine(self.start, 1.0, step / peak)
        return _half_cosine(1.0, self.final, (step - peak) / (steps - 1 - peak))


@dataclass(frozen=True, kw_only=True)
class LinearWarmup:
    """Rise from zero to the full rate over the first steps of another schedule: ``t / steps``.

    Args:
        steps: steps until the full rate, at least 1.
        schedule: the schedule that is multiplied by the rise. Its steps count from step 0, not from
            the end of the rise.

    Raises:
        InvalidInput: ``steps`` is below 1.

    Example:
        >>> [LinearWarmup(steps=2)(t, 4) for t in range(4)]
        [0.0, 0.5, 1.0, 1.0]
        >>> [round(LinearWarmup(steps=2, schedule=CosineLR())(t, 4), 3) for t in range(4)]
        [0.0, 0.427, 0.5, 0.146]

    Source: Frankle and Carbin (2019), section 4 and figure 2.
    """

    steps: int
    schedule: LRSchedule = ConstantLR()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidInput(
                f"Expected a warm-up of steps >= 1, got {self.steps}; leave it out for none."
            )

    def __call__(self, step: int, steps: int) -> float:
        """Return the factor of the rise times that of the schedule."""
        return min(1.0, step / self.steps) * self.schedule(step, steps)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
