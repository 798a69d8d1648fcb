"""One small function per family of operations: each moves labels as the operation moves data."""

from boxwood._internal.graph.propagate import Rule
from boxwood._internal.graph.rules import (
    attention,
    einsum,
    indexing,
    joining,
    linear,
    mixing,
    norm,
    pointwise,
    quantising,
    recurrent,
    reduce,
    scattering,
    shape,
    spatial,
)

RULES: dict[str, Rule] = {
    **pointwise.RULES,
    **shape.RULES,
    **joining.RULES,
    **indexing.RULES,
    **scattering.RULES,
    **mixing.RULES,
    **reduce.RULES,
    **spatial.RULES,
    **linear.RULES,
    **einsum.RULES,
    **norm.RULES,
    **quantising.RULES,
    **attention.RULES,
    **recurrent.RULES,
}
"""Name of an operation to its rule."""

CARRYING = {
    *pointwise.RULES,
    *shape.RULES,
    *joining.RULES,
    "getitem",
    "setitem",
    "slice",
    "select",
    "narrow",
}
"""Operations that move single elements and join them, and leave open whether they count."""
