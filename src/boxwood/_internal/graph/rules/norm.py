"""Normalisations, and the statistics of those that span removed channels."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from boxwood._internal.graph.labels import Ids
from boxwood._internal.graph.layout import Layout
from boxwood._internal.graph.propagate import Flow, Rule
from boxwood._internal.graph.recording import Call


def _affine(
    flow: Flow, call: Call, names: Sequence[str], ids: Ids | None
) -> tuple[Ids | None, bool]:
    """Tie per-channel vectors to the channels; say whether they make removed channels zero."""
    zero = False
    for name in names:
        given = call.args.get(name)
        if given is None:
            continue
        layout = flow.of(given)
        ids = flow.tied(ids, layout.ids(0))
        zero = zero or (name == "weight" and layout.zero)
    bias = call.args.get("bias")
    return ids, zero and (bias is None or flow.of(bias).zero)


def _batch_norm(flow: Flow, call: Call) -> Layout:
    """Each channel has statistics of its own; removing one changes no other."""
    x, ids = flow.axis(flow.of(call.args["input"]), 1)
    fixed = call.args.get("running_mean") is not None and not call.args["training"]
    if not fixed and call.name == "batch_norm":
        # Statistics of this batch: what else is labelled lies across them.
        x = flow.kept_whole(x, [axis for axis in range(len(x.shape)) if axis != 1])
    ids, zero = _affine(flow, call, ("weight", "bias", "running_mean", "running_var"), ids)
    # Without an affine map a removed channel is (0 - 0) / std: its running mean is masked too.
    zero = zero or (call.args.get("weight") is None and (x.zero or fixed) and x.zero)
    x = replace(x, zero=zero)
    return flow.kept_whole(x, [1]) if ids is None else x.with_ids(1, ids)


def _instance_norm(flow: Flow, call: Call) -> Layout:
    """Each channel of each example has statistics of its own."""
    x = flow.of(call.args["input"])
    x = flow.kept_whole(x, range(2, len(x.shape)))
    x, ids = flow.axis(x, 1)
    ids, zero = _affine(flow, call, ("weight", "bias", "running_mean", "running_var"), ids)
    x = replace(x, zero=zero or (call.args.get("weight") is None and x.zero))
    return flow.kept_whole(x, [1]) if ids is None else x.with_ids(1, ids)


def _layer_norm(flow: Flow, call: Call) -> Layout:
    """Statistics span the channels: the law holds with them taken over the kept ones."""
    x = flow.of(call.args["input"])
    sizes = call.args["normalized_shape"]
    sizes = sizes if isinstance(sizes, tuple | list) else (sizes,)
    axes = [axis - len(sizes) for axis in range(len(sizes))]
    zero = True
    spans: list[Ids | None] = []
    for place, axis in enumerate(axes):
        x, ids = flow.axis(x, axis)
        for name in ("weight", "bias"):
            given = call.args.get(name)
            if given is not None:
                layout = flow.of(given)
                ids = flow.tied(ids, layout.ids(place))
                zero = zero and layout.zero
        x = flow.kept_whole(x, [axis]) if ids is None else x.with_ids(axis, ids)
        spans.append(ids)
    flow.restate(call, x, axes)
    for size, ids in zip(sizes, spans, strict=True):
        flow.expect(call, size, ids)
    rest = [block for block in x.blocks if all(a < len(x.shape) - len(sizes) for a in block.axes)]
    return replace(x, zero=zero and not rest)


def _group_norm(flow: Flow, call: Call) -> Layout:
    """Whole groups go, each with its own statistics; or with one group as in a layer norm."""
    x = flow.of(call.args["input"])
    x = flow.kept_whole(x, range(2, len(x.shape)))
    x, ids = flow.axis(x, 1)
    groups = int(call.args["num_groups"])
    ids, zero = _affine(flow, call, ("weight", "bias"), ids)
    x = replace(x, zero=zero)
    if ids is None:
        flow.expect(call, call.args["num_groups"], None)
        return flow.kept_whole(x, [1])
    x = x.with_ids(1, ids)
    if groups > 1:
        rows = ids.reshape(groups, -1)
        flow.labels.tie(rows, rows[:, :1])
        flow.expect(call, call.args["num_groups"], rows[:, 0].copy())
    else:
        flow.expect(call, call.args["num_groups"], None)
        flow.restate(call, x, [1])
    return x


def _native_layer_norm(flow: Flow, call: Call) -> Sequence[Layout]:
    """A layer norm inside another function of torch, where it cannot be restated."""
    x = flow.of(call.args["input"])
    axes = range(len(x.shape) - len(call.args["normalized_shape"]), len(x.shape))
    x = flow.kept_whole(x, axes)
    for name in ("weight", "bias"):
        if call.args.get(name) is not None:
            layout = flow.of(call.args[name])
            flow.kept_whole(layout, range(len(layout.shape)))
    return [replace(x, zero=False), *(Layout(flow.shape(each)) for each in call.outputs[1:])]


def _norm(flow: Flow, call: Call) -> Layout:
    """A vector norm: zeros add nothing to it; what is not zero must stay."""
    x = flow.of(call.args["self"])
    given = call.args.get("dim")
    given = list(range(len(x.shape))) if given is None or given == () else given
    axes = [given] if isinstance(given, int) else list(given)
    order = call.args.get("ord", call.args.get("p", 2))
    x = _spanned(flow, x, axes, order)
    return flow.without(x, axes, keepdim=bool(call.args.get("keepdim", False)))


def _normalize(flow: Flow, call: Call) -> Layout:
    """Divide by a vector norm."""
    x, dim, order = flow.of(call.args["input"]), call.args["dim"], call.args["p"]
    axes = [axis % len(x.shape) for axis in ([dim] if isinstance(dim, int) else dim)]
    return _spanned(flow, x, axes, order)


def _spanned(flow: Flow, x: Layout, axes: Sequence[int], order: Any) -> Layout:
    """Let a vector norm span axes: zeros add nothing to it; what is not zero must stay."""
    for axis in axes:
        x, ids = flow.axis(x, axis)
        if ids is not None and not (
            x.zero and isinstance(order, int | float) and order > 0 and math.isfinite(order)
        ):
            x = flow.kept_whole(x, [axis])
    return x


RULES: dict[str, Rule] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    "group_norm": _group_norm,
    "normalize": _normalize,
    "native_layer_norm": _native_layer_norm,
    **dict.fromkeys(("linalg_vector_norm", "norm"), _norm),
}
