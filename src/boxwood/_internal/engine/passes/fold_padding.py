"""Zeros that are put around an image, into the convolution that reads them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from boxwood._internal.engine.program import Op, Program, TorchOp, without_unused

_PADS = ("aten.pad.default", "aten.constant_pad_nd.default")
_PADDING = 4
"""Place of this argument of a convolution."""


def fold_padding(program: Program) -> Program:
    """Return the program whose convolutions pad by themselves what was padded alike on both sides."""
    makers: Mapping[int, Op] = {value: op for op in program.ops for value in op.writes}
    ops = []
    for op in program.ops:
        pad = makers.get(op.reads[0]) if op.reads else None
        ops.append(_folded(op, pad) or op)
    return without_unused(replace(program, ops=tuple(ops)))


def _folded(op: Op, pad: Op | None) -> TorchOp | None:
    if not isinstance(op, TorchOp) or op.target != "aten.conv2d.default" or op.kwargs:
        return None
    if not isinstance(pad, TorchOp) or pad.target not in _PADS or pad.kwargs:
        return None
    source, sizes, *rest = pad.args
    if len(sizes) != 4 or any(type(size) is not int or size < 0 for size in sizes):
        return None
    left, right, top, bottom = sizes
    plain = all(each in ("constant", None, 0) for each in rest)
    if not plain or left != right or top != bottom:
        return None
    args: list[Any] = [*op.args, *[None, 1, 0][len(op.args) - 2 :]]
    own = args[_PADDING] if isinstance(args[_PADDING], tuple) else (args[_PADDING],)
    args[0], args[_PADDING] = source, (own[0] + top, own[-1] + left)
    return replace(op, args=tuple(args))
