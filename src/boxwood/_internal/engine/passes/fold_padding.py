"""Fold zeros that are padded around an image into the convolutions that read them."""

from collections.abc import Mapping
from dataclasses import replace

from boxwood._internal.engine.ops import Convolve, NativeOp
from boxwood._internal.engine.program import Op, Program, TorchOp, without_unused

_PADS = ("aten.pad.default", "aten.constant_pad_nd.default")


def fold_padding(program: Program) -> Program:
    """Return the program whose convolutions put the zeros around their images themselves."""
    makers: Mapping[int, Op] = {value: op for op in program.ops for value in op.writes}
    ops = []
    for op in program.ops:
        pad = makers.get(op.reads[0]) if op.reads else None
        ops.append(_folded(op, pad) or op)
    return without_unused(replace(program, ops=tuple(ops)))


def _folded(op: Op, pad: Op | None) -> NativeOp | None:
    if not isinstance(op, NativeOp) or not isinstance(op.kind, Convolve):
        return None
    if not isinstance(pad, TorchOp) or pad.target not in _PADS or pad.kwargs:
        return None
    source, sizes, *rest = pad.args
    plain = all(each in ("constant", None, 0) for each in rest)
    if not plain or len(sizes) != 4 or any(type(size) is not int or size < 0 for size in sizes):
        return None
    left, right, top, bottom = sizes
    kind = op.kind
    own = kind.padding if kind.after is None else kind.after
    before = (kind.padding[0] + top, kind.padding[1] + left)
    after = (own[0] + bottom, own[1] + right)
    kind = replace(kind, padding=before, after=None if after == before else after)
    return replace(op, kind=kind, sources=(source.value, *op.sources[1:]))
