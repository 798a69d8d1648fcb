"""How far apart the results of two networks are, and how far rounding may take them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from boxwood.errors import InvalidInput

SMALLEST = 1e-6
"""Outputs whose largest entry is below this are compared as if it were this."""

_OUTPUTS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_GRADIENTS = {torch.float64: 1e-9, torch.float32: 1e-3}


def tolerance(dtype: torch.dtype) -> float:
    """Say how far apart outputs computed in a type may be, over the largest entry.

    Over the networks of ``tests/graph`` and 60 of ``benchmarks/structure.py``, with 60 % of their
    units, rounding alone takes the smaller and the masked network apart by at most

    ========  =======  =======  =========  =======
    type      outputs  allowed  gradients  allowed
    ========  =======  =======  =========  =======
    float64   4e-15    1e-9     2e-13      1e-9
    float32   1e-5     1e-4     1e-4       1e-3
    float16   9e-4     1e-2     0.3        never
    bfloat16  8e-3     5e-2     0.4        never
    ========  =======  =======  =========  =======

    Example:
        >>> tolerance(torch.float32)
        0.0001
    """
    return _OUTPUTS.get(dtype, 0.05)


def gradient_tolerance(dtype: torch.dtype) -> float:
    """Say how far apart gradients computed in a type may be, over the largest entry; 0 for none.

    In half precision the rounding of gradients is as large as a mistake may be, so they are compared
    in double or single precision, or not at all. In single precision rounding may tip a maximum or
    a ReLU, which was seen in 2 of 130 networks and changes gradients by more than is allowed; then
    finite differences decide.

    Example:
        >>> gradient_tolerance(torch.float64), gradient_tolerance(torch.bfloat16)
        (1e-09, 0.0)
    """
    return _GRADIENTS.get(dtype, 0.0)


def is_coarser(one: torch.dtype, other: torch.dtype) -> bool:
    """Say whether a type of floats rounds more than another.

    Example:
        >>> is_coarser(torch.bfloat16, torch.float16), is_coarser(torch.float64, torch.float64)
        (True, False)
    """
    return torch.finfo(one).eps > torch.finfo(other).eps


def name_of(dtype: torch.dtype) -> str:
    """Write a type without the name of torch.

    Example:
        >>> name_of(torch.float64)
        'float64'
    """
    return str(dtype).removeprefix("torch.")


def distance(expected: Sequence[Tensor], got: Sequence[Tensor]) -> tuple[float, float]:
    """Find the output that differs most for its size: its largest difference, and its largest entry.

    Entries that are infinite or no number count as equal where both have the same; whole numbers
    and truth values must be the same. What differs otherwise differs infinitely.

    Raises:
        InvalidInput: one of those expected has no finite entry.

    Example:
        >>> distance([torch.tensor([1.0, -4.0])], [torch.tensor([1.5, -4.0])])
        (0.5, 4.0)
    """
    if [t.shape for t in expected] != [t.shape for t in got]:
        return math.inf, 1.0
    pairs = [_apart(one, other) for one, other in zip(expected, got, strict=True) if one.numel()]
    return max(
        pairs, key=lambda pair: (pair[0] / max(pair[1], SMALLEST), pair[1]), default=(0.0, 0.0)
    )


def _apart(expected: Tensor, got: Tensor) -> tuple[float, float]:
    if not is_numbers(expected):
        return (0.0 if torch.equal(expected, got.to(expected.dtype)) else math.inf), 0.0
    finite = expected.isfinite()
    if not finite.any():
        raise InvalidInput(
            f"Expected finite outputs to compare, got one of shape {tuple(expected.shape)} without "
            "any finite entry; give an example on which all are finite."
        )
    scale = float(expected[finite].abs().max())
    same = (expected == got) | (expected.isnan() & got.isnan())
    difference = float((expected - got).abs().masked_fill(same, 0).max())
    return (math.inf if math.isnan(difference) else difference), scale


def precision(outputs: Sequence[Tensor], dtype: torch.dtype | None) -> torch.dtype:
    """Return the coarsest type of the outputs, which is what their difference can show.

    Example:
        >>> precision([torch.ones(1), torch.ones(1, dtype=torch.float64)], None)
        torch.float32
    """
    kinds = [t.dtype.to_real() for t in outputs if is_numbers(t)]
    return min(kinds, key=lambda kind: -torch.finfo(kind).eps, default=dtype or torch.float32)


def is_numbers(tensor: Tensor) -> bool:
    """Say whether a tensor holds floats or complex numbers.

    Example:
        >>> is_numbers(torch.ones(1)), is_numbers(torch.arange(1))
        (True, False)
    """
    return tensor.is_floating_point() or tensor.is_complex()
