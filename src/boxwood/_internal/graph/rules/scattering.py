"""Writing to and reading from positions given by tensors: message passing, routing, assignments."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from boxwood._internal.graph.layout import Layout, dropped
from boxwood._internal.graph.propagate import Flow, Rule
from boxwood._internal.graph.recording import Call, Ref, refs
from boxwood._internal.graph.rules.indexing import (
    consumed,
    gathered,
    indexed,
    opaque,
    out_shape,
    take_one,
    take_range,
)


def _along(flow: Flow, call: Call) -> Layout:
    """Add or copy rows to the rows that an index names: what is in a row passes."""
    x, source, dim = flow.of(call.args["self"]), flow.of(call.args["source"]), call.args["dim"]
    keep_index(flow, call.args["index"])
    x, source = flow.kept_whole(x, [dim]), _one(flow, source, [dim])
    return replace(flow.join([x, source]), zero=x.zero and source.zero)


def _fill_along(flow: Flow, call: Call) -> Layout:
    """Write one number into the rows that an index names."""
    value = flow.of(call.args["value"])
    x = flow.kept_whole(flow.of(call.args["self"]), [call.args["dim"]])
    return replace(x, zero=x.zero and value.zero)


def _scatter(flow: Flow, call: Call) -> Layout:
    """Write each element to a place along one axis, which stays whole; other axes pass."""
    x, index = flow.of(call.args["self"]), flow.of(call.args["index"])
    source = flow.of(call.args.get("src", call.args.get("value")))
    given = [x, index, source] if source.shape else [x, index]
    if len({len(each.shape) for each in given}) > 1:  # numbers, or an empty index
        for each in given:
            flow.kept_whole(each, range(len(each.shape)))
        return Layout(x.shape)
    dim = call.args["dim"] % max(len(x.shape), 1)
    single = [
        axis
        for axis in range(len(x.shape))
        if axis == dim or any(each.shape[axis] != x.shape[axis] for each in given)
    ]
    x = flow.kept_whole(x, single)
    out = flow.join([x, *(_one(flow, each, single) for each in given[1:])])
    return replace(out, zero=x.zero and source.zero)


def _gather(flow: Flow, call: Call) -> Layout:
    """Read elements from places along one axis, which stays whole; other axes pass."""
    x, index = flow.of(call.args["self"]), flow.of(call.args.get("index", call.args.get("indices")))
    shape, dim = out_shape(flow, call), call.args["dim"]
    if dim is None or not x.shape or len(x.shape) != len(index.shape):
        flow.kept_whole(index, range(len(index.shape)))
        return opaque(flow, call, x)
    sizes = list(zip(x.shape, index.shape, strict=True))
    expands = call.name == "take_along_dim"
    differ = [a for a, pair in enumerate(sizes) if len({*pair} - ({1} if expands else set())) > 1]
    single = sorted({dim % len(x.shape), *differ})
    out = flow.join([_one(flow, x, single), _one(flow, index, single)])
    return replace(out, shape=shape, zero=x.zero)


def _one(flow: Flow, layout: Layout, axes: Sequence[int]) -> Layout:
    """Keep axes whole, and look at one index of each."""
    layout = flow.kept_whole(layout, axes)
    axes = [axis % len(layout.shape) for axis in axes]
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(layout.shape))
    return replace(layout, shape=shape)


def keep_index(flow: Flow, index: Any) -> None:
    """Keep whole what says where to read or write."""
    layout = flow.of(index)
    flow.kept_whole(layout, range(len(layout.shape)))


def _setitem(flow: Flow, call: Call) -> None:
    """Writes into part of a tensor: what is written there is tied to what was."""
    target, x = call.args["self"], flow.of(call.args["self"])
    part = indexed(flow, call, x, call.args["index"], written=True)
    written = flow.of(call.args["value"])
    if part is None:
        for each in (x, written):
            flow.kept_whole(each, range(len(each.shape)))
    else:
        _tie_written(flow, part[0], written, part[1])
    zero = x.zero and written.zero
    for other in flow.trace.sharing[flow.trace.storages[target.value]]:
        if other in flow.layouts:
            layout = flow.layouts[other]
            flow.layouts[other] = replace(layout, zero=layout.zero and zero)
    flow.layouts[target.value] = replace(flow.of(target), zero=zero)


def _tie_written(flow: Flow, part: Layout, written: Layout, chosen: Sequence[int]) -> None:
    """Tie what is written to where; axes that were made by an index stay whole."""
    while len(written.shape) > len(part.shape):
        written = dropped(flow.labels, written, 0)
    shift = len(part.shape) - len(written.shape)
    written = flow.kept_whole(written, [axis - shift for axis in chosen if axis >= shift])
    if written.shape:
        flow.join([part, written])


def _index_put(flow: Flow, call: Call) -> Layout:
    x, written = flow.of(call.args["self"]), flow.of(call.args["values"])
    advanced, axis = [], 0
    for each in call.args["indices"]:
        if isinstance(each, Ref):
            advanced.append((axis, each))
        axis += max(1, consumed(flow, each)) if isinstance(each, Ref) else 1
    part, chosen = gathered(flow, x, advanced, None)
    _tie_written(flow, part, written, chosen)
    x = flow.of(call.args["self"])
    return replace(x, zero=x.zero and written.zero)


def _part_scatter(flow: Flow, call: Call) -> Layout:
    """A copy with one part replaced."""
    x, source, dim = flow.of(call.args["self"]), flow.of(call.args["src"]), call.args["dim"]
    if call.name == "select_scatter":
        part = take_one(flow, x, dim, call.args["index"])
    else:
        start, end, step = (call.args[each] for each in ("start", "end", "step"))
        part = take_range(flow, call, x, dim, start, end, step)
    flow.join([part, source])
    return replace(x, zero=x.zero and source.zero)


def _whole(flow: Flow, call: Call) -> Layout:
    """Places are counted through all axes at once: everything stays."""
    _within_vmap(flow, call)
    return Layout(out_shape(flow, call))


def _within_vmap(flow: Flow, call: Call) -> None:
    """Code within ``vmap`` writes sizes of parts, which nobody follows: everything stays."""
    for ref in refs(tuple(call.args.values())):
        keep_index(flow, ref)


def _segments(flow: Flow, call: Call) -> Layout:
    """Reduce runs of rows: what is in a row passes."""
    axis = call.args["axis"]
    x = flow.kept_whole(flow.of(call.args["data"]), [axis])
    return replace(x, shape=out_shape(flow, call))


RULES: dict[str, Rule] = {
    "setitem": _setitem,
    **dict.fromkeys(("index_add", "index_copy", "index_reduce"), _along),
    "index_fill": _fill_along,
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), _scatter),
    **dict.fromkeys(("gather", "take_along_dim"), _gather),
    **dict.fromkeys(("index_put", "index_put_impl", "unsafe_index_put"), _index_put),
    **dict.fromkeys(("slice_scatter", "select_scatter"), _part_scatter),
    **dict.fromkeys(("masked_scatter", "take", "put"), _whole),
    "within_vmap": _within_vmap,
    "segment_reduce": _segments,
}
