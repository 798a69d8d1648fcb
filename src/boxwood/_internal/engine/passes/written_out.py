"""Replace normalisation and attention that a network's code writes out by torch's operators.

    x * rsqrt(mean(x * x) + ε) * weight                  rms_norm
    (x − mean(x)) / sqrt(variance(x) + ε) * weight + b   layer_norm
    softmax(scale · q kᵀ + mask) v                       scaled_dot_product_attention

Over the last axis, in any order of factors; squares, roots and quotients in any of their forms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from boxwood._internal.engine.program import (
    Op,
    Program,
    TorchOp,
    ValueRef,
    readers_of,
    without_unused,
)


def recognise_written_out(program: Program) -> Program:
    """Return the program with one operator for what several write out."""
    reader = _Reader(program)
    replaced: dict[int, TorchOp] = {}  # by the value that it makes
    for op in program.ops:
        if not isinstance(op, TorchOp) or len(op.writes) != 1:
            continue
        found = _norm(reader, op) or _attention(reader, op)
        if found is not None:
            replaced[found.writes[0]] = found
    ops = tuple(replaced.get(op.writes[0], op) if op.writes else op for op in program.ops)
    return without_unused(replace(program, ops=ops))


class _Reader:
    """Asks what made a value."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._makers: Mapping[int, Op] = {v: op for op in program.ops for v in op.writes}
        self._readers = readers_of(program)

    def made(self, argument: Any, *names: str) -> TorchOp | None:
        """Return the operator of one of these names that made an argument."""
        op = self._makers.get(argument.value) if type(argument) is ValueRef else None
        return op if isinstance(op, TorchOp) and op.target.removeprefix("aten.") in names else None

    def next(self, value: int) -> TorchOp | None:
        """Return the only reader of a value."""
        positions = self._readers[value]
        if len(positions) != 1 or positions[0] >= len(self.program.ops):
            return None
        op = self.program.ops[positions[0]]
        return op if isinstance(op, TorchOp) and len(op.writes) == 1 else None

    def shape(self, argument: Any) -> tuple[Any, ...]:
        return self.program.values[argument.value].shape

    def is_float(self, argument: Any) -> bool:
        return type(argument) is ValueRef and (
            self.program.values[argument.value].dtype == torch.float32
        )

    def per_feature(self, argument: Any, x: ValueRef) -> bool:
        """Say whether an argument is a constant with a number for each entry of x's last axis."""
        if type(argument) is not ValueRef or argument.value not in self.program.constants:
            return False
        return self.shape(argument) == self.shape(x)[-1:] and self.is_float(argument)


def _pairs(op: TorchOp) -> tuple[tuple[Any, Any], ...]:
    """Return both orders of an operator's two operands."""
    one, two = op.args[:2]
    return (one, two), (two, one)


@dataclass(frozen=True)
class _Core:
    """``x / √(mean of squares + ε)``, of x or of x without its mean."""

    x: ValueRef
    epsilon: float
    centred: bool


def _norm(reader: _Reader, op: TorchOp) -> TorchOp | None:
    core = _core(reader, op)
    if core is None or not isinstance(reader.shape(core.x)[-1], int):
        return None
    end, weight, bias = op, None, None
    following = reader.next(end.writes[0])
    if following is not None and following.target == "aten.mul.Tensor":
        weight = _other(reader, following, end, core.x)
        end = following if weight is not None else end
        following = reader.next(end.writes[0])
    if core.centred and following is not None and following.target == "aten.add.Tensor":
        bias = _other(reader, following, end, core.x) if len(following.args) == 2 else None
        end = following if bias is not None else end
    size = (reader.shape(core.x)[-1],)
    if core.centred:
        args: tuple[Any, ...] = (core.x, size, weight, bias, core.epsilon)
        return TorchOp("aten.layer_norm.default", args, (), end.writes)
    args = (core.x, size, weight, core.epsilon)
    return TorchOp("aten.rms_norm.default", args, (), end.writes)


def _other(reader: _Reader, op: TorchOp, before: TorchOp, x: ValueRef) -> ValueRef | None:
    """Return the constant for each feature that an operator joins with what was before."""
    for one, two in _pairs(op):
        if one == ValueRef(before.writes[0]) and reader.per_feature(two, x):
            found: ValueRef = two
            return found
    return None


def _core(reader: _Reader, op: TorchOp) -> _Core | None:
    name = op.target.removeprefix("aten.")
    if name == "div.Tensor" and len(op.args) == 2:
        root = reader.made(op.args[1], "sqrt.default")
        return _whole(reader, op.args[0], root.args[0] if root else None)
    if name != "mul.Tensor":
        return None
    for x, factor in _pairs(op):
        inverse = reader.made(factor, "rsqrt.default")
        if inverse is None:
            one_over = reader.made(factor, "reciprocal.default")
            inverse = reader.made(one_over.args[0], "sqrt.default") if one_over else None
        if inverse is None:
            power = reader.made(factor, "pow.Tensor_Scalar")
            inverse = power if power is not None and power.args[1] == -0.5 else None
        found = _whole(reader, x, inverse.args[0] if inverse else None)
        if found is not None:
            return found
    return None


def _whole(reader: _Reader, x: Any, below: Any) -> _Core | None:
    """Return what x is divided by the root of; None if that is not its mean square."""
    added = reader.made(below, "add.Tensor", "add.Scalar")
    if added is None or not reader.is_float(x) or len(added.args) > 2:
        return None
    mean, epsilon = added.args
    if not isinstance(epsilon, float | int):
        return None
    less = reader.made(x, "sub.Tensor")
    centred = (
        less is not None and len(less.args) == 2 and _mean_of(reader, less.args[1]) == less.args[0]
    )
    start = less.args[0] if less is not None and centred else x
    squares = _square_of(reader, _mean_of(reader, mean)) == x
    if squares or (centred and _variance_of(reader, mean) == start):
        return _Core(start, float(epsilon), centred)
    return None


def _mean_of(reader: _Reader, argument: Any) -> Any:
    """Return what an argument is the mean of, over the last axis."""
    op = reader.made(argument, "mean.dim")
    if op is None or op.kwargs or len(op.args) != 3 or not op.args[2]:
        return None
    return op.args[0] if _is_last(reader, op.args[0], op.args[1]) else None


def _variance_of(reader: _Reader, argument: Any) -> Any:
    """Return what an argument is the variance of, over the last axis."""
    op = reader.made(argument, "var.dim", "var.correction")
    if op is None or not _is_last(reader, op.args[0], op.args[1] if len(op.args) > 1 else None):
        return None
    rest = dict(op.kwargs)
    if op.target.endswith("dim"):
        plain = len(op.args) == 4 and not op.args[2] and op.args[3]
    else:
        plain = rest.get("correction") == 0 and rest.get("keepdim")
    return op.args[0] if plain else None


def _is_last(reader: _Reader, x: Any, axes: Any) -> bool:
    return axes in ((-1,), (len(reader.shape(x)) - 1,))


def _square_of(reader: _Reader, argument: Any) -> Any:
    power = reader.made(argument, "pow.Tensor_Scalar")
    if power is not None:
        return power.args[0] if power.args[1] == 2 else None
    square = reader.made(argument, "square.default")
    if square is not None:
        return square.args[0]
    product = reader.made(argument, "mul.Tensor")
    return product.args[0] if product is not None and product.args[0] == product.args[1] else None


def _attention(reader: _Reader, op: TorchOp) -> TorchOp | None:
    """Return attention for ``softmax(q kᵀ · scale + mask) v``, over batch and heads."""
    if op.target != "aten.matmul.default":
        return None
    weights, values = op.args
    soft = reader.made(weights, "softmax.int", "_softmax.default")
    if soft is None or soft.args[1] not in (-1, 3) or len(reader.shape(values)) != 4:
        return None
    if any(part not in (None, torch.float32, False) for part in soft.args[2:]) or soft.kwargs:
        return None
    scores, mask, scale = soft.args[0], None, 1.0
    added = reader.made(scores, "add.Tensor")
    if added is not None and len(added.args) == 2 and type(added.args[1]) is ValueRef:
        scores, mask = next(
            (pair for pair in _pairs(added) if _is_scores(reader, pair[0])), (scores, None)
        )
    scaled = reader.made(scores, "mul.Tensor", "div.Tensor")
    if scaled is not None and isinstance(scaled.args[1], float | int):
        by = float(scaled.args[1])
        scores, scale = scaled.args[0], by if "mul" in scaled.target else 1 / by
    product = reader.made(scores, "matmul.default")
    turned = reader.made(product.args[1], *_TRANSPOSES) if product is not None else None
    if product is None or turned is None or not _swaps_last(turned):
        return None
    if not all(map(reader.is_float, (product.args[0], values, *([mask] if mask else [])))):
        return None
    shapes = [reader.shape(each) for each in (product.args[0], turned.args[0], values)]
    if any(len(shape) != 4 for shape in shapes) or shapes[0][:2] != shapes[2][:2] != shapes[1][:2]:
        return None
    args = (product.args[0], turned.args[0], values, mask, 0.0, False)
    target = "aten.scaled_dot_product_attention.default"
    return TorchOp(target, args, (("scale", scale),), op.writes)


_TRANSPOSES = ("transpose.int", "permute.default", "mT.default", "swapaxes.default")


def _is_scores(reader: _Reader, argument: Any) -> bool:
    """Say whether an argument is a product of two tensors, scaled or not."""
    scaled = reader.made(argument, "mul.Tensor", "div.Tensor")
    inner = argument if scaled is None else scaled.args[0]
    return reader.made(inner, "matmul.default") is not None


def _swaps_last(op: TorchOp) -> bool:
    if op.target.endswith("mT.default"):
        return True
    if "permute" in op.target:
        return tuple(op.args[1]) == (0, 1, 3, 2)
    return {axis % 4 for axis in op.args[1:3]} == {2, 3}
