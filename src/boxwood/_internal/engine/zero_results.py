"""Zeros in place of an operator's result, where only its shape and strides are needed."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_aten = torch.ops.aten

_POINTWISE = frozenset(
    (
        _aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor, _aten.neg.default,
        _aten.pow.Tensor_Scalar, _aten.rsqrt.default, _aten.mean.dim, _aten.cat.default,
        _aten.silu.default, _aten.gelu.default, _aten.sigmoid.default, _aten.tanh.default,
    )
)  # fmt: skip
"""Operators whose shapes torch works out by one function for all devices, that without values too."""


def zeros_of(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """Return float32 zeros that lie in memory as an operator's result would.

    Their memory is the system's page of zeros until something writes to it, so they cost nothing.

    Args:
        func: the operator.
        args: what it is called with.
        kwargs: what it is called with by name.

    Returns:
        None where the operator has to say itself how its result lies.
    """
    if torch.is_autocast_enabled("cpu"):
        return None
    if func is _aten.linear.default:
        return _product(args[0], args[1])
    if func is _aten.addmm.default:
        return _product(args[1], args[2].t())
    if func is _aten.mm.default:
        return _product(args[0], args[1].t())
    if func not in _POINTWISE:
        return None
    given = [leaf for part in args for leaf in (part if isinstance(part, list) else [part])]
    tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
    if not all(tensor.dtype == torch.float32 for tensor in tensors):
        return None
    made = func(*map(_without_values, args), **kwargs)
    return _zeros(tuple(made.shape), made.stride()) if made.dtype == torch.float32 else None


def _product(x: Tensor, weight: Tensor) -> Tensor | None:
    """Return zeros for a product with a matrix [out, in], which lies without gaps."""
    fits = x.ndim >= 2 and x.is_contiguous() and weight.ndim == 2 and x.shape[-1] == weight.shape[1]
    if not fits or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return None
    shape = (*x.shape[:-1], weight.shape[0])
    return _zeros(shape, torch.empty(shape, device="meta").stride())


def _without_values(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return torch.empty_strided(
            argument.shape, argument.stride(), dtype=argument.dtype, device="meta"
        )
    return list(map(_without_values, argument)) if isinstance(argument, list) else argument


def _zeros(shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor | None:
    count = math.prod(shape)
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if not count or last != count - 1:  # with gaps or overlaps
        return None
    return torch.from_numpy(np.zeros(count, np.float32)).as_strided(shape, strides)
