"""Views, joins, splits and other operations that move data without changing it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from boxwood.graph.labels import Ids
from boxwood.graph.layout import Layout, dropped, inserted, permuted, selected
from boxwood.graph.propagate import Flow, Rule
from boxwood.graph.trace import Call, Ref


def _sizes(given: Any) -> tuple[Any, ...]:
    """Read sizes given one by one, or as one sequence."""
    if isinstance(given, tuple | list):
        return (
            _sizes(given[0])
            if len(given) == 1 and isinstance(given[0], tuple | list)
            else tuple(given)
        )
    return (given,)


def _out_shape(flow: Flow, call: Call) -> tuple[int, ...]:
    return flow.shape(call.outputs)


def view(flow: Flow, call: Call) -> Layout:
    """Regroup axes; what the code wrote as sizes must be what they are after surgery."""
    x = flow.of(call.args["self"])
    if any(isinstance(each, torch.dtype) for each in _sizes(call.args.get("size", ()))):
        return _opaque(flow, call, x)
    out = flow.regroup(x, _out_shape(flow, call))
    sizes = _sizes(call.args.get("size", call.args.get("shape", ())))
    if "more" in call.args or "shape" in call.args:  # as the user's code wrote it
        flow.expect_shape(call, sizes, out)
    return out


def derived_view(flow: Flow, call: Call) -> Layout:
    """Regroup axes in sizes that follow from the operand, as ``flatten`` does."""
    return flow.regroup(flow.of(call.args["self"]), _out_shape(flow, call))


def _unflatten(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    out = flow.regroup(x, _out_shape(flow, call))
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
    sizes = _sizes(call.args.get("size", ()))
    shape = _out_shape(flow, call)
    while len(x.shape) < len(shape):
        x = inserted(x, 0)
    written = "more" in call.args
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
        return Layout(_out_shape(flow, call))
    flow.expect(call, count, None)
    x, ids = flow.axis(x, dim)
    if ids is None:
        return replace(x, shape=_out_shape(flow, call))
    return x.with_ids(dim, np.repeat(ids, int(count)))


def _cat(flow: Flow, call: Call) -> Layout:
    given = [each for each in call.args["tensors"] if flow.shape(each) != (0,)]
    dim = call.args["dim"] if call.args["dim"] is not None else 0
    parts, pieces = [], []
    for each in given:
        part, ids = flow.axis(flow.of(each), dim)
        axis = dim % len(part.shape)
        pieces.append(np.zeros(part.shape[axis], dtype=np.int64) if ids is None else ids)
        bare = tuple(block for block in part.blocks if axis not in block.axes)
        parts.append(
            replace(part, shape=(*part.shape[:axis], 1, *part.shape[axis + 1 :]), blocks=bare)
        )
    out = replace(flow.join(parts), zero=all(part.zero for part in parts))
    ids = np.concatenate(pieces)
    if not flow.labels.roots(ids).any():
        return replace(out, shape=_out_shape(flow, call))
    return out.with_ids(dim, ids)


def _stack(flow: Flow, call: Call) -> Layout:
    parts = [flow.of(each) for each in call.args["tensors"]]
    out = replace(flow.join(parts), zero=all(part.zero for part in parts))
    return inserted(out, call.args["dim"] % (len(out.shape) + 1), len(parts))


def _pieces(
    flow: Flow, x: Layout, dim: int, sizes: Sequence[int]
) -> list[tuple[Layout, Ids | None]]:
    x, ids = flow.axis(x, dim)
    axis = dim % len(x.shape)
    out, start = [], 0
    for size in sizes:
        if ids is None:
            piece = None
            made = replace(x, shape=(*x.shape[:axis], int(size), *x.shape[axis + 1 :]))
        else:
            piece = ids[start : start + int(size)]
            made = x.with_ids(axis, piece)
        out.append((made, piece))
        start += int(size)
    return out


def _split(flow: Flow, call: Call) -> list[Layout]:
    x, dim = flow.of(call.args["self"]), call.args.get("dim", 0)
    written = "split_size_or_sections" in call.args
    given: Any = call.args.get("split_size_or_sections")
    if given is None:  # by keyword, or inside another function of torch
        named = call.args.get("named", call.args)
        given = named["split_size"] if "split_size" in named else named["split_sizes"]
    size = x.shape[dim]
    if isinstance(given, tuple | list):
        pieces = _pieces(flow, x, dim, given)
        for each, (_, ids) in zip(given, pieces, strict=True):
            flow.expect(call, each, ids)
        return [made for made, _ in pieces]
    each = int(given)
    count = -(-size // each)
    pieces = _pieces(flow, x, dim, [min(each, size - i * each) for i in range(count)])
    _tie_pieces(flow, [ids for _, ids in pieces], written=written, call=call, size=given)
    return [made for made, _ in pieces]


def _chunk(flow: Flow, call: Call) -> list[Layout]:
    x, dim = flow.of(call.args["self"]), call.args["dim"]
    sizes = [flow.shape(ref)[dim] for ref in call.outputs]
    flow.expect(call, call.args["chunks"], None)
    pieces = _pieces(flow, x, dim, sizes)
    _tie_pieces(flow, [ids for _, ids in pieces], written=False, call=call, size=None)
    return [made for made, _ in pieces]


def _tie_pieces(
    flow: Flow, pieces: list[Ids | None], *, written: bool, call: Call, size: Any
) -> None:
    """Pieces of one size must stay of one size: index by index they live or die together."""
    if pieces[0] is None or len(pieces) == 1:
        if written:
            flow.expect(call, size, pieces[0])
        return
    for piece in pieces[1:]:
        if piece is not None and len(piece) == len(pieces[0]):
            flow.labels.tie(pieces[0], piece)
        else:  # a shorter last piece: nothing about it would stay true
            for each in pieces:
                flow.tied(each, None)
            break
    if written:
        flow.expect(call, size, pieces[0])


def _unbind(flow: Flow, call: Call) -> list[Layout]:
    x, dim = flow.of(call.args["self"]), call.args["dim"]
    block = x.block(dim % len(x.shape))
    if block is not None and len(block.axes) == 1:
        x = flow.kept_whole(x, [dim])
    return [selected(flow.labels, x, dim, index) for index in range(x.shape[dim])]


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
    x, ids = flow.axis(x, dim)
    axis = dim % len(x.shape)
    if ids is None or isinstance(start, Ref):
        x = flow.kept_whole(x, [dim])
        return replace(x, shape=_out_shape(flow, call))
    flow.expect(call, start, ids[: int(start)])
    taken = ids[int(start) : int(start) + int(length)]
    flow.expect(call, length, taken)
    return x.with_ids(axis, taken)


def _pad(flow: Flow, call: Call) -> Layout:
    x, pad = flow.of(call.args["self"]), call.args.get("pad", call.args.get("padding"))
    value = call.args.get("value", 0)
    for place in range(len(pad) // 2):
        before, after = int(pad[2 * place]), int(pad[2 * place + 1])
        axis = len(x.shape) - 1 - place
        if not before and not after:
            continue
        x, ids = flow.axis(x, axis)
        if ids is not None and before >= 0 and after >= 0 and call.name == "constant_pad_nd":
            zeros = [np.zeros(count, dtype=np.int64) for count in (before, after)]
            x = x.with_ids(axis, np.concatenate([zeros[0], ids, zeros[1]]))
        else:
            x = flow.kept_whole(x, [axis])
            size = x.shape[axis] + before + after
            x = replace(x, shape=(*x.shape[:axis], size, *x.shape[axis + 1 :]))
    return replace(x, zero=x.zero and (value in (0, None) or call.name != "constant_pad_nd"))


def _flip_or_roll(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    axes = call.args["dims"] or tuple(range(len(x.shape)))
    return flow.kept_whole(x, axes)


def _pixel_shuffle(flow: Flow, call: Call) -> Layout:
    x, factor = flow.of(call.args["self"]), int(call.args["upscale_factor"])
    axis = len(x.shape) - 3
    x = flow.kept_whole(x, [axis + 1, axis + 2])
    x, ids = flow.axis(x, axis)
    if ids is None:
        return Layout(_out_shape(flow, call), x.blocks, x.zero)
    rows = ids.reshape(-1, factor * factor)
    flow.labels.tie(rows, rows[:, :1])
    out = Layout(_out_shape(flow, call), tuple(b for b in x.blocks if axis not in b.axes), x.zero)
    return out.with_ids(axis, rows[:, 0].copy())


def _pixel_unshuffle(flow: Flow, call: Call) -> Layout:
    x, factor = flow.of(call.args["self"]), int(call.args["downscale_factor"])
    axis = len(x.shape) - 3
    x = flow.kept_whole(x, [axis + 1, axis + 2])
    x, ids = flow.axis(x, axis)
    out = Layout(_out_shape(flow, call), tuple(b for b in x.blocks if axis not in b.axes), x.zero)
    return out if ids is None else out.with_ids(axis, np.repeat(ids, factor * factor))


def _channel_shuffle(flow: Flow, call: Call) -> Layout:
    x, groups = flow.of(call.args["self"]), int(call.args["groups"])
    x, ids = flow.axis(x, 1)
    if ids is None:
        return x
    rows = ids.reshape(groups, -1)
    flow.labels.tie(rows, rows[:1])
    return x.with_ids(1, rows.T.ravel().copy())


def _unfold_axis(flow: Flow, call: Call) -> Layout:
    x = flow.kept_whole(flow.of(call.args["self"]), [call.args["dimension"]])
    shape = _out_shape(flow, call)
    return Layout(shape, x.blocks, x.zero)


def _im2col(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    x = flow.kept_whole(x, [axis for axis in range(len(x.shape)) if axis != 1])
    window = math.prod(call.args["kernel_size"])
    ids = x.ids(1)
    out = Layout(_out_shape(flow, call), (), x.zero)
    return out if ids is None else out.with_ids(1, np.repeat(ids, window))


def _col2im(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    x = flow.kept_whole(x, [axis for axis in range(len(x.shape)) if axis != 1])
    window = math.prod(call.args["kernel_size"])
    ids = x.ids(1)
    out = Layout(_out_shape(flow, call), (), x.zero)
    if ids is None:
        return out
    rows = ids.reshape(-1, window)
    flow.labels.tie(rows, rows[:, :1])
    return out.with_ids(1, rows[:, 0].copy())


def _filled(flow: Flow, call: Call) -> Layout:
    """A new tensor of one value: as many indices as the code asks for."""
    sizes = _sizes(call.args["size"])
    if "names" in call.args.get("more", {}):
        return Layout(_out_shape(flow, call))
    shape = _out_shape(flow, call)
    value = call.args.get("fill_value", 0 if call.name.endswith("zeros") else 1)
    x = Layout(shape, zero=value == 0)
    for axis, size in enumerate(shape):
        if size > 1:
            x = x.with_ids(axis, flow.labels.fresh(size))
    flow.expect_shape(call, sizes, x)
    return x


def _constant(flow: Flow, call: Call) -> None:
    """Positions, random integers and the like: nothing in them can go."""


def _getitem(flow: Flow, call: Call) -> Layout:
    """Basic and advanced indexing, item by item."""
    x = flow.of(call.args["self"])
    index = call.args["index"]
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(each, list | tuple) for each in items):
        return _opaque(flow, call, x)
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
            return _opaque(flow, call, x)
        elif isinstance(each, slice):
            if any(isinstance(part, Ref) for part in (each.start, each.stop, each.step)):
                return _opaque(flow, call, x)
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
            return _opaque(flow, call, x)
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
    shape = _out_shape(flow, call)
    new = len(shape) - (len(x.shape) - len(axes))
    for axis in sorted(axes, reverse=True):
        x = dropped(flow.labels, x, axis)
    at = axes[0] if together else 0
    for place in range(new):
        x = inserted(x, at + place, shape[at + place])
    return x


def _opaque(flow: Flow, call: Call, x: Layout) -> Layout:
    flow.kept_whole(x, range(len(x.shape)))
    return Layout(_out_shape(flow, call))


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
    return replace(x, shape=_out_shape(flow, call))


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
    return Layout(_out_shape(flow, call))


def _as_strided(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    flow.kept_whole(x, range(len(x.shape)))
    return Layout(_out_shape(flow, call))


def _gather(flow: Flow, call: Call) -> Layout:
    x, index = flow.of(call.args["self"]), flow.of(call.args["index"])
    flow.kept_whole(x, range(len(x.shape)))
    flow.kept_whole(index, range(len(index.shape)))
    return Layout(_out_shape(flow, call))


def _meshgrid(flow: Flow, call: Call) -> Any:
    for ref in call.args["tensors"]:
        layout = flow.of(ref)
        flow.kept_whole(layout, range(len(layout.shape)))
    return None


RULES: dict[str, Rule] = {
    "view": view,
    **dict.fromkeys(("unsafe_view", "reshape_alias", "flatten", "ravel"), derived_view),
    "unflatten": _unflatten,
    "permute": _permute,
    **dict.fromkeys(("transpose", "t", "swapaxes"), _transpose),
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "expand": _expand,
    "repeat": _repeat,
    "repeat_interleave": _repeat_interleave,
    "cat": _cat,
    "stack": _stack,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "chunk": _chunk,
    "unbind": _unbind,
    "select": _select,
    "slice": _slice,
    "narrow": _narrow,
    **dict.fromkeys(
        ("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
         "replication_pad1d", "replication_pad2d", "replication_pad3d"), _pad
    ),
    **dict.fromkeys(("flip", "roll"), _flip_or_roll),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "unfold": _unfold_axis,
    "im2col": _im2col,
    "col2im": _col2im,
    **dict.fromkeys(("filled", "filled_zeros", "filled_full", "new", "new_zeros"), _filled),
    **dict.fromkeys(
        ("arange", "scalar_tensor", "randint", "linspace", "eye", "zeros", "ones", "full", "empty",
         "rand", "randn", "new_ones", "new_full", "new_empty", "empty_strided",
         "new_empty_strided", "randperm", "tril_indices", "triu_indices", "hann_window"),
        _constant,
    ),
    "getitem": _getitem,
    "setitem": _setitem,
    "index": _index,
    "index_select": _index_select,
    **dict.fromkeys(("gather", "take_along_dim", "take"), _gather),
    **dict.fromkeys(
        ("index_put", "scatter", "scatter_add", "index_add", "masked_scatter", "index_fill",
         "slice_scatter", "select_scatter", "scatter_reduce", "index_copy"), _scatter
    ),
    "diagonal": _diagonal,
    "as_strided": _as_strided,
    "meshgrid": _meshgrid,
}  # fmt: skip
