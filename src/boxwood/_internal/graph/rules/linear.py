"""Products with weights: linear layers, convolutions, matrix products, embeddings."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from boxwood._internal.graph.labels import Ids
from boxwood._internal.graph.layout import Layout, inserted
from boxwood._internal.graph.propagate import Cost, Flow, Rule
from boxwood._internal.graph.recording import Call


def whole(ids: Ids | None, size: int) -> Ids:
    """Labels of an axis, zeros for one that cannot lose anything."""
    return np.zeros(size, dtype=np.int64) if ids is None else ids


def contracted(flow: Flow, first: Layout, second: Layout, a: Ids | None, b: Ids | None) -> None:
    """Tie two axes that a sum of products runs over; removed terms must be zero."""
    flow.tied(a, b)
    if a is not None and not (first.zero or second.zero):
        flow.labels.freeze(a)


def _linear(flow: Flow, call: Call) -> Layout:
    x, weight = flow.of(call.args["input"]), flow.of(call.args["weight"])
    x, read = flow.axis(x, -1)
    weight, taken = flow.axis(weight, -1)
    contracted(flow, x, weight, read, taken)
    out_shape = flow.shape(call.outputs)
    rest = tuple(b for b in x.blocks if len(x.shape) - 1 not in b.axes)
    zero = weight.zero
    if len(weight.shape) == 1:
        return Layout(out_shape, rest, zero=False)
    weight, made = flow.axis(weight, 0)
    bias = call.args.get("bias")
    if bias is not None:
        given, ids = flow.axis(flow.of(bias), -1)
        made = flow.tied(made, ids)
        zero = zero and given.zero
    size, wide = x.shape[-1], out_shape[-1]
    flow.costs.append(Cost(math.prod(x.shape[:-1]), (whole(taken, size), whole(made, wide))))
    bare = Layout((*x.shape[:-1], wide), rest, zero=zero and not rest)
    return bare if made is None else bare.with_ids(-1, made)


def _conv(flow: Flow, call: Call) -> Layout:
    weight, x = flow.of(call.args["weight"]), flow.of(call.args["input"])
    groups, transposed = int(call.args["groups"]), call.name == "conv_transpose"
    spatial = len(weight.shape) - 2
    channel = len(x.shape) - spatial - 1
    x = flow.kept_whole(x, range(channel + 1, len(x.shape)))
    weight = flow.kept_whole(weight, range(2, len(weight.shape)))
    x, read = flow.axis(x, channel)
    into, out = (0, 1) if transposed else (1, 0)
    taken, made = weight.ids(into), weight.ids(out)
    channels = x.shape[channel]
    count = flow.shape(call.outputs)[channel]
    bias = call.args["bias"]
    if groups == 1:
        contracted(flow, x, weight, read, taken)
        produced = made
        flow.expect(call, call.args["groups"], None)
    else:
        read = whole(read, channels)
        produced = _grouped(flow, call, read, taken, made, groups, count, transposed=transposed)
    if bias is not None:
        produced = flow.tied(produced, flow.of(bias).ids(0))
    shape = flow.shape(call.outputs)
    positions = math.prod((x if transposed else Layout(shape)).shape[channel + 1 :])
    batch = math.prod(shape[:channel])
    window = math.prod(weight.shape[2:])
    factors: tuple[Ids, ...] = (whole(read, channels), whole(produced, count))
    if groups > 1:  # each output reads its group: one of the two factors, and a fixed number
        factors = (whole(produced, count),)
        window *= channels // groups
    flow.costs.append(Cost(batch * positions * window, factors))
    rest = tuple(b for b in x.blocks if channel not in b.axes)
    zero = weight.zero and (bias is None or flow.of(bias).zero) and not rest
    out_layout = Layout(shape, rest, zero=zero)
    return out_layout if produced is None else out_layout.with_ids(channel, produced)


def _grouped(
    flow: Flow,
    call: Call,
    read: Ids,
    taken: Ids | None,
    made: Ids | None,
    groups: int,
    count: int,
    *,
    transposed: bool,
) -> Ids | None:
    """Remove whole groups where there are many, or the same places of every group."""
    inputs = read.reshape(groups, -1)
    each_in, each_out = inputs.shape[1], count // groups
    per_group = whole(made, each_out if transposed else count)
    # Labels of the outputs: of a plain convolution they are the weight's first axis; of a
    # transposed one the weight has an axis for the outputs of one group only.
    outputs = (
        np.broadcast_to(per_group, (groups, each_out))
        if transposed
        else per_group.reshape(groups, -1)
    )
    if groups >= each_in:
        inside = made if transposed else taken  # the axis that every group has in common
        if inside is not None:
            flow.labels.freeze(inside)
        flow.labels.tie(inputs, inputs[:, :1])
        if transposed:
            flow.labels.tie(whole(taken, read.size).reshape(groups, -1), inputs[:, :1])
            outputs = np.broadcast_to(inputs[:, :1], (groups, each_out))
        else:
            flow.labels.tie(outputs, inputs[:, :1])
        flow.expect(call, call.args["groups"], inputs[:, 0].copy())
        return outputs.reshape(-1).copy()
    flow.expect(call, call.args["groups"], None)
    flow.labels.tie(inputs, inputs[:1])
    if transposed:
        flow.labels.tie(whole(taken, read.size).reshape(groups, -1), inputs[:1])
        return np.tile(per_group, groups)
    flow.labels.tie(inputs[0], whole(taken, each_in))
    flow.labels.tie(outputs, outputs[:1])
    return outputs.reshape(-1).copy()


def _matmul(flow: Flow, call: Call) -> Layout:
    first, second = (
        flow.of(call.args["self"]),
        flow.of(call.args.get("other", call.args.get("mat2"))),
    )
    if call.name == "matmul_reversed":
        first, second = second, first
    return product(flow, first, second)


def product(flow: Flow, first: Layout, second: Layout) -> Layout:
    """Move labels as ``torch.matmul`` moves axes."""
    vector_first, vector_second = len(first.shape) == 1, len(second.shape) == 1
    first = inserted(first, 0) if vector_first else first
    second = inserted(second, 1) if vector_second else second
    # Batch axes decide before the contracted ones: attention heads before their features.
    first, second = flow.kept_joint(first, (-1, -2)), flow.kept_joint(second, (-1, -2))
    first, a = flow.axis(first, -1)
    second, b = flow.axis(second, -2)
    contracted(flow, first, second, a, b)
    first, rows = flow.axis(first, -2)
    second, columns = flow.axis(second, -1)
    left, right = _batch(first), _batch(second)
    out = flow.join([left, right])
    shape = (*out.shape, first.shape[-2], second.shape[-1])
    made = Layout(shape, out.blocks)
    if rows is not None:
        made = made.with_ids(-2, rows)
    if columns is not None:
        made = made.with_ids(-1, columns)
    made = replace(made, zero=first.zero and second.zero)
    flow.costs.append(
        Cost(
            math.prod(out.shape),
            (whole(a, first.shape[-1]), whole(rows, first.shape[-2]),
             whole(columns, second.shape[-1])),
        )
    )  # fmt: skip
    if vector_first:
        made = flow.without(made, [-2], keepdim=False)
    return flow.without(made, [-1], keepdim=False) if vector_second else made


def _batch(layout: Layout) -> Layout:
    rank = len(layout.shape) - 2
    blocks = tuple(b for b in layout.blocks if all(axis < rank for axis in b.axes))
    return Layout(layout.shape[:rank], blocks)


def _grouped_mm(flow: Flow, call: Call) -> Layout:
    """Multiply each group of rows by a matrix of its own, as experts do; no group can go."""
    rows, weights = flow.of(call.args["self"]), flow.of(call.args["mat2"])
    if (len(rows.shape), len(weights.shape)) != (2, 3):
        for each in (rows, weights):
            flow.kept_whole(each, range(len(each.shape)))
        return Layout(flow.shape(call.outputs))
    rows, weights = flow.kept_whole(rows, [0]), flow.kept_whole(weights, [0])
    rows, read = flow.axis(rows, 1)
    weights, taken = flow.axis(weights, 1)
    contracted(flow, rows, weights, read, taken)
    weights, made = flow.axis(weights, 2)
    size, wide = weights.shape[1:]
    flow.costs.append(Cost(rows.shape[0], (whole(taken, size), whole(made, wide))))
    zero, bias = weights.zero, call.args.get("bias")
    if bias is not None:
        given, ids = flow.axis(flow.of(bias), -1)
        made, zero = flow.tied(made, ids), zero and given.zero
    out = Layout(flow.shape(call.outputs), zero=zero)
    return out if made is None else out.with_ids(1, made)


def _solve_triangular(flow: Flow, call: Call) -> Layout:
    """Multiply by the inverse of a matrix, which stays whole."""
    matrix, right = flow.of(call.args["self"]), flow.of(call.args["B"])
    matrix = flow.kept_whole(matrix, [-1, -2])
    left = call.args.get("left", True)
    made = product(flow, matrix, right) if left else product(flow, right, matrix)
    return replace(made, zero=right.zero)


def _addmm(flow: Flow, call: Call) -> Layout:
    names = ("mat1", "mat2") if "mat1" in call.args else ("batch1", "batch2")
    if "vec" in call.args:
        names = ("mat", "vec")
    out = product(flow, flow.of(call.args[names[0]]), flow.of(call.args[names[1]]))
    if call.args.get("beta", 1) == 0:  # nothing is added, as in a product with a sparse matrix
        return out
    added = flow.of(call.args["self"])
    return replace(flow.join([out, added]), zero=out.zero and added.zero)


def _dot(flow: Flow, call: Call) -> Layout:
    second = next(call.args[key] for key in ("tensor", "vec", "other") if key in call.args)
    return product(flow, flow.of(call.args["self"]), flow.of(second))


def _outer(flow: Flow, call: Call) -> Layout:
    first, second = (
        flow.of(call.args["self"]),
        flow.of(call.args.get("vec2", call.args.get("other"))),
    )
    return replace(flow.join([inserted(first, 1), second]), zero=first.zero and second.zero)


def _embedding(flow: Flow, call: Call) -> Layout:
    weight = flow.kept_whole(flow.of(call.args["weight"]), [0])
    index = call.args["indices"]
    given = flow.of(index)
    flow.kept_whole(given, range(len(given.shape)))
    out = Layout(flow.shape(call.outputs), zero=weight.zero)
    ids = weight.ids(1)
    return out if ids is None else out.with_ids(-1, ids)


def _embedding_bag(flow: Flow, call: Call) -> Any:
    weight = flow.kept_whole(flow.of(call.args["weight"]), [0])
    out = Layout(flow.shape(call.outputs[0]), zero=weight.zero)
    ids = weight.ids(1)
    rest = [Layout(flow.shape(each)) for each in call.outputs[1:]]
    return [out if ids is None else out.with_ids(-1, ids), *rest]


def _bilinear(flow: Flow, call: Call) -> Layout:
    weight = flow.of(call.args["weight"])
    for key, axis in (("input1", 1), ("input2", 2)):
        x, ids = flow.axis(flow.of(call.args[key]), -1)
        contracted(flow, x, weight, ids, weight.ids(axis))
    made, bias = weight.ids(0), call.args["bias"]
    if bias is not None:
        made = flow.tied(made, flow.of(bias).ids(0))
    out = Layout(flow.shape(call.outputs), zero=True)
    return out if made is None else out.with_ids(-1, made)


def _weight_norm(flow: Flow, call: Call) -> Any:
    """``g · v / ‖v‖``: norms run over zeros, and so lose nothing."""
    v, g = flow.of(call.args["v"]), flow.of(call.args["g"])
    for name in flow.trace.named.get(call.args["v"].value, ()):
        flow.directions |= {(name, axis) for axis, size in enumerate(g.shape) if size > 1}
    out = replace(flow.join([v, g]), zero=v.zero or g.zero)
    return [out, g] if isinstance(call.outputs, tuple) else out


RULES: dict[str, Rule] = {
    "linear": _linear,
    **dict.fromkeys(("conv", "conv_transpose"), _conv),
    **dict.fromkeys(("matmul", "matmul_reversed", "mm", "bmm"), _matmul),
    **dict.fromkeys(("addmm", "sparse_addmm", "baddbmm", "addmv"), _addmm),
    **dict.fromkeys(("dot", "mv", "vdot"), _dot),
    **dict.fromkeys(("outer", "ger"), _outer),
    "embedding": _embedding,
    "embedding_bag": _embedding_bag,
    "grouped_mm": _grouped_mm,
    "linalg_solve_triangular": _solve_triangular,
    "bilinear": _bilinear,
    **dict.fromkeys(("weight_norm", "weight_norm_interface"), _weight_norm),
}
