"""Pooling and resampling: positions mix, channels do not."""

from dataclasses import replace
from typing import Any

from boxwood._internal.graph.layout import Layout
from boxwood._internal.graph.propagate import Flow, Rule
from boxwood._internal.graph.recording import Call, Ref


def _positions(count: int) -> Rule:
    def rule(flow: Flow, call: Call) -> Any:
        """Keep the last axes whole; what is before them passes."""
        x = flow.of(call.args.get("self", call.args.get("input")))
        for ref in call.args.values():
            if isinstance(ref, Ref) and ref not in (call.args.get("self"), call.args.get("input")):
                layout = flow.of(ref)
                flow.kept_whole(layout, range(len(layout.shape)))
        x = flow.kept_whole(x, range(len(x.shape) - count, len(x.shape)))

        def shaped(ref: Ref) -> Layout:
            return replace(x, shape=flow.shape(ref))

        outs = call.outputs
        return [shaped(each) for each in outs] if isinstance(outs, tuple) else shaped(outs)

    return rule


def _adaptive(count: int) -> Rule:
    pool = _positions(count)

    def rule(flow: Flow, call: Call) -> Any:
        """Pool to a size that the code writes, which has to stay."""
        sizes = call.args["output_size"]
        for size in sizes if isinstance(sizes, tuple | list) else (sizes,):
            flow.expect(call, size, None)
        return pool(flow, call)

    return rule


def _unpool(count: int) -> Rule:
    def rule(flow: Flow, call: Call) -> Layout:
        """Put values to where the maxima were: both have the same channels."""
        x = flow.of(call.args.get("input", call.args.get("self")))
        tied = flow.join([x, flow.of(call.args["indices"])])
        tied = flow.kept_whole(tied, range(len(tied.shape) - count, len(tied.shape)))
        for size in tuple(call.args["output_size"] or ())[-count:]:
            flow.expect(call, size, None)
        assert isinstance(call.outputs, Ref)  # noqa: S101 - it has one output
        return replace(tied, shape=flow.shape(call.outputs), zero=x.zero)

    return rule


def _roi_align(flow: Flow, call: Call) -> Any:
    x = flow.of(call.args["input"])
    x = flow.kept_whole(x, [axis for axis in range(len(x.shape)) if axis != 1])
    rois = flow.of(call.args["rois"])
    flow.kept_whole(rois, range(len(rois.shape)))
    outs = call.outputs
    made = Layout(flow.shape(outs[0] if isinstance(outs, tuple) else outs), x.blocks, x.zero)
    return [made, None] if isinstance(outs, tuple) else made


_ONE = "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d upsample_linear1d max_pool1d_with_indices upsample_nearest_exact1d"
_TWO = """max_pool2d max_pool2d_with_indices avg_pool2d adaptive_max_pool2d
    upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_bilinear2d_aa
    upsample_bicubic2d_aa upsample_nearest_exact2d grid_sampler grid_sampler_2d lp_pool2d
    mkldnn_max_pool2d fractional_max_pool2d"""
_THREE = """max_pool3d max_pool3d_with_indices avg_pool3d adaptive_max_pool3d
    upsample_nearest3d upsample_trilinear3d grid_sampler_3d"""

RULES: dict[str, Rule] = {
    **{name: _positions(1) for name in _ONE.split()},
    **{name: _positions(2) for name in _TWO.split()},
    **{name: _positions(3) for name in _THREE.split()},
    "adaptive_avg_pool2d": _adaptive(2),
    "adaptive_avg_pool3d": _adaptive(3),
    "max_unpool1d": _unpool(1),
    "max_unpool2d": _unpool(2),
    "max_unpool3d": _unpool(3),
    "roi_align": _roi_align,
}
