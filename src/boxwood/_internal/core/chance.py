"""Randomness in criteria and policies: it follows from the seed of a run, unless it has its own seed."""

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar, cast

from boxwood._internal.core.call import Call
from boxwood._internal.core.seeds import seed_for

Frozen = TypeVar("Frozen")


def draws(criterion: Callable[..., Any]) -> bool:
    """Say whether a criterion scores by chance, from a setting ``seed`` that nobody has given yet.

    Example:
        >>> from boxwood.criteria import magnitude, random
        >>> draws(random), draws(Call.of(random, seed=3)), draws(magnitude)
        (True, False, False)
    """
    function, settings = _opened(criterion)
    seed = inspect.signature(function).parameters.get("seed")
    return seed is not None and seed.kind is seed.KEYWORD_ONLY and "seed" not in settings


def seeded(criterion: Callable[..., Any], seed: int) -> Callable[..., Any]:
    """Give a criterion that scores by chance its seed; any other one is returned as it is.

    Example:
        >>> from boxwood.criteria import random
        >>> seeded(random, 5) == Call.of(random, seed=5)
        True
    """
    function, settings = _opened(criterion)
    return Call.of(function, **settings, seed=seed) if draws(criterion) else criterion


def _opened(criterion: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    if isinstance(criterion, Call):
        return criterion.function, dict(criterion.settings)
    return criterion, {}


def seeded_policy(policy: Frozen, root: int) -> Frozen:
    """Give a policy whose ``seed`` is None one that follows from the seed of the run.

    A criterion that scores by chance gets one too, as in `Prune`.

    Example:
        >>> from boxwood.policies import Static
        >>> seeded_policy(Static(0.5), 0).seed is None, seeded_policy(Static(0.5, seed=3), 0).seed
        (False, 3)
    """
    own: Any = policy
    given: dict[str, Any] = {}
    if getattr(own, "seed", 0) is None:
        given["seed"] = seed_for(root, "policy")
    if draws_at_updates(policy):
        given["criterion"] = seeded(own.criterion, seed_for(root, "criterion"))
    if not (given and is_dataclass(own)):
        return policy
    return cast("Frozen", replace(own, **given))  # type: ignore[type-var]


def draws_at_updates(policy: object) -> bool:
    """Say whether a policy's criterion scores by chance, from a seed that nobody has given yet.

    Example:
        >>> from boxwood.criteria import random
        >>> from boxwood.policies import Gradual
        >>> from boxwood.schedules import Cubic
        >>> draws_at_updates(Gradual(Cubic(final=0.5, end=100), criterion=random))
        True
    """
    criterion = getattr(policy, "criterion", None)
    return callable(criterion) and draws(criterion)
