"""Attention that PyTorch computes in one piece."""

import math
from dataclasses import replace

import numpy as np

from boxwood._internal.graph.labels import Ids
from boxwood._internal.graph.layout import Layout
from boxwood._internal.graph.propagate import Cost, Flow, Rule
from boxwood._internal.graph.recording import Call, Ref
from boxwood._internal.graph.rules.linear import whole


def _scaled_dot_product(flow: Flow, call: Call) -> Layout:
    """Heads may go; features of a head only where the scale does not count them."""
    query, key, value = (flow.of(call.args[each]) for each in ("query", "key", "value"))
    query, key, value = (flow.kept_joint(each, (-1, -2)) for each in (query, key, value))
    query, a = flow.axis(query, -1)
    key, b = flow.axis(key, -1)
    flow.tied(a, b)
    if a is not None and (call.args["scale"] is None or not (query.zero or key.zero)):
        flow.labels.freeze(a)
    value, features = flow.axis(value, -1)
    query = flow.kept_whole(query, [-2]) if query.block(len(query.shape) - 2) else query
    key, value = flow.kept_whole(key, [-2]), flow.kept_whole(value, [-2])
    batch = [_batch(each) for each in (query, key, value)]
    if call.args["enable_gqa"] and len(query.shape) > 3:
        batch = [batch[0], *(_repeated(each, query.shape[-3]) for each in batch[1:])]
    out = flow.join(batch)
    mask = call.args["attn_mask"]
    if isinstance(mask, Ref):
        given = flow.of(mask)
        given = flow.kept_whole(given, [axis for axis in (-1, -2) if len(given.shape) >= -axis])
        if len(given.shape) > 2:
            out = flow.join([out, _batch(given)])
    shape = (*out.shape, query.shape[-2], value.shape[-1])
    made = Layout(shape, out.blocks, zero=value.zero)
    heads = [block.ids for block in out.blocks if len(block.axes) == 1]
    rest = math.prod(out.shape) // math.prod(len(ids) for ids in heads)
    flow.costs.append(
        Cost(
            rest * query.shape[-2] * key.shape[-2] * (query.shape[-1] + value.shape[-1]),
            tuple(heads),
        )
    )
    return made if features is None else made.with_ids(-1, features)


def _batch(layout: Layout) -> Layout:
    rank = len(layout.shape) - 2
    return Layout(layout.shape[:rank], tuple(b for b in layout.blocks if max(b.axes) < rank))


def _repeated(batch: Layout, heads: int) -> Layout:
    """Each key and value head serves several query heads."""
    ids = batch.ids(-1)
    times = heads // batch.shape[-1]
    if ids is None:
        return replace(batch, shape=(*batch.shape[:-1], heads))
    return batch.with_ids(-1, np.repeat(ids, times))


def _multi_head(flow: Flow, call: Call) -> list[Layout | None]:
    """``F.multi_head_attention_forward``, which ``nn.MultiheadAttention`` calls.

    Its code takes the width of the heads from the width of the query, so that a head can go only
    together with as many channels of the query: channel ``h · d + i`` goes with head ``h``.
    """
    args = call.args
    query, key, value = (flow.of(args[each]) for each in ("query", "key", "value"))
    width, heads = query.shape[-1], int(args["num_heads"])
    query, inner = flow.axis(query, -1)
    plain = args["bias_k"] is None and args["static_k"] is None and args["static_v"] is None
    ids = whole(inner, width).reshape(heads, -1)
    if not plain or args["out_proj_weight"] is None:
        for name in ("bias_k", "bias_v", "in_proj_weight", "in_proj_bias", "static_k", "static_v"):
            if isinstance(args[name], Ref):
                layout = flow.of(args[name])
                flow.kept_whole(layout, range(len(layout.shape)))
        flow.labels.freeze(ids)
    for name in ("attn_mask", "key_padding_mask"):
        if isinstance(args[name], Ref):
            layout = flow.of(args[name])
            flow.kept_whole(layout, range(len(layout.shape)))
            if name == "attn_mask" and len(layout.shape) == 3:
                flow.labels.freeze(ids)  # a mask for each head
    flow.labels.tie(ids, ids[:, :1])
    spread = ids.ravel()
    for layout, name in ((query, "q"), (key, "k"), (value, "v")):
        separate = args[f"{name}_proj_weight"]
        layout, read = flow.axis(layout, -1)
        if args["use_separate_proj_weight"] and separate is not None:
            weight = flow.of(separate)
            flow.tied(weight.ids(0), spread)
            flow.tied(weight.ids(1), read)
    packed = args["in_proj_weight"]
    if packed is not None:
        weight = flow.of(packed)
        for given in (query, key, value):
            flow.tied(weight.ids(1), flow.axis(given, -1)[1])
        flow.tied(weight.ids(0), np.tile(spread, 3))
    if args["in_proj_bias"] is not None:
        flow.tied(flow.of(args["in_proj_bias"]).ids(0), np.tile(spread, 3))
    for given in (query, key, value):
        flow.kept_whole(given, range(len(given.shape) - 1))
    made = _projected(flow, call, spread)
    flow.expect(call, args["num_heads"], ids[:, 0].copy())
    flow.expect(call, args["embed_dim_to_check"], spread)
    _count(flow, query, key, spread)
    weights = call.outputs[1]
    if isinstance(weights, Ref):
        flow.on_use[weights.value] = ids[:, 0].copy()  # an average over the heads
        return [made, Layout(flow.shape(weights))]
    return [made, None]


def _projected(flow: Flow, call: Call, spread: Ids) -> Layout:
    out = Layout(flow.shape(call.outputs[0]), zero=True)
    if call.args["out_proj_weight"] is None:
        return replace(out, zero=False)
    weight, bias = flow.of(call.args["out_proj_weight"]), call.args["out_proj_bias"]
    flow.tied(weight.ids(1), spread)
    made = weight.ids(0)
    if bias is not None:
        made = flow.tied(made, flow.of(bias).ids(0))
    return out if made is None else out.with_ids(-1, made)


def _count(flow: Flow, query: Layout, key: Layout, spread: Ids) -> None:
    tokens = math.prod(query.shape[:-1])
    others = math.prod(key.shape[:-1])
    batch = next((a for a, b in zip(query.shape[:-1], key.shape[:-1], strict=False) if a == b), 1)
    flow.costs.append(Cost(2 * tokens + 2 * others, (spread, spread)))
    flow.costs.append(Cost(2 * tokens * others // max(batch, 1), (spread,)))


RULES: dict[str, Rule] = {
    "scaled_dot_product_attention": _scaled_dot_product,
    "multi_head_attention": _multi_head,
}
