"""Sums, means, extremes, softmax: what a removed channel would have added."""

from dataclasses import replace
from typing import Any

from boxwood._internal.graph.layout import Layout
from boxwood._internal.graph.propagate import Flow, Rule
from boxwood._internal.graph.recording import Call, Ref


def _axes(x: Layout, given: Any) -> list[int]:
    if given is None or given == ():
        return list(range(len(x.shape)))
    return [axis % len(x.shape) for axis in ([given] if isinstance(given, int) else given)]


def _sum(flow: Flow, call: Call) -> Layout:
    """Sums lose nothing where removed entries are zero."""
    x = flow.of(call.args["self"])
    axes = _axes(x, call.args.get("dim"))
    for axis in axes:
        x, ids = flow.axis(x, axis)
        if ids is not None and not x.zero:
            x = flow.kept_whole(x, [axis])
    return flow.without(x, axes, keepdim=bool(call.args.get("keepdim")))


def _statistic(flow: Flow, call: Call) -> Any:
    """A mean, variance or maximum over channels holds with the kept ones alone."""
    x = flow.of(call.args["self"])
    written = call.args.get("more")
    if written is None:  # inside another function of torch, where it cannot be restated
        return _frozen(flow, call)
    given = written.get("dim", written.get("axis", call.args["dim"]))
    if isinstance(given, Ref):  # the larger of two tensors
        second = flow.of(given)
        return replace(flow.join([x, second]), zero=x.zero and second.zero)
    if isinstance(given, bool):  # of everything
        return _frozen(flow, call)
    keepdim = bool(written.get("keepdim", call.args.get("keepdim")))
    axes = _axes(x, given)
    for axis in axes:
        x, _ = flow.axis(x, axis)
    if given is None:
        x = flow.kept_whole(x, axes)
    flow.restate(call, x, axes)
    rest = flow.without(x, axes, keepdim=keepdim)
    return (rest, rest) if isinstance(call.outputs, tuple) else rest


def _frozen(flow: Flow, call: Call) -> Any:
    """Reads across an axis in a way that no removal leaves alone: the axis stays whole."""
    x = flow.of(call.args["self"])
    given = call.args.get("dim")
    axes = _axes(x, given) if isinstance(given, int | tuple | list) else range(len(x.shape))
    x = replace(flow.kept_whole(x, axes), zero=False)

    def shaped(ref: Any) -> Layout:
        shape = flow.shape(ref)
        if shape == x.shape:
            return x
        if len(shape) == len(x.shape):
            return Layout(shape, x.blocks)
        if len(shape) == len(x.shape) - len(list(axes)):
            return flow.without(x, list(axes), keepdim=False)
        flow.kept_whole(x, range(len(x.shape)))
        return Layout(shape)

    outs = call.outputs
    return [shaped(each) for each in outs] if isinstance(outs, tuple) else shaped(outs)


def _glu(flow: Flow, call: Call) -> Layout:
    x, dim = flow.of(call.args["self"]), call.args["dim"]
    x, ids = flow.axis(x, dim)
    if ids is None:
        return replace(x, shape=flow.shape(call.outputs))
    half = len(ids) // 2
    flow.labels.tie(ids[:half], ids[half:])
    return x.with_ids(dim, ids[:half])


def _cdist(flow: Flow, call: Call) -> Layout:
    for key in ("x1", "x2"):
        layout = flow.of(call.args[key])
        flow.kept_whole(layout, range(len(layout.shape)))
    return Layout(flow.shape(call.outputs))


RULES: dict[str, Rule] = {
    "sum": _sum,
    **dict.fromkeys(("mean", "amax", "max", "var"), _statistic),
    **dict.fromkeys(
        ("softmax", "log_softmax", "logsumexp", "cumsum", "cumprod", "topk", "sort", "argsort",
         "argmax", "argmin", "min", "amin", "prod", "median", "kthvalue", "std", "var_mean",
         "std_mean", "mode", "any", "all", "count_nonzero", "diff", "logcumsumexp", "cummax",
         "cummin", "aminmax", "unique_consecutive", "nonzero", "softmax_backward_data",
         "safe_softmax", "sparse_softmax", "renorm", "fft_fft2", "fft_r2c", "fft_c2r", "fft_c2c",
         "histc", "bincount", "equal", "is_nonzero", "local_scalar_dense", "searchsorted",
         "bucketize", "multinomial", "trapezoid", "nanmean", "one_hot", "linalg_qr", "inverse",
         "native_group_norm", "native_batch_norm", "native_batch_norm_legit_no_training"), _frozen
    ),
    "glu": _glu,
    "cdist_forward": _cdist,
}  # fmt: skip
