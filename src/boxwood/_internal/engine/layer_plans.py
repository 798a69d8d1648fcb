"""What an accelerated layer runs instead of its dense product, and whether that is still valid."""

import itertools
import warnings
import weakref
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from boxwood._internal.engine.product_choice import Product, Way

_numbers = itertools.count(1)


def next_number() -> int:
    """Return a number that no plan has."""
    return next(_numbers)


class Holding:
    """Tensors that something was made from, and whether they are still as they were.

    A write in place counts up a tensor's version; another tensor lies elsewhere. What is written
    through ``tensor.data`` is not seen.

    Args:
        weight: the one.
        bias: the other, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        second = weight if bias is None else bias
        # Kept, so that no other tensor comes to lie at their addresses.
        self._memory = weight.untyped_storage(), second.untyped_storage()
        self._known = _state(weight), _state(second)
        self._warned = False

    def holds(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Say whether these are the tensors, unchanged; warn once if they are not."""
        if (_state(weight), _state(weight if bias is None else bias)) == self._known:
            return True
        if not self._warned:
            self._warned = True
            warnings.warn(
                "Expected the weights that accelerate_ has packed, got others (changed, moved or "
                "replaced); the layer runs in torch: call boxwood.accelerate_ again.",
                RuntimeWarning,
                stacklevel=2,
            )
        return False


def _state(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor._version


class LinearPlan:
    """A linear layer's ways to run, by number of positions.

    Args:
        weight: [outputs, inputs], on the CPU.
        bias: [outputs], or None.
        ways: for 0, 1, 2, … positions; the last one for all larger numbers.
        products: of contiguous float32 inputs, for each way but torch's that occurs.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        ways: tuple[Way, ...],
        products: dict[Way, Product],
    ) -> None:
        self.number = next_number()
        self._ways, self._last, self._products = ways, len(ways) - 1, products
        self._holding = Holding(weight, bias)
        self._dtype, self._inputs = weight.dtype, weight.shape[1]
        plans[self.number] = self

    def for_copy(self, weight: Tensor, bias: Tensor | None) -> "LinearPlan":
        """Return the plan of a layer with equal weights; packed ones are shared."""
        return LinearPlan(weight, bias, self._ways, self._products)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what ``F.linear`` returns, up to rounding."""
        if self._holding.holds(weight, bias):
            inputs = self._inputs
            if x.shape[-1] == inputs and x.dtype == self._dtype:
                positions = x.numel() // inputs
                way = self._ways[positions if positions < self._last else self._last]
                if way is not Way.DENSE:
                    return self._product(self._products[way], x)
        return F.linear(x, weight, bias)

    def _product(self, product: Product, x: Tensor) -> Tensor:
        x = x.contiguous()
        if x.is_neg():  # a sign that is kept apart from the values
            x = x.resolve_neg()
        if self._dtype == torch.float32:
            return product(x)
        return product(x.float()).to(self._dtype)


plans: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""Plans by number, as operators name them."""
