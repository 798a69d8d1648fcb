"""Indices, slices and what is written through them."""

from dataclasses import replace
from typing import Any

from boxwood.graph.layout import Layout, dropped, inserted, selected
from boxwood.graph.propagate import Flow, Rule
from boxwood.graph.recording import Call, Ref


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
    """Basic and advanced indexing, item by item."""
    x = flow.of(call.args["self"])
    index = call.args["index"]
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(each, list | tuple) for each in items):
        return opaque(flow, call, x)
    used = sum(_consumed(flow, each) for each in items)
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
            return opaque(flow, call, x)
        elif isinstance(each, slice):
            if any(isinstance(part, Ref) for part in (each.start, each.stop, each.step)):
                return opaque(flow, call, x)
            x = take_range(flow, call, x, axis, each.start, each.stop, each.step)
            axis += 1
        elif isinstance(each, Ref):
            if len(flow.shape(each)) == 0 and not advanced:
                x = flow.kept_whole(x, [axis])
            advanced.append((axis, each))
            axis += max(1, _consumed(flow, each))
        elif isinstance(each, int):
            if each is not None:
                flow.expect(call, each if each >= 0 else None, None)
            x = take_one(flow, x, axis, int(each))
        else:
            return opaque(flow, call, x)
    return gathered(flow, call, x, advanced) if advanced else x


def _consumed(flow: Flow, item: Any) -> int:
    """How many axes an item of an index takes."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    if isinstance(item, Ref) and not flow.trace.integral[item.value]:
        return len(flow.shape(item))  # a mask
    return 1


def gathered(flow: Flow, call: Call, x: Layout, advanced: list[tuple[int, Ref]]) -> Layout:
    """Index by tensors: their axes stay whole, the others keep their labels."""
    axes = [axis + more for axis, ref in advanced for more in range(max(1, _consumed(flow, ref)))]
    for _, ref in advanced:
        given = flow.of(ref)
        flow.kept_whole(given, range(len(given.shape)))
    x = flow.kept_whole(x, axes)
    together = axes == list(range(axes[0], axes[0] + len(axes)))
    shape = out_shape(flow, call)
    new = len(shape) - (len(x.shape) - len(axes))
    for axis in sorted(axes, reverse=True):
        x = dropped(flow.labels, x, axis)
    at = axes[0] if together else 0
    for place in range(new):
        x = inserted(x, at + place, shape[at + place])
    return x


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
            axis += max(1, _consumed(flow, each))
        else:
            axis += 1
    return gathered(flow, call, x, advanced)


def _index_select(flow: Flow, call: Call) -> Layout:
    x = flow.kept_whole(flow.of(call.args["self"]), [call.args["dim"]])
    return replace(x, shape=out_shape(flow, call))


def _setitem(flow: Flow, call: Call) -> None:
    """Writes into part of a tensor: what is written there is tied to what was."""
    target = call.args["self"]
    part_call = replace(call, name="getitem", outputs=None)
    x, value = flow.of(target), call.args["value"]
    items = call.args["index"] if isinstance(call.args["index"], tuple) else (call.args["index"],)
    basic = all(each is None or each is Ellipsis or isinstance(each, slice | int) for each in items)
    if not basic:
        flow.kept_whole(x, range(len(x.shape)))
        if isinstance(value, Ref):
            given = flow.of(value)
            flow.kept_whole(given, range(len(given.shape)))
        flow.layouts[target.value] = Layout(x.shape)
        return
    part = _getitem(flow, part_call)
    written = flow.of(value)
    if isinstance(value, Ref):
        flow.join([part, written])
    zero = x.zero and written.zero
    for other in flow.trace.sharing[flow.trace.storages[target.value]]:
        if other in flow.layouts:
            layout = flow.layouts[other]
            flow.layouts[other] = replace(layout, zero=layout.zero and zero)
    flow.layouts[target.value] = replace(flow.of(target), zero=zero)


def _scatter(flow: Flow, call: Call) -> Layout:
    """Index put, scatter and the like: only what is not indexed may lose channels."""
    x = flow.of(call.args["self"])
    for ref in [each for each in call.args.values() if isinstance(each, Ref)]:
        layout = flow.of(ref)
        flow.kept_whole(layout, range(len(layout.shape)))
    return Layout(x.shape)


def _diagonal(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    flow.kept_whole(x, range(len(x.shape)))
    return Layout(out_shape(flow, call))


def _as_strided(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    flow.kept_whole(x, range(len(x.shape)))
    return Layout(out_shape(flow, call))


def _gather(flow: Flow, call: Call) -> Layout:
    x, index = flow.of(call.args["self"]), flow.of(call.args["index"])
    flow.kept_whole(x, range(len(x.shape)))
    flow.kept_whole(index, range(len(index.shape)))
    return Layout(out_shape(flow, call))


RULES: dict[str, Rule] = {
    "select": _select,
    "slice": _slice,
    "narrow": _narrow,
    "getitem": _getitem,
    "setitem": _setitem,
    "index": _index,
    "index_select": _index_select,
    **dict.fromkeys(("gather", "take_along_dim", "take"), _gather),
    **dict.fromkeys(
        (
            "index_put",
            "scatter",
            "scatter_add",
            "index_add",
            "masked_scatter",
            "index_fill",
            "slice_scatter",
            "select_scatter",
            "scatter_reduce",
            "index_copy",
        ),
        _scatter,
    ),
    "diagonal": _diagonal,
    "as_strided": _as_strided,
}
