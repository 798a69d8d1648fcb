"""Rounding to the steps of a quantiser: elements stay apart, steps belong to one axis or to all."""

from dataclasses import replace

from boxwood._internal.graph.layout import Layout
from boxwood._internal.graph.propagate import Flow, Rule
from boxwood._internal.graph.recording import Call, Ref, refs


def _fake_quantize(flow: Flow, call: Call) -> Layout | tuple[Layout, Layout]:
    """Zero is a step of every affine quantiser, so what is zero stays so."""
    x, axis = flow.of(call.args["self"]), call.args.get("axis")
    steps = [call.args[key] for key in ("scale", "zero_point") if isinstance(call.args[key], Ref)]
    for ref in steps:
        layout = flow.of(ref)
        if axis is None or len(layout.shape) != 1 or layout.shape[0] == 1:
            flow.kept_whole(layout, range(len(layout.shape)))
            continue
        x, ids = flow.axis(x, axis)
        ids = flow.tied(ids, layout.ids(0))  # whole numbers have no labels, so the axis stays
        x = flow.kept_whole(x, [axis]) if ids is None else x.with_ids(axis, ids)
    return (x, replace(x, zero=False)) if len(refs((call.outputs,))) > 1 else x


RULES: dict[str, Rule] = dict.fromkeys(
    (
        "fake_quantize_per_tensor_affine_cachemask",
        "fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
        "fake_quantize_per_channel_affine_cachemask",
        "fake_quantize_learnable_per_tensor_affine",
        "fake_quantize_learnable_per_channel_affine",
    ),
    _fake_quantize,
)
