"""Weights by which code divides: at zero they would make the masked network return no numbers."""

from collections.abc import Iterator

from boxwood._internal.graph.propagate import Flow
from boxwood._internal.graph.recording import Call, Ref, refs
from boxwood._internal.graph.rules import quantising

_DIVIDES = {
    **dict.fromkeys(("div", "floor_divide", "remainder", "fmod"), "other"),
    **dict.fromkeys(("reciprocal", "rsqrt", "log", "log2", "log10", "digamma", "lgamma"), "self"),
    "addcdiv": "tensor2",
    **dict.fromkeys(quantising.RULES, "scale"),
}
_PRODUCTS = {"linear": 0, "conv": 0, "conv_transpose": 1}  # the axis of the weight that it returns
_ENDS = {
    "matmul",
    "einsum",
    "bmm",
    "baddbmm",
    "layer_norm",
    "rms_norm",
    "group_norm",
    "lstm",
    "gru",
}


def divided_by(flow: Flow) -> frozenset[tuple[str, int]]:
    """Find the parameters that divisors are computed from, each with the axis of its channels.

    A channel is as well removed if these are left as they are: what reads it is at zero.

    Example:
        >>> import torch
        >>> from boxwood import find_units
        >>> class Scaled(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)
        ...         self.steps = torch.nn.Parameter(torch.ones(3))
        ...     def forward(self, x):
        ...         return self.b(self.a(x) / self.steps.abs())
        >>> divided_by(find_units(Scaled(), torch.ones(1, 2)).flow)
        frozenset({('steps', 0)})
    """
    trace = flow.trace
    made = {ref.value: call for call in trace.calls for ref in refs((call.outputs,))}
    found: set[tuple[str, int]] = set()
    seen: set[tuple[int, int | None]] = set()
    # The axis is None for all that a tensor has.
    waiting: list[tuple[int, int | None]] = [
        (ref.value, None) for call in trace.calls for ref in _divisors(call)
    ]
    while waiting:
        value, axis = place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        if value in trace.named:
            rank = len(trace.shapes[value])
            axes = range(rank) if axis is None else range(axis, min(axis + 1, rank))
            found |= {(trace.named[value][0], each) for each in axes}
        elif value in made:
            waiting += _read(made[value], axis)
    return frozenset(found)


def _divisors(call: Call) -> list[Ref]:
    if call.name == "pow":
        exponent = call.args.get("exponent")
        negative = isinstance(exponent, int | float) and exponent < 0
        return refs((call.args.get("self"),)) if negative else []
    return refs((call.args.get(_DIVIDES.get(call.name, "")),))


def _read(call: Call, axis: int | None) -> Iterator[tuple[int, int | None]]:
    """Yield what a divisor is computed from, up to the weights that make its channels."""
    if call.name in _PRODUCTS:
        for key, each in (("weight", _PRODUCTS[call.name]), ("bias", 0)):
            yield from ((ref.value, each) for ref in refs((call.args.get(key),)))
    elif call.name not in _ENDS:
        yield from ((ref.value, axis) for ref in refs(tuple(call.args.values())))
