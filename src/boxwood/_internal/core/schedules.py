"""Schedules: sparsity as a function of the step, monotone from its start to its final value.

A step is whatever the caller counts: training steps, epochs, or rounds of pruning.
"""

from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

from boxwood._internal.core import spec
from boxwood.errors import InvalidInput

_FAR = 10**12  # a step at which every schedule is at its end


class Schedule(Protocol):
    """The interface of all schedules: a function from the step (0, 1, 2, …) to a sparsity in [0, 1)."""

    def __call__(self, step: int) -> float:
        """Sparsity wanted at ``step``."""
        ...


def check_sparsity(sparsity: float, name: str = "sparsity") -> None:
    """Refuse a sparsity outside [0, 1).

    Example:
        >>> check_sparsity(0.9)
        >>> check_sparsity(90)
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected sparsity in [0, 1), got 90; give the fraction of weights that become zero, such as 0.9.
    """
    if not 0 <= sparsity < 1:
        raise InvalidInput(
            f"Expected {name} in [0, 1), got {sparsity}; give the fraction of weights that "
            f"become zero, such as 0.9."
        )


def end_of(schedule: Schedule) -> float | None:
    """Return the sparsity at the end of a schedule; None where it cannot say.

    Example:
        >>> end_of(Cubic(final=0.9, end=10_000))
        0.9
    """
    with suppress(Exception):  # somebody's table may have no row for it
        return schedule(_FAR)
    return None


def check_every(every: int) -> None:
    """Refuse an interval between updates below one step.

    Example:
        >>> check_every(100)
    """
    if every < 1:
        raise InvalidInput(f"Expected every >= 1 steps, got {every}; 100 is usual.")


def _check_window(begin: int, end: int) -> None:
    if not 0 <= begin < end:
        raise InvalidInput(
            f"Expected steps 0 <= begin < end, got begin={begin}, end={end}; widen the window."
        )


@dataclass(frozen=True)
class OneShot:
    """Nothing before step ``at``, all of it from then on.

    Example:
        >>> [OneShot(final=0.9, at=2)(t) for t in range(4)]
        [0.0, 0.0, 0.9, 0.9]
    """

    final: float
    _: KW_ONLY
    at: int = 0

    def __post_init__(self) -> None:
        check_sparsity(self.final, "final sparsity")

    def __call__(self, step: int) -> float:
        """Sparsity wanted at ``step``."""
        return self.final if step >= self.at else 0.0


@dataclass(frozen=True)
class Geometric:
    """The same fraction of the remaining weights at every step: ``s = 1 - (1 - final)^((t-begin)/(end-begin))``.

    From ``initial``, the density at first: ``s = 1 - d (((1 - final) / d)^…)`` with ``d = 1 - initial``.

    Source: Frankle and Carbin (2019), section 1: n rounds that each prune p^(1/n) of what is left.

    Example:
        >>> [round(Geometric(final=0.75, end=2)(t), 3) for t in range(4)]
        [0.0, 0.5, 0.75, 0.75]
    """

    final: float
    _: KW_ONLY
    end: int
    begin: int = 0
    initial: float = spec.field(0.0, legacy=0.0)

    def __post_init__(self) -> None:
        check_sparsity(self.final, "final sparsity")
        check_sparsity(self.initial, "initial sparsity")
        _check_window(self.begin, self.end)

    def __call__(self, step: int) -> float:
        """Sparsity wanted at ``step``."""
        if step >= self.end:
            return self.final  # exactly, not up to rounding
        progress = max(0.0, (step - self.begin) / (self.end - self.begin))
        density = 1 - self.initial
        return 1.0 - float(density * ((1 - self.final) / density) ** progress)


@dataclass(frozen=True)
class Linear:
    """A straight line from ``initial`` at ``begin`` to ``final`` at ``end``.

    Example:
        >>> [Linear(final=0.5, end=2)(t) for t in range(4)]
        [0.0, 0.25, 0.5, 0.5]
    """

    final: float
    _: KW_ONLY
    end: int
    begin: int = 0
    initial: float = 0.0

    def __post_init__(self) -> None:
        check_sparsity(self.final, "final sparsity")
        check_sparsity(self.initial, "initial sparsity")
        _check_window(self.begin, self.end)

    def __call__(self, step: int) -> float:
        """Sparsity wanted at ``step``."""
        if step >= self.end:
            return self.final
        progress = max(0.0, (step - self.begin) / (self.end - self.begin))
        return self.initial + (self.final - self.initial) * progress


@dataclass(frozen=True)
class Cubic:
    """Fast while much is redundant, slow near the end: ``s_t = s_f + (s_i - s_f)(1 - (t - t0)/(nΔt))³``.

    ``every`` is Δt: between two updates the sparsity stays where the last update put it.
    Source: Zhu and Gupta (2017), equation 1.

    Example:
        >>> [round(Cubic(final=0.8, end=4)(t), 4) for t in (0, 2, 4)]  # middle: 0.875 of the way
        [0.0, 0.7, 0.8]
    """

    final: float
    _: KW_ONLY
    end: int
    begin: int = 0
    initial: float = 0.0
    every: int = 1

    def __post_init__(self) -> None:
        check_sparsity(self.final, "final sparsity")
        check_sparsity(self.initial, "initial sparsity")
        _check_window(self.begin, self.end)
        if self.every < 1 or (self.end - self.begin) % self.every:
            raise InvalidInput(
                f"Expected every >= 1 that divides the window of {self.end - self.begin} steps, "
                f"got {self.every}; change every, begin or end."
            )

    def __call__(self, step: int) -> float:
        """Sparsity wanted at ``step``."""
        if step >= self.end:
            return self.final
        since = max(0, step - self.begin) // self.every * self.every
        left = 1 - since / (self.end - self.begin)
        return self.final + (self.initial - self.final) * left**3


@dataclass(frozen=True)
class Steps:
    """A table: the sparsity of the last row whose step is reached.

    Example:
        >>> [Steps(((1, 0.5), (3, 0.8)))(t) for t in range(4)]
        [0.0, 0.5, 0.5, 0.8]
    """

    rows: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        for _, sparsity in self.rows:
            check_sparsity(sparsity, "sparsity of a row")
        if not self.rows or any(
            a[0] >= b[0] or a[1] > b[1] for a, b in zip(self.rows, self.rows[1:], strict=False)
        ):
            raise InvalidInput(
                f"Expected rows of rising steps and never falling sparsity, got {self.rows}; "
                f"sort them."
            )

    def __call__(self, step: int) -> float:
        """Sparsity wanted at ``step``."""
        return max((s for at, s in self.rows if step >= at), default=0.0)
