"""Joins and splits: pieces keep their labels, and equal pieces stay equal."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from boxwood._internal.graph.labels import Ids
from boxwood._internal.graph.layout import Layout, inserted, selected
from boxwood._internal.graph.propagate import Flow, Rule
from boxwood._internal.graph.recording import Call
from boxwood._internal.graph.rules.indexing import out_shape


def _cat(flow: Flow, call: Call) -> Layout:
    given = [each for each in call.args["tensors"] if flow.shape(each) != (0,)]
    dim = call.args["dim"] if call.args["dim"] is not None else 0
    parts, pieces = [], []
    for each in given:
        part, ids = flow.axis(flow.of(each), dim)
        axis = dim % len(part.shape)
        pieces.append(np.zeros(part.shape[axis], dtype=np.int64) if ids is None else ids)
        bare = tuple(block for block in part.blocks if axis not in block.axes)
        parts.append(
            replace(part, shape=(*part.shape[:axis], 1, *part.shape[axis + 1 :]), blocks=bare)
        )
    out = replace(flow.join(parts), zero=all(part.zero for part in parts))
    ids = np.concatenate(pieces)
    if not flow.labels.roots(ids).any():
        return replace(out, shape=out_shape(flow, call))
    return out.with_ids(dim, ids)


def _stack(flow: Flow, call: Call) -> Layout:
    parts = [flow.of(each) for each in call.args["tensors"]]
    out = replace(flow.join(parts), zero=all(part.zero for part in parts))
    return inserted(out, call.args["dim"] % (len(out.shape) + 1), len(parts))


def _pieces(
    flow: Flow, x: Layout, dim: int, sizes: Sequence[int]
) -> list[tuple[Layout, Ids | None]]:
    x, ids = flow.axis(x, dim)
    axis = dim % len(x.shape)
    out, start = [], 0
    for size in sizes:
        if ids is None:
            piece = None
            made = replace(x, shape=(*x.shape[:axis], int(size), *x.shape[axis + 1 :]))
        else:
            piece = ids[start : start + int(size)]
            made = x.with_ids(axis, piece)
        out.append((made, piece))
        start += int(size)
    return out


def _split(flow: Flow, call: Call) -> list[Layout]:
    x, dim = flow.of(call.args["self"]), call.args.get("dim", 0)
    written = "split_size_or_sections" in call.args
    given: Any = call.args.get("split_size_or_sections")
    if given is None:  # by keyword, or inside another function of torch
        named = call.args.get("named", call.args)
        given = named["split_size"] if "split_size" in named else named["split_sizes"]
    size = x.shape[dim]
    for bound in given if isinstance(given, tuple | list) else (given,):
        flow.bound(x, dim, bound)
    if isinstance(given, tuple | list):
        pieces = _pieces(flow, x, dim, given)
        for each, (_, ids) in zip(given, pieces, strict=True):
            flow.expect(call, each, ids)
        return [made for made, _ in pieces]
    each = int(given)
    count = -(-size // each)
    pieces = _pieces(flow, x, dim, [min(each, size - i * each) for i in range(count)])
    _tie_pieces(flow, [ids for _, ids in pieces], written=written, call=call, size=given)
    return [made for made, _ in pieces]


def _chunk(flow: Flow, call: Call) -> list[Layout]:
    x, dim = flow.of(call.args["self"]), call.args["dim"]
    sizes = [flow.shape(ref)[dim] for ref in call.outputs]
    flow.expect(call, call.args["chunks"], None)
    pieces = _pieces(flow, x, dim, sizes)
    _tie_pieces(flow, [ids for _, ids in pieces], written=False, call=call, size=None)
    return [made for made, _ in pieces]


def _tie_pieces(
    flow: Flow, pieces: list[Ids | None], *, written: bool, call: Call, size: Any
) -> None:
    """Pieces of one size must stay of one size: index by index they are kept or pruned together."""
    if pieces[0] is None or len(pieces) == 1:
        if written:
            flow.expect(call, size, pieces[0])
        return
    for piece in pieces[1:]:
        if piece is not None and len(piece) == len(pieces[0]):
            flow.labels.tie(pieces[0], piece)
        else:  # a shorter last piece: nothing about it would stay true
            for each in pieces:
                flow.tied(each, None)
            break
    if written:
        flow.expect(call, size, pieces[0])


def _unbind(flow: Flow, call: Call) -> list[Layout]:
    x, dim = flow.of(call.args["self"]), call.args["dim"]
    block = x.block(dim % len(x.shape))
    if block is not None and len(block.axes) == 1:
        x = flow.kept_whole(x, [dim])
    return [selected(flow.labels, x, dim, index) for index in range(x.shape[dim])]


def _meshgrid(flow: Flow, call: Call) -> Any:
    for ref in call.args["tensors"]:
        layout = flow.of(ref)
        flow.kept_whole(layout, range(len(layout.shape)))
    return None


RULES: dict[str, Rule] = {
    "cat": _cat,
    "stack": _stack,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "chunk": _chunk,
    "unbind": _unbind,
    "meshgrid": _meshgrid,
}
