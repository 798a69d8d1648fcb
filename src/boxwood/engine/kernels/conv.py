"""Convolution and linear layers on channel planes: the problem, its reference, its kernel."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from boxwood.core.errors import BoxwoodError
from boxwood.engine import formats
from boxwood.engine.kernels import activations, depthwise, rows
from boxwood.engine.kernels.contract import Activation, Code, Kernel, Pointer
from boxwood.engine.kernels.planning import Plan, Rates, usual
from boxwood.engine.layouts import Array, Planes, columns, lines, position_mask
from boxwood.engine.targets import Target


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
            raise BoxwoodError(
                f"Expected channels that {self.groups} groups divide, got {self.source.channels} "
                f"in and {self.target.channels} out; give groups that divide both."
            )
        for axis in (0, 1):
            size, out = self.source.shape[1 + axis], self.target.shape[1 + axis]
            before = self.padding[axis]
            last = (out - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis]
            after = last - before - (size - 1)
            if max(before, after) > self.source.halo and self.kernel != (1, 1):
                raise BoxwoodError(
                    f"Expected a halo of at least {max(before, after)} around the input, got "
                    f"{self.source.halo}; lay the input out with a wider halo."
                )
            if after > self.source.halo:
                raise BoxwoodError(
                    f"Expected outputs that stay within the input, got {out} outputs of stride "
                    f"{self.stride[axis]} from {size} inputs; give the target's true size."
                )

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight as torch holds it."""
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
    weight: Array,
    bias: Array | None,
    target: Target,
    *,
    plan: Plan | None = None,
    threads: int = 1,
) -> Kernel:
    """Pack the weight for a kernel of the target.

    Args:
        problem: the convolution.
        weight: [out, in / groups, rows, columns]; zeros are skipped.
        bias: [out], or None for zeros.
        target: the family that runs it.
        plan: how; the usual way when None.
        threads: threads that shall have work.

    Returns:
        The kernel.

    Raises:
        BoxwoodError: the weight's shape is not the problem's, or the output is not aligned.
    """
    if weight.shape != problem.weight_shape:
        raise BoxwoodError(
            f"Expected a weight of shape {problem.weight_shape}, got {weight.shape}; "
            "give the weight as torch holds it."
        )
    if not problem.target.aligned:
        raise BoxwoodError(
            "Expected an output layout whose planes start on cache lines, got "
            f"{problem.target}; make it by `padded` or `columns`."
        )
    bias = np.zeros(problem.target.channels, np.float32) if bias is None else bias
    bias = np.asarray(bias, np.float32)
    if problem.depthwise and plan is None:
        return depthwise.build(
            problem.source,
            problem.target,
            np.asarray(weight, np.float32).reshape(len(weight), -1),
            bias,
            _offsets(problem, 1),
            stride=problem.stride,
            activation=problem.activation,
            target=target,
        )
    plan = plan or usual_plan(problem, weight, target, threads)
    source, out = problem.source, problem.target
    straight = problem.stride == (1, 1) and source.row_stride == out.row_stride
    if not straight and not plan.gathered:
        plan = replace(plan, gathered=True)
    taps = math.prod(problem.kernel)
    block = plan.block
    if not plan.gathered and taps > 1:
        block = max(1, block // taps) * taps
    lanes = target.lanes
    tiles, wide, vectors = _tiles(out.span, plan.vectors, lanes)
    groups = [
        formats.from_dense(
            part.reshape(len(part), -1),
            height=plan.height,
            block=block,
            chunks=plan.chunks,
        )
        for part in np.split(np.asarray(weight, np.float32), problem.groups)
    ]
    stream = formats.join(groups)
    inner = problem.weight_shape[1]
    group_step = 4 * inner * source.plane
    at = stream.records.reshape(problem.groups, -1, stream.records.shape[1])
    at["source"] += np.arange(problem.groups)[:, None, None] * group_step
    offsets = _offsets(problem, inner)
    mode: rows.Source
    if plan.gathered:
        mode = rows.Gathered(0 if straight else problem.stride[1])
    elif problem.kernel == (1, 1) and problem.padding == (0, 0) and source.aligned:
        mode = rows.Pitch()
        at["source"] += 4 * source.plane * at["first"]
    else:
        mode = rows.Table()
        at["source"] += 4 * source.plane * (at["first"] // taps)
        offsets = offsets[:block]
    runs, run_starts = (
        _runs(problem, tiles, wide, vectors, lanes)
        if isinstance(mode, rows.Gathered) and mode.step
        else (np.zeros((1, 3), np.int32), np.zeros(tiles + 1, np.int32))
    )
    mask = position_mask(out, lanes)
    shape = rows.Shape(
        vectors,
        plan.height,
        mode,
        problem.activation,
        problem.residual,
        masked=not bool((mask == 255).all()) if lanes >= 8 else not bool((mask == 15).all()),
    )
    tile_bytes = 4 * lanes * vectors
    scratch = (block + 1) * tile_bytes + 64 if plan.gathered else 0
    constants = (
        stream.records.ravel(),
        stream.headers,
        stream.indices,
        stream.values.ravel(),
        bias,
        mask,
        offsets,
        runs.ravel(),
        run_starts,
    )
    numbers = {
        "tiles": tiles,
        "wide": wide,
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
        "chunk_rows": stream.chunk * plan.height,
        "scratch_bytes": math.ceil(scratch / 64) * 64,
        "pitch": tile_bytes if plan.gathered else 4 * source.plane,
    }
    return Kernel(
        Code(shape.entry(target), lambda: rows.emit(shape, target)),
        (
            *(numbers[name] for name in rows.NUMBERS),
            *(Pointer(index) for index in range(len(constants))),
        ),
        constants,
        scratch=numbers["scratch_bytes"],
        units=tiles * stream.chunks,
        note=f"{plan}",
    )


def usual_plan(
    problem: Conv, weight: Array, target: Target, threads: int = 1, rates: Rates | None = None
) -> Plan:
    """The plan for a weight when nothing is measured.

    Args:
        problem: the convolution.
        weight: its weight.
        target: the family that runs it.
        threads: threads that shall have work.
        rates: what work costs on this machine; the family's typical rates when None.
    """
    matrix = weight.reshape(problem.groups, len(weight) // problem.groups, -1)
    taps = math.prod(problem.kernel)
    return usual(matrix, problem.target.span, taps, target, threads=threads, rates=rates)


def _tiles(span: int, most: int, lanes: int) -> tuple[int, int, int]:
    """Split positions into tiles of ``vectors`` or one fewer registers: tiles, wide ones, vectors."""
    registers = lines(span) // lanes
    tiles = math.ceil(registers / most)
    vectors = math.ceil(registers / tiles)
    return tiles, registers - tiles * (vectors - 1), vectors


def _offsets(problem: Conv, inner: int) -> NDArray[np.int32]:
    """Bytes from the first value of the first plane to what each column reads at position 0."""
    channel, row, column = np.indices((inner, *problem.kernel)).reshape(3, -1)
    row = row * problem.dilation[0] - problem.padding[0]
    column = column * problem.dilation[1] - problem.padding[1]
    source = problem.source
    return (4 * (channel * source.plane + row * source.row_stride + column)).astype(np.int32)


def _runs(
    problem: Conv, tiles: int, wide: int, vectors: int, lanes: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What gathering copies for each tile: (source bytes, scratch bytes, values), ascending."""
    source, out = problem.source, problem.target
    runs: list[tuple[int, int, int]] = []
    starts = [0]
    position = 0
    for tile in range(tiles):
        end = position + lanes * (vectors if tile < wide else vectors - 1)
        at = position
        while at < min(end, out.span):
            row, column = divmod(at, out.row_stride)
            length = min(out.width - column, end - at, lanes)
            if length <= 0:
                at = (row + 1) * out.row_stride
                continue
            place = row * problem.stride[0] * source.row_stride + column * problem.stride[1]
            runs.append((4 * place, 4 * (at - position), length))
            at += length
        starts.append(len(runs))
        position = end
    return np.array(runs, np.int32), np.array(starts, np.int32)
