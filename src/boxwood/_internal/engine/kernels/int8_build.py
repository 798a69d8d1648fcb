"""Kernels of convolutions on bytes: how their weights are packed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine import weight_streams
from boxwood._internal.engine.kernels import int8_columns, int8_rows, rows
from boxwood._internal.engine.kernels.contract import Code, Kernel, Pointer
from boxwood._internal.engine.kernels.conv import input_source
from boxwood._internal.engine.kernels.int8_conv import Int8Conv, Weight, epilogue
from boxwood._internal.engine.kernels.packing import ConvPacking, Rates, registers_per_tile, usual
from boxwood._internal.engine.kernels.quads import QUAD, quad_count, to_bytes, to_words
from boxwood._internal.engine.kernels.tiling import column_offsets, runs, tile
from boxwood._internal.engine.layouts import FLOATS_PER_LINE, Array, lines, position_mask
from boxwood._internal.engine.targets import Dots, Target
from boxwood._internal.engine.weight_streams import StreamParts, WeightStream
from boxwood.errors import InvalidInput

PAIR_LIMIT = 128
"""What the weights of two neighbours may add up to, each sign by itself, so that products with
bytes up to 255 fit 16 bits: 255 · 128 = 32,640."""

SPARSE, DENSE = 0.35, 0.8
"""Shares of quads with weights, between which rows one by one and in blocks are both tried."""

COLUMNS = 256
"""Columns that a byte counts."""


@dataclass(frozen=True)
class Int8Packing:
    """How the weight of bytes is packed.

    Args:
        conv: tiles and blocks, as of floats; a block has at most 256 columns.
        wide: products of neighbours may exceed 16 bits.
        distances: columns are packed as in `int8_columns`, else a byte each; a kernel's packing says it.
    """

    conv: ConvPacking
    wide: bool
    distances: bool = False


def exceeds_pairs(weight: Weight) -> bool:
    """Say whether products of two neighbouring input channels may exceed 16 bits.

    Args:
        weight: [out, in, rows, columns], or words of four weights.

    Example:
        >>> exceeds_pairs(np.array([[127, 2]], np.int8)), exceeds_pairs(np.array([[127, -127]], np.int8))
        (True, False)
    """
    wide = weight.reshape(*weight.shape[:2], -1).astype(np.int16)
    wide = np.pad(wide, ((0, 0), (0, wide.shape[1] % 2), (0, 0)))
    pairs = wide.reshape(len(wide), -1, 2, wide.shape[2])
    most = np.maximum(np.maximum(pairs, 0).sum(2), -np.minimum(pairs, 0).sum(2))
    return bool((most > PAIR_LIMIT).any())


def build(
    problem: Int8Conv,
    weight: Weight | StreamParts,
    constants: Array,
    target: Target,
    *,
    packing: Int8Packing | None = None,
    threads: int = 1,
) -> Kernel:
    """Pack the weight for a kernel of the target.

    Args:
        problem: the convolution.
        weight: [out, in / groups, rows, columns], or what a file holds of it.
        constants: [2, out]: what one unit of a row's sum is worth, and what is added.
        target: the family that runs it.
        packing: how; the usual way when None.
        threads: threads that share the work.

    Raises:
        InvalidInput: the weight's shape is not the problem's.
    """
    if isinstance(weight, StreamParts):
        if packing is None:
            raise TypeError("a packed weight says how it is packed")
        if not packing.wide and exceeds_pairs(weight.values.view(np.int8).reshape(-1, QUAD)):
            packing = replace(packing, wide=True)
    else:
        if weight.shape != problem.weight_shape or weight.dtype != np.int8:
            raise InvalidInput(
                f"Expected an int8 weight of shape {problem.weight_shape}, got {weight.dtype} of "
                f"{weight.shape}; give the weight as torch holds it."
            )
        if packing is None:
            packing = usual_packing(problem, weight, target, threads)
        packing = Int8Packing(packing.conv, exceeds_pairs(weight))
    if target.dots is not Dots.PAIRS:
        packing = replace(packing, wide=False)
    conv = _fitted(problem, packing.conv)
    packing = replace(packing, conv=conv, distances=conv.height == 1)
    stream = _stream(problem, weight, packing.conv)
    first = starts(stream, target)
    if not packing.distances:
        stream = narrow(stream)
    elif isinstance(weight, StreamParts):
        stream = int8_columns.placed(stream, weight.indices)  # which may stay where the file is
    else:
        stream = int8_columns.packed(stream)
    return _kernel(problem, stream, first, constants, target, packing)


def resized(
    problem: Int8Conv, other: Int8Conv, kernel: Kernel, constants: Array | None, target: Target
) -> Kernel | None:
    """Return the kernel of the same layer at another size, which shares the packed weight.

    Args:
        problem: the convolution.
        other: that of the kernel.
        kernel: with the weight.
        constants: as in `build`.
        target: the family that runs it.

    Returns:
        None where the weight would be packed in another way at this size.
    """
    how = kernel.packing.conv
    registers = lines(problem.shape.target.span) // target.lanes
    most = registers_per_tile(how.height, problem.columns, target)
    tiles = math.ceil(registers / most)
    conv = replace(how, vectors=math.ceil(registers / tiles))
    same = type(input_source(problem.shape, conv)) is type(input_source(other.shape, how))
    if constants is None or not same or problem.weight_shape != other.weight_shape:
        return None
    numbers: Any = dict(zip(int8_rows.NUMBERS, kernel.slots, strict=False))
    held: Any = dict(zip(int8_rows.ADDRESSES, kernel.constants, strict=True))
    records = held["records"].copy()
    records["source"] = 0
    stream = WeightStream(
        ((numbers["last_row"] + 1) * problem.shape.groups, problem.columns), how.height, how.block,
        numbers["chunks"], numbers["chunk_rows"] // how.height,
        records.reshape(numbers["chunks"], -1), held["headers"], held["indices"],
        held["values"].reshape(-1, how.height),
    )  # fmt: skip
    packing = replace(kernel.packing, conv=conv)
    return _kernel(problem, stream, held["starts"], constants, target, packing)


def _stream(problem: Int8Conv, weight: Weight | StreamParts, packing: ConvPacking) -> WeightStream:
    """The weight as words of non-zero quads."""
    groups = problem.shape.groups
    rows_ = quad_count(problem.outputs) * QUAD if problem.out else problem.outputs
    multiple = QUAD // math.gcd(QUAD, packing.height)  # no word is shared by threads
    settings = {
        "height": packing.height, "block": packing.block, "chunks": packing.chunks,
        "multiple": multiple,
    }  # fmt: skip
    if isinstance(weight, StreamParts):
        parts = int8_columns.with_columns(weight) if packing.height == 1 else weight
        return weight_streams.from_parts(
            parts, (rows_ // groups, problem.columns), groups=groups, **settings
        )
    matrix = to_words(weight).reshape(len(weight), -1)
    matrix = np.pad(matrix, ((0, rows_ - len(matrix)), (0, 0)))
    reach = int8_columns.REACH if packing.height == 1 else None
    return weight_streams.concatenate(
        [
            weight_streams.from_dense(part, reach=reach, **settings)
            for part in np.split(matrix, groups)
        ]
    )


def narrow(stream: WeightStream) -> WeightStream:
    """Return a stream whose columns take a byte instead of two."""
    records = stream.records.copy()
    records["indices"] //= 2
    return replace(stream, records=records, indices=stream.indices.astype(np.uint8))


def unpack(kernel: Kernel, shape: Sequence[int], groups: int) -> Weight:
    """Return the weight that a kernel holds.

    Args:
        kernel: made by `build`.
        shape: of the weight, [out, in / groups, ...].
        groups: of the convolution.
    """
    records, headers, indices, values = kernel.constants[:4]
    if kernel.packing.distances:
        indices = int8_columns.unpacked(headers, indices)
    inner, taps = quad_count(shape[1]), math.prod(shape[2:])
    words = weight_streams.unpack(
        records, headers, indices, values.reshape(-1, kernel.packing.conv.height),
        (shape[0], inner * taps), groups,
    )  # fmt: skip
    bytes_ = to_bytes(words.reshape(shape[0], inner, taps), shape[1])
    return bytes_.view(np.int8).reshape(shape)


def _kernel(
    problem: Int8Conv,
    stream: WeightStream,
    first: NDArray[np.int32],
    constants: Array,
    target: Target,
    how: Int8Packing,
) -> Kernel:
    shape, packing = problem.shape, how.conv
    source, out = shape.source, shape.target
    taps, groups = math.prod(shape.kernel), shape.groups
    tiling = tile(out.span, packing.vectors, target.lanes)
    mode = input_source(shape, packing)
    block = packing.block
    at = stream.records.reshape(groups, -1, stream.records.shape[1])
    inner = source.channels // groups
    at["source"] += 4 * source.plane * inner * np.arange(groups)[:, None, None]
    gathered = isinstance(mode, rows.Gathered)
    if not gathered:
        at["source"] += 4 * source.plane * (at["first"] // taps)
    places = column_offsets(source, inner, shape.kernel, shape.padding, shape.dilation)
    copies, begins = np.zeros((1, 3), np.int32), np.zeros(tiling.tiles + 1, np.int32)
    if isinstance(mode, rows.Gathered) and mode.step:
        copies, begins = runs(source, out, shape.stride, tiling)
    count = {rows.Pitch: 1, rows.Table: block}.get(type(mode), len(places))  # that kernels read
    copied = (block + 2) * tiling.nbytes if gathered else 0  # runs overrun the last column
    chunk_rows = stream.chunk * packing.height
    sums = chunk_rows * tiling.nbytes if stream.records.shape[1] > 1 else 0
    rows_ = stream.shape[0] // groups
    numbers = {
        "tiles": tiling.tiles,
        "wide": tiling.wide,
        "chunks": stream.chunks,
        "blocks": stream.records.shape[1],
        "source_image": 4 * source.image,
        "source_origin": 4 * source.origin,
        "target_image": 4 * out.image,
        "target_plane": 4 * out.plane,
        "target_origin": 4 * out.origin,
        "target_end": 4 * (out.origin + lines(out.span)),
        "last_row": rows_ - 1,
        "group_chunks": stream.chunks // groups,
        "chunk_rows": chunk_rows,
        "scratch_bytes": copied + sums,
        "pitch": tiling.nbytes if gathered else 4 * source.plane,
        "sums": copied,
    }
    scale, offset, settings = epilogue(problem, constants)
    held = {
        "records": stream.records.ravel(),
        "headers": stream.headers,
        "indices": stream.indices,
        "values": stream.values.ravel(),
        "scales": scale,
        "offsets": offset,
        "settings": settings,
        "starts": first,
        "mask": position_mask(out, target.lanes),
        "places": places[:count],
        "runs": copies.ravel(),
        "run_starts": begins,
    }
    text = int8_rows.Specialisation(
        tiling.vectors,
        packing.height,
        mode,
        shape.activation,
        shape.residual,
        masked=out.span % FLOATS_PER_LINE > 0 or out.row_stride > out.width,
        bytes=problem.out is not None,
        wide=how.wide,
    )
    return Kernel(
        Code(text.entry(target), lambda: int8_rows.emit(text, target)),
        (
            *(numbers[name] for name in int8_rows.NUMBERS),
            *(Pointer(index) for index in range(len(held))),
        ),
        tuple(held[name] for name in int8_rows.ADDRESSES),
        scratch=numbers["scratch_bytes"],
        units=tiling.tiles * stream.chunks,
        note=f"{how}",
        packing=how,
    )


def starts(stream: WeightStream, target: Target) -> NDArray[np.int32]:
    """Where both factors have signs, bytes are less by 128: what that takes off each row's sum."""
    if target.dots is not Dots.SIGNED:
        return np.zeros(1, np.int32)
    weights = weight_streams.to_dense(stream).view(np.int8)
    return np.asarray(128 * weights.astype(np.int64).sum(1), np.int32)


def usual_packing(
    problem: Int8Conv, weight: Weight, target: Target, threads: int = 1
) -> Int8Packing:
    """The packing of a weight when nothing is measured.

    Args:
        problem: the convolution.
        weight: its weight.
        target: the family that runs it.
        threads: threads that share the work.
    """
    shape = problem.shape
    words = to_words(weight).reshape(shape.groups, problem.outputs // shape.groups, -1)
    taps = math.prod(shape.kernel)
    conv = usual(words, shape.target.span, taps, target, threads=threads)
    if density(weight) < SPARSE:  # long rows take fewer headers and no partial sums
        parts = math.ceil(problem.columns / COLUMNS)
        conv = replace(conv, block=math.ceil(problem.columns / parts))
    return Int8Packing(conv, exceeds_pairs(weight))


def neighbours(
    problem: Int8Conv, first: Int8Packing, weight: Weight, target: Target, threads: int
) -> Iterator[Int8Packing]:
    """Packings that are worth a measurement, the usual one first."""
    rates = (Rates(single=1, blocked=10), Rates(single=10, blocked=1))  # rows, and blocks of rows
    shape = problem.shape
    words = to_words(weight).reshape(shape.groups, problem.outputs // shape.groups, -1)
    taps = math.prod(shape.kernel)
    tried = [first.conv]
    share = density(weight)
    for each in rates[0 if share < DENSE else 1 :][: 1 + (SPARSE < share < DENSE)]:
        conv = usual(words, shape.target.span, taps, target, threads=threads, rates=each)
        others = (replace(conv, gathered=not conv.gathered),) if taps > 1 else ()
        for near in (conv, *others):
            tried += [near, *(replace(near, block=block) for block in (128, COLUMNS))]
    for packing in dict.fromkeys(_fitted(problem, each) for each in tried):
        yield replace(first, conv=packing)


def density(weight: Weight) -> float:
    """The share of quads of input channels that hold a weight.

    Example:
        >>> float(density(np.array([[1, 0, 0, 0, 0]], np.int8)))
        0.5
    """
    words = to_words(weight)
    return np.count_nonzero(words) / max(words.size, 1)


def _fitted(problem: Int8Conv, packing: ConvPacking) -> ConvPacking:
    """The packing with blocks whose columns a byte counts, of whole quads where blocks share places."""
    block = min(packing.block, COLUMNS)
    if isinstance(input_source(problem.shape, packing), rows.Table):
        taps = math.prod(problem.shape.kernel)
        if taps > COLUMNS:
            return replace(packing, block=block, gathered=True)
        block = max(1, block // taps) * taps
    return replace(packing, block=block)
