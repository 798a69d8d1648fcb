"""Settings chosen from a grid, and the warning that the best one lies on the edge of it."""

import warnings
from collections.abc import Mapping

from boxwood._internal.report.study import Finding
from boxwood.errors import EdgeOfGrid, InvalidInput


def edge(scores: Mapping[float, float]) -> str:
    """Say at which end of its grid the best value lies: ``"low"``, ``"high"``, or ``""`` for inside.

    Beyond that end nobody has looked. Zero ends a grid for good where less makes no sense, such as
    no penalty at all.

    Args:
        scores: value to its score on validation, more is better.

    Example:
        >>> edge({1e-5: 0.88, 3e-5: 0.90, 1e-4: 0.89}), edge({1e-4: 0.88, 5e-4: 0.89, 1e-3: 0.90})
        ('', 'high')
    """
    best = _best(scores)
    if best == max(scores):
        return "high"
    return "low" if best == min(scores) and best != 0 else ""


def choose(setting: str, scores: Mapping[float, float]) -> float:
    """Choose the value with the best score, and the smallest if several are equal.

    Args:
        setting: what it is, such as ``"L2 at 8 %"``.
        scores: value to its score on validation, more is better.

    Raises:
        InvalidInput: there is none.

    Warns:
        EdgeOfGrid: the best value is the lowest or highest.

    Example:
        >>> choose("L1", {1e-5: 0.88, 3e-5: 0.90, 1e-4: 0.89})
        3e-05
    """
    best = _best(scores)
    if end := edge(scores):
        tried = ", ".join(f"{value:g}" for value in sorted(scores))
        warnings.warn(
            f"Expected the best {setting} inside of its grid, got the {end}est, {best:g} of {tried}; "
            f"try {'higher' if end == 'high' else 'lower'} values.",
            EdgeOfGrid,
            stacklevel=2,
        )
    return best


def inside(setting: str, scores: Mapping[float, float]) -> Finding:
    """Make of a choice what a tuner reports: the best value, and whether its grid went beyond it.

    Example:
        >>> inside("L2 at 8 %", {1e-4: 0.88, 5e-4: 0.89, 1e-3: 0.90}).evidence
        '0.001 of 0.0001, 0.0005, 0.001, by validation 0.9'
    """
    best = _best(scores)
    tried = ", ".join(f"{value:g}" for value in sorted(scores))
    return Finding(
        f"{setting}: the best is inside of its grid",
        not edge(scores),
        f"{best:g} of {tried}, by validation {scores[best]:.4g}",
    )


def _best(scores: Mapping[float, float]) -> float:
    if not scores:
        raise InvalidInput("Expected values to choose from, got none; give at least one.")
    return min(scores, key=lambda value: (-scores[value], value))
