"""Padding, shuffles and windows: data moves between channels and positions."""

import math
from dataclasses import replace

import numpy as np

from boxwood._internal.graph.layout import Layout
from boxwood._internal.graph.propagate import Flow, Rule
from boxwood._internal.graph.recording import Call
from boxwood._internal.graph.rules.indexing import out_shape


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


def _triangle(flow: Flow, call: Call) -> Layout:
    """Set to zero what lies on one side of a diagonal: places in the last two axes count."""
    return flow.kept_whole(flow.of(call.args["self"]), (-1, -2))


def _pixel_shuffle(flow: Flow, call: Call) -> Layout:
    x, factor = flow.of(call.args["self"]), int(call.args["upscale_factor"])
    axis = len(x.shape) - 3
    x = flow.kept_whole(x, [axis + 1, axis + 2])
    x, ids = flow.axis(x, axis)
    if ids is None:
        return Layout(out_shape(flow, call), x.blocks, x.zero)
    rows = ids.reshape(-1, factor * factor)
    flow.labels.tie(rows, rows[:, :1])
    out = Layout(out_shape(flow, call), tuple(b for b in x.blocks if axis not in b.axes), x.zero)
    return out.with_ids(axis, rows[:, 0].copy())


def _pixel_unshuffle(flow: Flow, call: Call) -> Layout:
    x, factor = flow.of(call.args["self"]), int(call.args["downscale_factor"])
    axis = len(x.shape) - 3
    x = flow.kept_whole(x, [axis + 1, axis + 2])
    x, ids = flow.axis(x, axis)
    out = Layout(out_shape(flow, call), tuple(b for b in x.blocks if axis not in b.axes), x.zero)
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
    shape = out_shape(flow, call)
    return Layout(shape, x.blocks, x.zero)


def _im2col(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    x = flow.kept_whole(x, [axis for axis in range(len(x.shape)) if axis != 1])
    window = math.prod(call.args["kernel_size"])
    ids = x.ids(1)
    out = Layout(out_shape(flow, call), (), x.zero)
    return out if ids is None else out.with_ids(1, np.repeat(ids, window))


def _col2im(flow: Flow, call: Call) -> Layout:
    x = flow.of(call.args["self"])
    x = flow.kept_whole(x, [axis for axis in range(len(x.shape)) if axis != 1])
    window = math.prod(call.args["kernel_size"])
    ids = x.ids(1)
    out = Layout(out_shape(flow, call), (), x.zero)
    if ids is None:
        return out
    rows = ids.reshape(-1, window)
    flow.labels.tie(rows, rows[:, :1])
    return out.with_ids(1, rows[:, 0].copy())


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "constant_pad_nd",
            "reflection_pad1d",
            "reflection_pad2d",
            "reflection_pad3d",
            "replication_pad1d",
            "replication_pad2d",
            "replication_pad3d",
        ),
        _pad,
    ),
    **dict.fromkeys(("flip", "roll"), _flip_or_roll),
    **dict.fromkeys(("tril", "triu"), _triangle),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "unfold": _unfold_axis,
    "im2col": _im2col,
    "col2im": _col2im,
}
