"""Zeros in place of an operator's result, where only its shape and strides are needed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

_aten = torch.ops.aten

_POINTWISE = frozenset(
    (
        _aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor, _aten.neg.default,
        _aten.pow.Tensor_Scalar, _aten.rsqrt.default, _aten.silu.default, _aten.gelu.default,
        _aten.sigmoid.default, _aten.tanh.default,
    )
)  # fmt: skip


def zeros_of(func: Any, args: Any) -> Tensor | None:
    """Return float32 zeros that lie in memory as an operator's result would.

    Their memory is the system's page of zeros until something writes to it, so they cost nothing.

    Args:
        func: the operator.
        args: what it is called with.

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
    # Without gaps and with one operand of the result's shape, the result has no gaps either. Torch
    # would work out any other case without values, but imports all of torch.compile for that.
    tensors = [part for part in args if isinstance(part, Tensor)]
    if not all(each.dtype == torch.float32 and each.is_contiguous() for each in tensors):
        return None
    whole = max(tensors, key=lambda each: (each.ndim, each.numel())).shape
    return _zeros(whole) if all(_broadcasts(each.shape, whole) for each in tensors) else None


def _product(x: Tensor, weight: Tensor) -> Tensor | None:
    """Return zeros for a product with a matrix [out, in], which lies without gaps."""
    fits = x.ndim >= 2 and x.is_contiguous() and weight.ndim == 2 and x.shape[-1] == weight.shape[1]
    if not fits or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return None
    return _zeros((*x.shape[:-1], weight.shape[0]))


def _broadcasts(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    sizes = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(size in (1, full) for size, full in sizes)


def _zeros(shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.zeros(shape, np.float32))
