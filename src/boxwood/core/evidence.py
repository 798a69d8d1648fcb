"""What a criterion asks for, which its signature says."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from boxwood.core.arguments import check_function
from boxwood.core.spec import Call


def evidence_of(criterion: Callable[..., Tensor]) -> tuple[str, ...]:
    """Read off what a criterion needs: the names of its positional parameters.

    Example:
        >>> from boxwood.core.criteria import random
        >>> evidence_of(Call.of(random, seed=3))
        ('weight', 'name')
    """
    check_function(criterion, "a criterion", "boxwood.core.criteria")
    function = criterion.function if isinstance(criterion, Call) else criterion
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return tuple(each.name for each in parameters if each.kind in positional)


def draws(criterion: Callable[..., Any]) -> bool:
    """Say whether a criterion scores by chance, from a setting ``seed`` that nobody has given yet.

    Example:
        >>> from boxwood.core.criteria import magnitude, random
        >>> draws(random), draws(Call.of(random, seed=3)), draws(magnitude)
        (True, False, False)
    """
    function, settings = _opened(criterion)
    seed = inspect.signature(function).parameters.get("seed")
    return seed is not None and seed.kind is seed.KEYWORD_ONLY and "seed" not in settings


def seeded(criterion: Callable[..., Any], seed: int) -> Callable[..., Any]:
    """Give a criterion that scores by chance its seed; any other one is returned as it is.

    Example:
        >>> from boxwood.core.criteria import random
        >>> seeded(random, 5) == Call.of(random, seed=5)
        True
    """
    function, settings = _opened(criterion)
    return Call.of(function, **settings, seed=seed) if draws(criterion) else criterion


def _opened(criterion: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    if isinstance(criterion, Call):
        return criterion.function, dict(criterion.settings)
    return criterion, {}
