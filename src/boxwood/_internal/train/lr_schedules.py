"""Learning-rate schedules as frozen data: a factor on the optimizer's rate, step by step."""

from dataclasses import dataclass
from typing import Protocol

from boxwood.errors import InvalidInput


class LRSchedule(Protocol):
    """A step, and the number of steps of the whole training, to a factor on the learning rate.

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
    """Multiply the learning rate by ``factor`` at each of some moments of the training.

    Args:
        fractions: the moments as fractions of the training, each in (0, 1), such as
            ``(0.5, 0.75)``.
        steps: the moments in steps instead, each at least 1, whatever the length of the training.
        factor: what the rate is multiplied by at each, above 0.

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
class LinearWarmup:
    """Rise from zero to the full rate over the first steps of another schedule: ``t / steps``.

    Args:
        steps: steps until the full rate, at least 1.
        schedule: what is multiplied with the rise. Its steps count from step 0, not from the end of
            the rise.

    Raises:
        InvalidInput: ``steps`` is below 1.

    Example:
        >>> [LinearWarmup(steps=2)(t, 4) for t in range(4)]
        [0.0, 0.5, 1.0, 1.0]

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
