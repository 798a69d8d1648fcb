"""Weights that a network's own code computes from its parameters, such as ``weight * mask``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.graph.examples import called, moved_to
from boxwood._internal.graph.rebuild import rebuilt
from boxwood._internal.graph.recording import Ref, Trace, refs
from boxwood._internal.graph.rules.shape import RULES as SHAPES
from boxwood._internal.graph.traced_functions import WHOLE, bind

_PRODUCTS = {"linear", "conv", "conv_transpose"}
_SAME = {*SHAPES, "alias", "clone", "contiguous", "detach", "to", "to_copy"}
"""Operations after which a weight holds the same numbers."""


@dataclass(frozen=True)
class Computed:
    """A weight or bias that is computed from parameters and constants alone.

    Args:
        value: its number in the trace.
        place: of the product that reads it, among all products with weights.
        argument: of that product, ``weight`` or ``bias``.
        parts: the parameters and buffers that it is computed from.
    """

    value: int
    place: int
    argument: str
    parts: frozenset[int]


def computed(trace: Trace) -> tuple[Computed, ...]:
    """List the weights of linear layers and convolutions that code computes.

    Example:
        >>> from boxwood._internal.graph.trace import trace as traced
        >>> class Masked(nn.Linear):
        ...     def forward(self, x):
        ...         return nn.functional.linear(x, self.weight.abs(), self.bias)
        >>> [each.argument for each in computed(traced(Masked(2, 1), torch.ones(1, 2)))]
        ['weight']
    """
    parts: dict[int, frozenset[int]] = {value: frozenset([value]) for value in trace.named}
    other: set[int] = set()  # numbers differ from those of the parts
    made: set[int] = {ref.value for call in trace.calls for ref in refs(call.outputs)}
    found: dict[int, Computed] = {}
    place = 0
    for call in trace.calls[: trace.evaluated]:
        given = [ref.value for ref in refs(tuple(call.args.values()))]
        for value in given:
            if value not in made and value not in trace.inputs:
                parts.setdefault(value, frozenset())  # a constant
        if call.name in _PRODUCTS:
            for argument in ("weight", "bias"):
                ref = call.args.get(argument)
                if isinstance(ref, Ref) and ref.value in other and parts[ref.value]:
                    one = Computed(ref.value, place, argument, parts[ref.value])
                    found.setdefault(ref.value, one)
            place += 1
        if all(value in parts for value in given):
            both = frozenset[int]().union(*(parts[value] for value in given))
            for ref in refs(call.outputs):
                parts.setdefault(ref.value, both)
                if call.name not in _SAME or not other.isdisjoint(given):
                    other.add(ref.value)
    return tuple(found.values())


def numbers_of(model: nn.Module, example: Any, wanted: Iterable[Computed]) -> dict[int, Tensor]:
    """Run a network in evaluation and take the weights that its code computes.

    Returns:
        By their number in the trace; nothing if this run does not take the way that was traced.

    Example:
        >>> class Masked(nn.Linear):
        ...     def forward(self, x):
        ...         return nn.functional.linear(x, self.weight.abs(), self.bias)
        >>> found = numbers_of(Masked(2, 1), torch.ones(1, 2), [Computed(3, 0, "weight", {1})])
        >>> bool((found[3] >= 0).all())
        True
    """
    watched = {(each.place, each.argument): each.value for each in wanted}
    if not watched:
        return {}
    twin = rebuilt(model, lambda _, tensor: tensor.clone(), isolated=True).eval()
    seen = _Seen(watched)
    with torch.no_grad(), own_random_numbers(devices_of(twin.parameters())), seen:
        called(twin, moved_to(twin, example))
    return seen.found if len(seen.found) == len(watched) else {}


class _Seen(TorchFunctionMode):
    """Counts products with weights as the trace does, and takes what some of them read."""

    def __init__(self, watched: Mapping[tuple[int, str], int]) -> None:
        super().__init__()
        self._watched = watched
        self._place = 0
        self.found: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, signature = WHOLE.get(func, ("", None))
        if name in _PRODUCTS and signature is not None:
            bound = bind(signature, args, kwargs)
            for argument in ("weight", "bias"):
                value = self._watched.get((self._place, argument))
                if value is not None:
                    self.found[value] = bound[argument].detach().clone()
            self._place += 1
        return func(*args, **kwargs)
