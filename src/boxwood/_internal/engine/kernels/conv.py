"""Convolution and linear layers on channel planes: the problem, its reference, its kernel."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from boxwood._internal.engine import weight_streams
from boxwood._internal.engine.kernels import activations, depthwise, rows
from boxwood._internal.engine.kernels.contract import Activation, Code, Kernel, Pointer
from boxwood._internal.engine.kernels.packing import ConvPacking, Rates, registers_per_tile, usual
from boxwood._internal.engine.kernels.tiling import column_offsets, runs, tile
from boxwood._internal.engine.layouts import (
    FLOATS_PER_LINE,
    Array,
    Planes,
    columns,
    lines,
    position_mask,
)
from boxwood._internal.engine.targets import Target
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class Conv:
    """``y = activation(weight ∗ x + bias + residual)``, a cross-correlation as in torch.

    Args:
        source: layout of x. Padding of k×k kernels needs a halo of at least as much.
        target: layout of y and of the residual; its height and width say how far to go.
        kernel: rows and columns of a filter.
        stride: steps between outputs, down and right.
        padding: zeros above the first row and left of the first column.
        dilation: steps between the taps of a filter.
        groups: groups of channels that do not mix.
        activation: what is applied last.
        residual: whether a second input is added before the activation.
    """

    source: Planes
    target: Planes
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: Activation = Activation.NONE
    residual: bool = False

    def __post_init__(self) -> None:
        if self.source.channels % self.groups or self.target.channels % self.groups:
            raise InvalidInput(
                f"Expected channels that {self.groups} groups divide, got {self.source.channels} "
                f"in and {self.target.channels} out; give groups that divide both."
            )
        for axis in (0, 1):
            size, out = self.source.shape[1 + axis], self.target.shape[1 + axis]
            before = self.padding[axis]
            last = (out - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis]
            after = last - before - (size - 1)
            if max(before, after) > self.source.halo and self.kernel != (1, 1):
                raise InvalidInput(
                    f"Expected a halo of at least {max(before, after)} around the input, got "
                    f"{self.source.halo}; lay the input out with a wider halo."
                )
            if after > self.source.halo:
                raise InvalidInput(
                    f"Expected outputs that stay within the input, got {out} outputs of stride "
                    f"{self.stride[axis]} from {size} inputs; give the target's true size."
                )

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Specialisation of the weight as torch holds it."""
        return (self.target.channels, self.source.channels // self.groups, *self.kernel)

    @property
    def depthwise(self) -> bool:
        """Every channel has its own filter, nothing is added, and vectors can stride over rows."""
        return (
            self.groups == self.source.channels == self.target.channels
            and not self.residual
            and self.stride[1] <= 2
        )


def linear(
    inputs: int,
    outputs: int,
    tokens: int,
    *,
    activation: Activation = Activation.NONE,
    residual: bool = False,
) -> Conv:
    """A linear layer over many tokens, as a 1×1 convolution over columns.

    Example:
        >>> linear(768, 3072, 128).weight_shape
        (3072, 768, 1, 1)
    """
    return Conv(
        columns(inputs, tokens),
        columns(outputs, tokens),
        activation=activation,
        residual=residual,
    )


def reference(
    problem: Conv, x: Array, weight: Array, bias: Array | None, residual: Array | None = None
) -> Array:
    """What the kernel computes, in float64, of values [images, channels, height, width]."""
    images = len(x)
    out, inner, rows, cols = problem.weight_shape
    _, height, width = problem.target.shape
    halo = problem.source.halo
    wide = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (halo, halo), (halo, halo)))
    groups = wide.reshape(images, problem.groups, inner, *wide.shape[2:])
    filters = weight.astype(np.float64).reshape(
        problem.groups, out // problem.groups, inner, rows, cols
    )
    y = np.zeros((images, problem.groups, out // problem.groups, height, width))
    for row in range(rows):
        for col in range(cols):
            top = halo - problem.padding[0] + row * problem.dilation[0]
            left = halo - problem.padding[1] + col * problem.dilation[1]
            taps = groups[
                ...,
                top : top + (height - 1) * problem.stride[0] + 1 : problem.stride[0],
                left : left + (width - 1) * problem.stride[1] + 1 : problem.stride[1],
            ]
            y += np.einsum("goi,ngihw->ngohw", filters[..., row, col], taps)
    sums = y.reshape(images, out, height, width)
    if bias is not None:
        sums += bias.astype(np.float64)[:, None, None]
    if residual is not None:
        sums += residual
    return activations.reference(problem.activation, sums).astype(np.float32)


def build(
    problem: Conv,
    weight: Array | weight_streams.StreamParts,
    bias: Array | None,
    target: Target,
    *,
    packing: ConvPacking | None = None,
    threads: int = 1,
) -> Kernel:
    """Pack the weight for a kernel of the target.

    Args:
        problem: the convolution.
        weight: [out, in / groups, rows, columns]; zeros are skipped. Or what a file holds of it,
            packed in the same way.
        bias: [out], or None for zeros.
        target: the family that runs it.
        packing: how; the usual way when None.
        threads: threads that share the work.

    Returns:
        The kernel.

    Raises:
        InvalidInput: the weight's shape is not the problem's, or the output is not aligned.
    """
    if isinstance(weight, np.ndarray) and weight.shape != problem.weight_shape:
        raise InvalidInput(
            f"Expected a weight of shape {problem.weight_shape}, got {weight.shape}; "
            "give the weight as torch holds it."
        )
    if not problem.target.aligned:
        raise InvalidInput(
            "Expected an output layout whose planes start on cache lines, got "
            f"{problem.target}; make it with `padded` or `columns`."
        )
    channels = problem.target.channels
    bias = np.asarray(np.zeros(channels) if bias is None else bias, np.float32)
    if bias.shape != (channels,):
        raise InvalidInput(
            f"Expected a bias of shape {(channels,)}, got {bias.shape}; give one per output."
        )
    if isinstance(weight, weight_streams.StreamParts):
        if packing is None:
            raise TypeError("a packed weight says how it is packed")
        return _by_rows(problem, weight, bias, target, packing)
    weight = np.asarray(weight, np.float32)
    if problem.depthwise and packing is None:
        return depthwise.build(
            problem.source,
            problem.target,
            weight.reshape(len(weight), -1),
            bias,
            column_offsets(problem.source, 1, problem.kernel, problem.padding, problem.dilation),
            stride=problem.stride,
            activation=problem.activation,
            target=target,
        )
    return _by_rows(
        problem, weight, bias, target, packing or usual_packing(problem, weight, target, threads)
    )


def resized(problem: Conv, other: Conv, kernel: Kernel, target: Target) -> Kernel | None:
    """Return the kernel of the same layer at another size, which shares the packed weight.

    Args:
        problem: the convolution.
        other: that of the kernel.
        kernel: with the weight.
        target: the family that runs it.

    Returns:
        None where the weight would be packed in another way at this size.
    """
    if kernel.packing is None or problem.weight_shape != other.weight_shape:
        return None
    registers = lines(problem.target.span) // target.lanes
    columns_ = math.prod(problem.weight_shape[1:])
    most = registers_per_tile(kernel.packing.height, columns_, target)
    tiles = math.ceil(registers / most)
    packing = replace(kernel.packing, vectors=math.ceil(registers / tiles))
    if type(input_source(problem, packing)) is not type(input_source(other, kernel.packing)):
        return None
    numbers: Any = dict(zip(rows.NUMBERS, kernel.slots, strict=False))
    records, headers, indices, values, bias = kernel.constants[:5]
    again: Any = records.copy()
    again["source"] = 0
    stream: Any = weight_streams.WeightStream(
        (problem.target.channels, columns_), packing.height, _block(problem, packing),
        numbers["chunks"], numbers["chunk_rows"] // packing.height,
        again.reshape(numbers["chunks"], -1), headers, indices, values,  # type: ignore[arg-type]
    )  # fmt: skip
    return _by_rows(problem, stream, np.asarray(bias, np.float32), target, packing)


def _block(problem: Conv, packing: ConvPacking) -> int:
    """Columns of a block: whole channels where blocks share a table."""
    taps = math.prod(problem.kernel)
    if isinstance(input_source(problem, packing), rows.Table):
        return max(1, packing.block // taps) * taps
    return packing.block


def _by_rows(
    problem: Conv,
    weight: Array | weight_streams.StreamParts | weight_streams.WeightStream,
    bias: Array,
    target: Target,
    packing: ConvPacking,
) -> Kernel:
    """The kernel of `rows`, its weights as a stream per group."""
    source, out = problem.source, problem.target
    taps, inner = math.prod(problem.kernel), problem.weight_shape[1]
    tiling = tile(out.span, packing.vectors, target.lanes)
    mode = input_source(problem, packing)
    block = _block(problem, packing)
    settings = {"height": packing.height, "block": block, "chunks": packing.chunks}
    if isinstance(weight, weight_streams.WeightStream):
        stream = weight
    elif isinstance(weight, weight_streams.StreamParts):
        shape = (out.channels // problem.groups, inner * taps)
        stream = weight_streams.from_parts(weight, shape, groups=problem.groups, **settings)
    else:
        stream = weight_streams.concatenate(
            [
                weight_streams.from_dense(part.reshape(len(part), -1), **settings)
                for part in np.split(weight, problem.groups)
            ]
        )
    at = stream.records.reshape(problem.groups, -1, stream.records.shape[1])
    at["source"] += 4 * source.plane * inner * np.arange(problem.groups)[:, None, None]
    if not isinstance(mode, rows.Gathered):
        at["source"] += 4 * source.plane * (at["first"] // taps)
    offsets = column_offsets(source, inner, problem.kernel, problem.padding, problem.dilation)
    copies, starts = np.zeros((1, 3), np.int32), np.zeros(tiling.tiles + 1, np.int32)
    if isinstance(mode, rows.Gathered) and mode.step:
        copies, starts = runs(source, out, problem.stride, tiling)
    gathered = isinstance(mode, rows.Gathered)
    scratch = (block + 2) * tiling.nbytes if gathered else 0  # runs overrun the last column
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
        "last_row": out.channels // problem.groups - 1,
        "group_chunks": stream.chunks // problem.groups,
        "chunk_rows": stream.chunk * packing.height,
        "scratch_bytes": math.ceil(scratch / 64) * 64,
        "pitch": tiling.nbytes if gathered else 4 * source.plane,
    }
    constants = {
        "records": stream.records.ravel(),
        "headers": stream.headers,
        "indices": stream.indices,
        "values": stream.values.ravel(),
        "bias": bias,
        "mask": position_mask(out, target.lanes),
        "offsets": offsets[:block] if isinstance(mode, rows.Table) else offsets,
        "runs": copies.ravel(),
        "run_starts": starts,
    }
    text = rows.Specialisation(
        tiling.vectors,
        packing.height,
        mode,
        problem.activation,
        problem.residual,
        masked=out.span % FLOATS_PER_LINE > 0 or out.row_stride > out.width,
    )
    return Kernel(
        Code(text.entry(target), lambda: rows.emit(text, target)),
        (
            *(numbers[name] for name in rows.NUMBERS),
            *(Pointer(index) for index in range(len(constants))),
        ),
        tuple(constants[name] for name in rows.ADDRESSES),
        scratch=numbers["scratch_bytes"],
        units=tiling.tiles * stream.chunks,
        note=f"{packing}",
        packing=packing,
    )


def input_source(problem: Conv, packing: ConvPacking) -> rows.Source:
    """How the kernel finds its input: what the layouts allow, else what the packing says."""
    source, out = problem.source, problem.target
    straight = problem.stride == (1, 1) and source.row_stride == out.row_stride
    if not straight:
        return rows.Gathered(problem.stride[1])
    if packing.gathered:
        return rows.Gathered(0)
    pointwise = problem.kernel == (1, 1) and problem.padding == (0, 0)
    return rows.Pitch() if pointwise and source.aligned else rows.Table()


def usual_packing(
    problem: Conv, weight: Array, target: Target, threads: int = 1, rates: Rates | None = None
) -> ConvPacking:
    """The packing of a weight when nothing is measured.

    Args:
        problem: the convolution.
        weight: its weight.
        target: the family that runs it.
        threads: threads that share the work.
        rates: what work costs on this machine; the family's typical rates when None.
    """
    matrix = weight.reshape(problem.groups, len(weight) // problem.groups, -1)
    taps = math.prod(problem.kernel)
    return usual(matrix, problem.target.span, taps, target, threads=threads, rates=rates)
