"""Operations on single elements: operands are tied, index by index."""

from dataclasses import replace

from boxwood._internal.graph.layout import Layout
from boxwood._internal.graph.propagate import Flow, Rule
from boxwood._internal.graph.recording import Call, Ref, refs

_ZERO_STAYS = [
    "relu",
    "relu6",
    "gelu",
    "silu",
    "mish",
    "tanh",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "abs",
    "neg",
    "square",
    "sqrt",
    "sin",
    "tan",
    "asin",
    "atan",
    "sinh",
    "asinh",
    "round",
    "floor",
    "ceil",
    "trunc",
    "sign",
    "erf",
    "expm1",
    "log1p",
    "hardshrink",
    "softshrink",
    "dropout",
    "native_dropout",
    "feature_dropout",
    "clone",
    "to_copy",
    "to",
    "contiguous",
    "detach",
    "alias",
    "lift_fresh",
    "lift_fresh_copy",
    "rrelu",
    "rrelu_with_noise",
    "positive",
    "nan_to_num",
    "softsign",
    "tanhshrink",
    "div",
    "floor_divide",
    "remainder",
    "fmod",
    "conj",
    "softsign",
    "deg2rad",
    "float",
    "half",
    "double",
    "pin_memory",
    "requires_grad_",
    "to_dense",
    "alpha_dropout",
]
_ZERO_GOES = [
    "sigmoid",
    "hardsigmoid",
    "softplus",
    "log_sigmoid",
    "log_sigmoid_forward",
    "exp",
    "exp2",
    "cos",
    "log",
    "log2",
    "log10",
    "reciprocal",
    "rsqrt",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_not",
    "bitwise_not",
    "isnan",
    "isinf",
    "isfinite",
    "bernoulli",
    "threshold",
    "logit",
    "erfc",
    "erfinv",
    "acos",
    "cosh",
    "digamma",
    "lgamma",
]
_JOIN_ZERO_IF_ALL = [
    "add",
    "sub",
    "rsub",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "logical_or",
    "logical_and",
    "logical_xor",
    "bitwise_or",
    "bitwise_and",
    "bitwise_xor",
    "__or__",
    "__and__",
    "atan2",
    "hypot",
    "addcmul",
    "addcdiv",
    "lerp",
    "heaviside",
    "logaddexp",
    "complex",
    "polar",
]


def _same(flow: Flow, call: Call) -> Layout | tuple[Layout, ...]:
    out = flow.join([flow.of(ref) for ref in refs(tuple(call.args.values()))])
    first = flow.of(refs(tuple(call.args.values()))[0])
    made = replace(out, zero=first.zero and call.name not in _ZERO_GOES)
    return (made, made) if isinstance(call.outputs, tuple) else made


def _joined(flow: Flow, call: Call) -> Layout:
    given = [flow.of(each) for each in call.args.values() if isinstance(each, Ref)]
    plain = [each for key, each in call.args.items()
             if key in ("self", "other") and not isinstance(each, Ref)]  # fmt: skip
    out = flow.join(given)
    zero = all(each.zero for each in given) and all(each == 0 for each in plain)
    return replace(out, zero=zero)


def _product(flow: Flow, call: Call) -> Layout:
    given = [flow.of(each) for each in call.args.values() if isinstance(each, Ref)]
    out = flow.join(given)
    axes = {axis for block in out.blocks for axis in block.axes}

    def covers(each: Layout) -> bool:
        shift = len(out.shape) - len(each.shape)
        return axes <= {a + shift for block in each.blocks for a in block.axes}

    zero = any(each.zero and covers(each) for each in given) or all(each.zero for each in given)
    return replace(out, zero=zero)


def _power(flow: Flow, call: Call) -> Layout:
    out = flow.join([flow.of(each) for each in call.args.values() if isinstance(each, Ref)])
    exponent = call.args.get("exponent")
    zero = isinstance(exponent, int | float) and exponent > 0 and flow.of(call.args["self"]).zero
    return replace(out, zero=zero)


def _masked(flow: Flow, call: Call) -> Layout:
    given = [flow.of(each) for each in call.args.values() if isinstance(each, Ref)]
    value = call.args.get("value")
    return replace(flow.join(given), zero=given[0].zero and (isinstance(value, Ref) or value == 0))


def _where(flow: Flow, call: Call) -> Layout:
    chosen = [flow.of(call.args[key]) for key in ("self", "other") if key in call.args]
    condition = flow.of(call.args["condition"])
    return replace(flow.join([condition, *chosen]), zero=all(each.zero for each in chosen))


def _clamp(flow: Flow, call: Call) -> Layout:
    given = [flow.of(each) for each in call.args.values() if isinstance(each, Ref)]
    low, high = call.args.get("min"), call.args.get("max")
    spans = all(isinstance(each, int | float) or each is None for each in (low, high)) and (
        (low is None or low <= 0) and (high is None or high >= 0)
    )
    return replace(flow.join(given), zero=given[0].zero and spans)


def _copy(flow: Flow, call: Call) -> Layout:
    into, source = flow.of(call.args["self"]), flow.of(call.args["src"])
    return replace(flow.join([into, source]), zero=source.zero)


def _prelu(flow: Flow, call: Call) -> Layout:
    x, slope = flow.of(call.args["self"]), flow.of(call.args["weight"])
    if slope.shape != (1,) and slope.shape != () and len(slope.shape) == 1:
        x, ids = flow.axis(x, 1)
        slope = replace(slope, shape=(slope.shape[0],))
        ids = flow.tied(ids, slope.ids(0))
        return x.with_ids(1, ids) if ids is not None else flow.kept_whole(x, [1])
    return replace(flow.join([x, slope]), zero=x.zero)


def _constant(flow: Flow, call: Call) -> Layout:
    """Writes one number everywhere, whatever was there."""
    value = call.args.get("value")
    return replace(flow.of(call.args["self"]), zero=value == 0 or call.name == "zero")


def _like(flow: Flow, call: Call) -> Layout:
    value = call.args.get("fill_value", 0 if call.name == "zeros_like" else 1)
    return replace(flow.of(call.args["self"]), zero=value == 0)


RULES: dict[str, Rule] = {
    **dict.fromkeys(_ZERO_STAYS, _same),
    **dict.fromkeys(_ZERO_GOES, _same),
    **dict.fromkeys(_JOIN_ZERO_IF_ALL, _joined),
    "mul": _product,
    "pow": _power,
    "masked_fill": _masked,
    "where": _where,
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _clamp),
    "copy": _copy,
    **dict.fromkeys(("prelu", "prelu_kernel"), _prelu),
    **dict.fromkeys(("fill", "zero", "uniform", "normal", "random", "exponential"), _constant),
    **dict.fromkeys(
        ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"), _like
    ),
}
