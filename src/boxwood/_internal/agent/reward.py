"""The reward of a try: how much accuracy it keeps, times how much it saves."""

import math

from boxwood.errors import InvalidInput


def accuracy_term(drop: float, bound: float) -> float:
    """Say how far a drop of accuracy stays within the bound: ``ψ = (b - (p* - p̂)) / b``.

    It is 1 where nothing is lost, 0 at the bound, and negative without limit beyond it.

    Args:
        drop: ``p* - p̂`` in percentage points; negative where the smaller network is better.
        bound: b > 0, in percentage points.

    Raises:
        InvalidInput: the bound is not positive.

    Example:
        >>> accuracy_term(0.0, 2.0), accuracy_term(2.0, 2.0), accuracy_term(6.0, 2.0)
        (1.0, 0.0, -2.0)

    Source: Huang, Zhou, You and Neumann (2018), the accuracy term of their reward.
    """
    if not bound > 0:
        raise InvalidInput(
            f"Expected a drop bound above 0 percentage points, got {bound}; 0.5 keeps nearly "
            f"the same accuracy, 4 gives a small network."
        )
    return (bound - drop) / bound


def efficiency_term(filters: int, kept: int) -> float:
    """Say how much a try saves: ``φ = log(N / C(A))``, in nats.

    Args:
        filters: N, all filters of the layer.
        kept: C(A), those that the try keeps, in [1, N].

    Example:
        >>> efficiency_term(8, 8), round(efficiency_term(8, 4), 4)
        (0.0, 0.6931)

    Source: Huang, Zhou, You and Neumann (2018), the efficiency term of their reward.
    """
    return math.log(filters / kept)


def reward(drop: float, bound: float, filters: int, kept: int) -> float:
    """Multiply the two terms: ``R = ψ · φ``.

    Keeping every filter has the reward 0. Within the bound, removing more gives a higher reward.
    Beyond it ψ is negative, and removing more gives a lower one.

    Example:
        >>> reward(0.0, 2.0, 8, 8), round(reward(1.0, 2.0, 8, 4), 4), round(reward(4.0, 2.0, 8, 4), 4)
        (0.0, 0.3466, -0.6931)

    Source: Huang, Zhou, You and Neumann (2018).
    """
    return accuracy_term(drop, bound) * efficiency_term(filters, kept)
