"""Indices, slices and what is written through them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from boxwood._internal.graph.layout import Layout, dropped, inserted, selected
from boxwood._internal.graph.propagate import Flow, Rule
from boxwood._internal.graph.recording import Call, Ref


def out_shape(flow: Flow, call: Call) -> tuple[int, ...]:
    """Return the shape of what a call gave, where that is one tensor."""
    return flow.shape(call.outputs)


def _select(flow: Flow, call: Call) -> Layout:
    x, dim, index = flow.of(call.args["self"]), call.args["dim"], call.args["index"]
    return take_one(flow, x, dim, index)


def take_one(flow: Flow, x: Layout, dim: int, index: int) -> Layout:
    """Choose one index; the code names it by number, so the axis stays as it is."""
    block = x.block(dim % len(x.shape))
    if block is not None and len(block.axes) == 1:
        x = flow.kept_whole(x, [dim])
    return selected(flow.labels, x, dim, int(index))


def _slice(flow: Flow, call: Call) -> Layout:
    """A slice whose bounds no code wrote; they are taken to be fixed."""
    start, end, step = call.args["start"], call.args["end"], call.args["step"]
    return take_range(flow, call, flow.of(call.args["self"]), call.args["dim"], start, end, step)


def take_range(
    flow: Flow, call: Call, x: Layout, dim: int, start: Any, end: Any, step: Any
) -> Layout:
    """Choose a range; its bounds must count what is kept before them."""
    axis = dim % len(x.shape)
    size = x.shape[axis]
    whole = range(size)[
        slice(*(None if each is None else int(each) for each in (start, end, step)))
    ]
    for bound in (start, end):
        flow.bound(x, axis, bound)
    if len(whole) == size and (step is None or int(step) == 1):
        return x
    x, ids = flow.axis(x, axis)
    if ids is None:
        for bound in (start, end):
            if bound is not None and 0 <= bound <= size:
                flow.expect(call, bound, None)
        return replace(x, shape=(*x.shape[:axis], len(whole), *x.shape[axis + 1 :]))
    if whole.step != 1:
        flow.labels.freeze(ids)
    for bound in (start, end):
        if bound is None or int(bound) >= size or int(bound) == 0:
            continue
        if int(bound) > 0:
            flow.expect(call, bound, ids[: int(bound)])
        elif -int(bound) < size:
            flow.expect(call, bound, ids[int(bound) :], scale=-1)
    taken = (
        ids[slice(whole.start, whole.start + len(whole))] if whole.step == 1 else ids[list(whole)]
    )
    return x.with_ids(axis, taken)


def _narrow(flow: Flow, call: Call) -> Layout:
    x, dim = flow.of(call.args["self"]), call.args["dim"]
    start, length = call.args["start"], call.args["length"]
    for bound in (start, length):
        flow.bound(x, dim, bound)
    x, ids = flow.axis(x, dim)
    axis = dim % len(x.shape)
    if ids is None or isinstance(start, Ref):
        x = flow.kept_whole(x, [dim])
        return replace(x, shape=out_shape(flow, call))
    flow.expect(call, start, ids[: int(start)])
    taken = ids[int(start) : int(start) + int(length)]
    flow.expect(call, length, taken)
    return x.with_ids(axis, taken)


def _getitem(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    found = indexed(flow, call, x, call.args["index"])
    return opaque(flow, call, x) if found is None else found[0]


def indexed(
    flow: Flow, call: Call, x: Layout, index: Any, *, written: bool = False
) -> tuple[Layout, Sequence[int]] | None:
    """Basic and advanced indexing, item by item.

    Returns:
        What is chosen, and those of its axes that tensors chose; None where no rule says.
    """
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(each, list | tuple) for each in items):
        return None
    used = sum(consumed(flow, each) for each in items)
    if Ellipsis in [each for each in items if not isinstance(each, Ref)]:
        place = next(i for i, each in enumerate(items) if each is Ellipsis)
        items[place : place + 1] = [slice(None)] * (len(x.shape) - used)
    axis = 0
    advanced: list[tuple[int, Ref]] = []
    for each in items:
        if each is None:
            x = inserted(x, axis)
            axis += 1
        elif isinstance(each, bool):
            return None
        elif isinstance(each, slice):
            if any(isinstance(part, Ref) for part in (each.start, each.stop, each.step)):
                return None
            x = take_range(flow, call, x, axis, each.start, each.stop, each.step)
            axis += 1
        elif isinstance(each, Ref):
            if len(flow.shape(each)) == 0 and not advanced:
                x = flow.kept_whole(x, [axis])
            advanced.append((axis, each))
            axis += max(1, consumed(flow, each))
        elif isinstance(each, int):
            if each is not None:
                flow.expect(call, each if each >= 0 else None, None)
            x = take_one(flow, x, axis, int(each))
        else:
            return None
    return gathered(flow, x, advanced, None if written else call) if advanced else (x, ())


def consumed(flow: Flow, item: Any) -> int:
    """How many axes an item of an index takes."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    if isinstance(item, Ref) and not flow.trace.integral[item.value]:
        return len(flow.shape(item))  # a mask
    return 1


def gathered(
    flow: Flow, x: Layout, advanced: Sequence[tuple[int, Ref]], call: Call | None
) -> tuple[Layout, Sequence[int]]:
    """Index by tensors: their axes stay whole, the others keep their labels.

    ``call`` is the one that reads; where something is written there is none.
    """
    axes = [axis + more for axis, ref in advanced for more in range(max(1, consumed(flow, ref)))]
    for _, ref in advanced:
        given = flow.of(ref)
        flow.kept_whole(given, range(len(given.shape)))
    x = flow.kept_whole(x, axes)
    at = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    if call is None:
        # Of a mask nobody knows how many places it chooses.
        shapes = [
            flow.shape(ref) if flow.trace.integral[ref.value] else (1,) for _, ref in advanced
        ]
        new = tuple(np.broadcast_shapes(*shapes))
    else:
        shape = out_shape(flow, call)
        new = shape[at : at + len(shape) - (len(x.shape) - len(axes))]
    for axis in sorted(axes, reverse=True):
        x = dropped(flow.labels, x, axis)
    for place, size in enumerate(new):
        x = inserted(x, at + place, size)
    return x, range(at, at + len(new))


def opaque(flow: Flow, call: Call, x: Layout) -> Layout:
    """Keep everything whole: what comes out has no labels."""
    flow.kept_whole(x, range(len(x.shape)))
    return Layout(out_shape(flow, call))


def _index(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    advanced, axis = [], 0
    for each in call.args["indices"]:
        if isinstance(each, Ref):
            advanced.append((axis, each))
            axis += max(1, consumed(flow, each))
        else:
            axis += 1
    return gathered(flow, x, advanced, call)[0]


def _index_select(flow: Flow, call: Call) -> Layout:
    x = flow.kept_whole(flow.of(call.args["self"]), [call.args["dim"]])
    return replace(x, shape=out_shape(flow, call))


def _diagonal(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    flow.kept_whole(x, range(len(x.shape)))
    return Layout(out_shape(flow, call))


def _as_strided(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    flow.kept_whole(x, range(len(x.shape)))
    return Layout(out_shape(flow, call))


RULES: dict[str, Rule] = {
    "select": _select,
    "slice": _slice,
    "narrow": _narrow,
    "getitem": _getitem,
    **dict.fromkeys(("index", "unsafe_index"), _index),
    "index_select": _index_select,
    "diagonal": _diagonal,
    "as_strided": _as_strided,
}
