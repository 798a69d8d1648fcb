"""The evidence that a criterion needs, read from its signature."""

import inspect
from collections.abc import Callable

from torch import Tensor

from boxwood._internal.core.arguments import check_function
from boxwood._internal.core.call import Call


def evidence_of(criterion: Callable[..., Tensor]) -> tuple[str, ...]:
    """Read off what a criterion needs: the names of its positional parameters.

    Example:
        >>> from boxwood.criteria import random
        >>> evidence_of(Call.of(random, seed=3))
        ('weight', 'name')
    """
    check_function(criterion, "a criterion", "boxwood.criteria")
    function = criterion.function if isinstance(criterion, Call) else criterion
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return tuple(each.name for each in parameters if each.kind in positional)
