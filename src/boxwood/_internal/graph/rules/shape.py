"""Views, permutations and copies: data moves, and nothing about it changes."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from boxwood._internal.graph.layout import Layout, dropped, inserted, permuted
from boxwood._internal.graph.propagate import Flow, Rule
from boxwood._internal.graph.recording import Call, Ref
from boxwood._internal.graph.rules.indexing import opaque, out_shape


def _sizes(given: Any) -> tuple[Any, ...]:
    """Read sizes given one by one, or as one sequence."""
    if isinstance(given, tuple | list):
        return (
            _sizes(given[0])
            if len(given) == 1 and isinstance(given[0], tuple | list)
            else tuple(given)
        )
    return (given,)


def view(flow: Flow, call: Call) -> Layout:
    """Regroup axes; what the code wrote as sizes must be what they are after surgery."""
    x = flow.of(call.args["self"])
    if any(isinstance(each, torch.dtype) for each in _sizes(call.args.get("size", ()))):
        return opaque(flow, call, x)
    out = flow.regroup(x, out_shape(flow, call))
    sizes = _sizes(call.args.get("size", call.args.get("shape", ())))
    if "other" in call.args:
        sizes = _like(flow, call)
    if {"more", "shape", "other"} & set(call.args):  # as the user's code wrote it
        flow.expect_shape(call, sizes, out)
    return out


def _like(flow: Flow, call: Call) -> tuple[Any, ...]:
    """Read the sizes of the tensor that the code names instead of them."""
    flow.of(call.args["other"])
    return tuple(flow.sizes(call.args["other"]))


def derived_view(flow: Flow, call: Call) -> Layout:
    """Regroup axes in sizes that follow from the operand, as ``flatten`` does."""
    return flow.regroup(flow.of(call.args["self"]), out_shape(flow, call))


def _unflatten(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    out = flow.regroup(x, out_shape(flow, call))
    axis = call.args["dim"] % len(x.shape)
    sizes = [-1] * axis + list(_sizes(call.args["sizes"]))
    flow.expect_shape(call, sizes, out)
    return out


def _permute(flow: Flow, call: Call) -> Layout:
    return permuted(flow.of(call.args["self"]), call.args["dims"])


def _transpose(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    order = list(range(len(x.shape)))
    if call.name == "t":
        return permuted(x, order[::-1])
    first, second = call.args["dim0"], call.args["dim1"]
    order[first], order[second] = order[second], order[first]
    return permuted(x, order)


def _unsqueeze(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    return inserted(x, call.args["dim"] % (len(x.shape) + 1))


def _squeeze(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    given = call.args.get("dim")
    axes = range(len(x.shape)) if given is None else [given] if isinstance(given, int) else given
    for axis in sorted({axis % len(x.shape) for axis in axes} if x.shape else (), reverse=True):
        if x.shape[axis] == 1:
            x = dropped(flow.labels, x, axis)
    return x


def _expand(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    sizes = _like(flow, call) if "other" in call.args else _sizes(call.args.get("size", ()))
    shape = out_shape(flow, call)
    while len(x.shape) < len(shape):
        x = inserted(x, 0)
    written = "more" in call.args or "other" in call.args
    for axis, size in enumerate(shape):
        if x.shape[axis] == size:
            continue
        # Copies of one index: any number of them, if the code can ask for another number.
        x = (
            x.with_ids(axis, flow.labels.fresh(size))
            if written
            else replace(x, shape=(*x.shape[:axis], size, *x.shape[axis + 1 :]))
        )
    if written:
        flow.expect_shape(call, sizes, x)
    return x


def _broadcast(flow: Flow, call: Call) -> list[Layout]:
    """Expand each to the shape of all, as an operation on single elements does."""
    given = call.args["tensors"]
    given = given[0] if len(given) == 1 and isinstance(given[0], tuple) else given
    layouts = [flow.of(each) for each in given]
    out = flow.join(layouts)
    return [replace(out, zero=each.zero) for each in layouts]


def _repeat(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    times = _sizes(call.args.get("size", call.args.get("dims", call.args.get("repeats"))))
    while len(x.shape) < len(times):
        x = inserted(x, 0)
    times = (1,) * (len(x.shape) - len(times)) + times
    for axis, count in enumerate(times):
        flow.expect(call, count, None)
        if count == 1:
            continue
        x, ids = flow.axis(x, axis)
        if ids is not None:
            x = x.with_ids(axis, np.tile(ids, int(count)))
        else:
            x = replace(
                x, shape=(*x.shape[:axis], x.shape[axis] * int(count), *x.shape[axis + 1 :])
            )
    return x


def _repeat_interleave(flow: Flow, call: Call) -> Layout:
    x, dim = flow.of(call.args["self"]), call.args.get("dim")
    count = call.args["repeats"]
    if dim is None or isinstance(count, Ref):
        flow.kept_whole(x, range(len(x.shape)))
        return Layout(out_shape(flow, call))
    flow.expect(call, count, None)
    x, ids = flow.axis(x, dim)
    if ids is None:
        return replace(x, shape=out_shape(flow, call))
    return x.with_ids(dim, np.repeat(ids, int(count)))


def _filled(flow: Flow, call: Call) -> Layout:
    """A new tensor of one value: as many indices as the code asks for."""
    flow.of(call.args.get("self"))  # which only says what type to make
    sizes = _sizes(call.args["size"])
    if "names" in call.args.get("more", {}):
        return Layout(out_shape(flow, call))
    shape = out_shape(flow, call)
    value = call.args.get("fill_value", 0 if call.name.endswith("zeros") else 1)
    x = Layout(shape, zero=value == 0)
    for axis, size in enumerate(shape):
        if size > 1:
            x = x.with_ids(axis, flow.labels.fresh(size))
    flow.expect_shape(call, sizes, x)
    return x


def _view_as_complex(flow: Flow, call: Call) -> Layout:
    """Make numbers of pairs: a pair stays together."""
    x = flow.kept_whole(flow.of(call.args["self"]), [-1])
    return flow.without(x, [-1], keepdim=False)


def _view_as_real(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    return inserted(x, len(x.shape), size=2)


def _constant(flow: Flow, call: Call) -> None:
    """Positions, random integers and the like: nothing in them can go."""
    flow.of(call.args.get("self"))  # which only says what type to make


RULES: dict[str, Rule] = {
    "view": view,
    **dict.fromkeys(("unsafe_view", "reshape_alias", "flatten", "ravel"), derived_view),
    "unflatten": _unflatten,
    "permute": _permute,
    **dict.fromkeys(("transpose", "t", "swapaxes"), _transpose),
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "expand": _expand,
    "broadcast_tensors": _broadcast,
    "repeat": _repeat,
    "repeat_interleave": _repeat_interleave,
    "view_as_complex": _view_as_complex,
    "view_as_real": _view_as_real,
    **dict.fromkeys(("filled", "filled_zeros", "filled_full", "new", "new_zeros"), _filled),
    **dict.fromkeys(
        (
            "arange",
            "scalar_tensor",
            "randint",
            "linspace",
            "eye",
            "zeros",
            "ones",
            "full",
            "empty",
            "rand",
            "randn",
            "new_ones",
            "new_full",
            "new_empty",
            "empty_strided",
            "new_empty_strided",
            "randperm",
            "tril_indices",
            "triu_indices",
            "hann_window",
        ),
        _constant,
    ),
}
