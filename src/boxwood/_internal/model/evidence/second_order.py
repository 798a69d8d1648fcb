"""Second derivatives by automatic differentiation: which operations have them, and what to do otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from boxwood.errors import InvalidInput


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Let attention run as products and a softmax, which have second derivatives.

    The fused kernels of ``scaled_dot_product_attention`` have first derivatives only. The forward
    pass must run in here.

    Example:
        >>> x = torch.ones(1, 1, 2, 2, requires_grad=True)
        >>> with twice_differentiable():
        ...     y = torch.nn.functional.scaled_dot_product_attention(x, x, x)
        >>> (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        >>> torch.autograd.grad(slope.square().sum(), x)[0].shape
        torch.Size([1, 1, 2, 2])
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def refusing_first_order() -> Iterator[None]:
    """Refuse operations without second derivatives, naming what torch names.

    Raises:
        InvalidInput: torch cannot differentiate what is differentiated in here.

    Example:
        >>> with refusing_first_order():
        ...     raise RuntimeError("derivative for aten::_fused_backward is not implemented")
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected operations with second derivatives, got one that torch refuses: derivative for aten::_fused_backward is not implemented; use a criterion of first derivatives, such as fisher or taylor, or replace that operation in the network or the loss.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        said = str(error).strip().partition("\n")[0].rstrip(".")
        raise InvalidInput(
            f"Expected operations with second derivatives, got one that torch refuses: {said}; "
            f"use a criterion of first derivatives, such as fisher or taylor, or replace that "
            f"operation in the network or the loss."
        ) from error
