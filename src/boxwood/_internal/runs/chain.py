"""The chain of keys: each phase is identified by what it is and by everything before it."""

from boxwood._internal.core.digests import digest
from boxwood._internal.core.spec import encode
from boxwood._internal.recipes.phase import Genesis, Recipe


def keys(genesis: Genesis, recipe: Recipe) -> tuple[str, ...]:
    """Name the start and every phase: ``key_i = H(key_{i-1}, phase_i)``.

    Labels do not count. Two recipes that begin alike have the same first keys.

    Returns:
        One key more than there are phases; the first is that of the start.

    Example:
        >>> from boxwood.data import digits
        >>> from boxwood.phases import Prune
        >>> from boxwood.networks import lenet_5
        >>> start = Genesis(model=lenet_5, data=digits)
        >>> short = keys(start, (Prune(sparsity=0.5),))
        >>> keys(start, (Prune(sparsity=0.5), Prune(sparsity=0.8)))[:2] == short
        True
    """
    chain = [digest(encode(genesis, identity=True))]
    for phase in recipe:
        chain.append(digest(chain[-1], encode(phase, identity=True)))
    return tuple(chain)
