"""Other inputs than the example, on which two networks are compared as well."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from boxwood._internal.core.generators import in_use, own_random_numbers
from boxwood.errors import InvalidInput

MOST_EXAMPLES = 4
"""How many of the examples that a user gives are taken."""

Inputs = Callable[[], Any] | Iterable[Any]
"""A function that draws an example, or examples."""


def drawn(inputs: Inputs, seed: int) -> Iterator[Any]:
    """Take fresh examples from what a user gave: one of a function, the first few of others.

    Raises:
        InvalidInput: it is neither a function nor an iterable of examples.

    Example:
        >>> list(drawn([torch.ones(1), torch.zeros(1)], seed=0))
        [tensor([1.]), tensor([0.])]
    """
    if callable(inputs):
        with own_random_numbers(in_use(), seed=seed + 1):
            example = inputs()
        yield example
    elif isinstance(inputs, Tensor | Mapping | tuple | str) or not isinstance(inputs, Iterable):
        raise InvalidInput(
            f"Expected inputs= to be a function that returns an example, or a list of examples, "
            f"got {type(inputs).__name__}; write inputs=lambda: … or inputs=[…]."
        )
    else:
        yield from islice(inputs, MOST_EXAMPLES)


def varied(example: Any, seed: int) -> Iterator[tuple[str, Any]]:
    """Vary the floating-point inputs: noise of their shape, then themselves, scaled down.

    Whole numbers and truth values are left as they are: indices, lengths and masks mean something.
    Scaling each entry by 0.5 to 1 keeps signs, zeros, infinities and intervals around zero.

    Example:
        >>> [name for name, _ in varied((torch.ones(2), torch.arange(3)), seed=0)]
        ['random', 'scaled']
        >>> [name for name, _ in varied(torch.arange(3), seed=0)]
        []
    """

    def each(change: Callable[[Tensor, torch.Generator], Tensor]) -> Any:
        generator = torch.Generator().manual_seed(seed + 1)
        return tree_map(lambda x: change(x, generator) if _floats(x) else x, example)

    if any(_floats(x) for x in tree_leaves(example)):
        yield "random", each(lambda x, g: torch.randn(x.shape, generator=g, dtype=_drawn(x)).to(x))
        yield "scaled", each(lambda x, g: x * (1 - 0.5 * torch.rand(x.shape, generator=g)).to(x))


def is_flat(example: Any) -> bool:
    """Say whether some floating-point input is the same number everywhere.

    Example:
        >>> is_flat(torch.zeros(1, 3)), is_flat(torch.arange(3.0))
        (True, False)
    """
    floats = [x for x in tree_leaves(example) if _floats(x) and x.numel() > 1]
    return any(bool((x == x.reshape(-1)[0]).all()) for x in floats)


def _floats(each: Any) -> bool:
    dense = isinstance(each, Tensor) and each.layout is torch.strided
    return dense and (each.is_floating_point() or each.is_complex())


def _drawn(x: Tensor) -> torch.dtype:
    return torch.complex64 if x.is_complex() else torch.float32
