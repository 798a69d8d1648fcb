"""Turn an operation and the placements of its tensors into a kernel's problem, and into the kernel."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from boxwood._internal.engine import costs
from boxwood._internal.engine.kernels import (
    attention,
    borders,
    conv,
    copying,
    elementwise,
    head_norm,
    int8_build,
    int8_conv,
    int8_depthwise,
    int8_matvec,
    matvec,
    normalisation,
    pooling,
    recurrent,
    rotary,
)
from boxwood._internal.engine.kernels.contract import Kernel
from boxwood._internal.engine.kernels.quads import Quantisation
from boxwood._internal.engine.layouts import FLOATS_PER_LINE, Array, Planes
from boxwood._internal.engine.ops import (
    Attend,
    Average,
    Convolve,
    Dequantise,
    Flatten,
    NativeOp,
    Normalise,
    NormaliseHeads,
    OnBytes,
    Pointwise,
    PoolWindows,
    Project,
    Quantise,
    Rotate,
)
from boxwood._internal.engine.placement import (
    Axes,
    Halos,
    Placement,
    Shape,
    placement_of,
    planes_of,
)
from boxwood._internal.engine.targets import Target

Problem = Any  # a frozen dataclass of one of the kernel files


def axes_of(op: NativeOp, rank: int) -> Axes:
    """Return how an operation reads the axes of its first source."""
    match op.kind:
        case Project() | Normalise() | NormaliseHeads() | Rotate() | Attend() | OnBytes(Project()):
            return Axes.TOKENS
        case Quantise(_, tokens) | Dequantise(_, tokens):
            return Axes.TOKENS if tokens else Axes.IMAGES
        case Pointwise():
            return Axes.IMAGES if rank == 4 else Axes.TOKENS
        case _:
            return Axes.IMAGES


def halo_of(op: NativeOp, kernel: tuple[int, int], source: Shape, out: Shape) -> int:
    """Return how many zeros an operation needs around its source [.., height, width].

    Args:
        op: the operation.
        kernel: rows and columns of a convolution's filters.
        source: the source's shape.
        out: the result's shape.
    """
    kind = op.kind.kind if isinstance(op.kind, OnBytes) else op.kind
    if not isinstance(kind, Convolve):
        return 0
    need = 0
    for axis in (0, 1):
        padding = kind.padding[axis]
        reach = (out[2 + axis] - 1) * kind.stride[axis]
        reach += (kernel[axis] - 1) * kind.dilation[axis]
        need = max(need, padding, reach - padding - (source[2 + axis] - 1))
    return need


def wanted_placements(
    op: NativeOp, axes: Axes, shapes: Sequence[Shape], halos: Halos
) -> list[Placement]:
    """Return how an operation wants its sources to lie.

    Args:
        op: the operation.
        axes: how it reads them.
        shapes: of its sources.
        halos: as in `placement_of`.
    """
    match op.kind:
        case OnBytes(out=out):
            forms = (True, *[out is not None] * (len(shapes) - 1))
            return [
                planes_of(shape, axes, halos, quads=quads)
                for shape, quads in zip(shapes, forms, strict=True)
            ]
        case Dequantise():
            return [planes_of(shape, axes, halos, quads=True) for shape in shapes]
        case _:
            return [placement_of(shape, axes, halos) for shape in shapes]


def flattened(source: Planes) -> Planes:
    """Return the layout of an image as a vector, channel after channel, in whole lines."""
    area = source.height * source.width
    floats = source.channels * area
    return Planes(
        *source.shape, 0, source.width, 0, area, -(-floats // FLOATS_PER_LINE) * FLOATS_PER_LINE
    )


def problem_of(
    op: NativeOp,
    sources: Sequence[Placement],
    out: Placement,
    kernel: Shape,
    *,
    sequences: int,
    second: Shape = (),
) -> Problem | None:
    """Return the kernel's problem for an operation whose tensors lie in these places.

    Args:
        op: the operation, any but `Concatenate`.
        sources: where what it reads is.
        out: where its result goes.
        kernel: shape of the weight, [out, in / groups, rows, columns] of a convolution.
        sequences: examples in the batch.
        second: shape of what it reads after its first source.

    Returns:
        None where no kernel does it.
    """
    source = sources[0]
    residual = len(sources) > 1
    match op.kind:
        case OnBytes(Convolve() | Project() as product, _, to, of):
            return _product_of_bytes(product, source.layout, out.layout, kernel, residual, to, of)
        case OnBytes(PoolWindows() as window, x):
            return pooling.Pool(
                source.layout, out.layout, window.kernel, window.stride, window.padding,
                window.dilation, gutter=x.zero,
            )  # fmt: skip
        case Quantise(to, tokens):
            return borders.ToBytes(source.layout, out.layout, to, tokens)
        case Dequantise(of):
            return borders.ToFloats(source.layout, out.layout, of)
        case Convolve() if source.layout.plane == 1 or out.layout.plane == 1:
            whole = source.layout.plane == out.layout.plane and kernel[2:] == (1, 1)
            if not whole or op.kind.groups > 1 or op.kind.stride != (1, 1):
                return None
            return matvec.MatVec(kernel[1], kernel[0], op.kind.activation, residual)
        case Convolve():
            kind = op.kind
            return conv.Conv(
                source.layout, out.layout, (kernel[2], kernel[3]), kind.stride, kind.padding,
                kind.dilation, kind.groups, kind.activation, residual,
            )  # fmt: skip
        case Project() if source.layout.plane == 1:
            return matvec.MatVec(kernel[1], kernel[0], op.kind.activation, residual)
        case Project():
            return conv.Conv(
                source.layout, out.layout, activation=op.kind.activation, residual=residual
            )
        case PoolWindows() if source.layout.plane == 1 or out.layout.plane == 1:
            return None
        case PoolWindows():
            window = op.kind
            return pooling.Pool(
                source.layout, out.layout, window.kernel, window.stride, window.padding,
                window.dilation, window.average, window.count_padding,
            )  # fmt: skip
        case Average() if source.layout.plane > 1:
            return pooling.GlobalAverage(source.layout)
        case Pointwise(operation, per_channel, activation):
            return elementwise.Elementwise(
                source.layout, out.layout, operation, per_channel, activation
            )
        case Normalise(epsilon, centred) if source.layout.plane > 1:
            return normalisation.LayerNorm(
                source.layout.channels, source.layout.width, epsilon, centred
            )
        case NormaliseHeads(heads, epsilon) if source.layout.plane > 1:
            features, size = source.layout.channels, kernel[1]
            if features % size:
                return None
            return head_norm.HeadNorm(features, source.layout.width, heads, size, epsilon)
        case Rotate(heads, partners) if source.layout.plane > 1:
            length = source.layout.width // sequences
            return rotary.Rotary(source.layout.channels, length, heads, partners, sequences)
        case Attend() as kind if source.layout.plane > 1:
            length = source.layout.width // sequences
            mask = _mask(kind, sources, second, length, sequences)
            # The tokens of each sequence lie next to each other.
            if mask is None or (sequences > 1 and not kind.batch_first):
                return None
            return attention.Attention(
                kind.heads, kind.size, length, kind.scale or None, kind.key_heads, kind.causal,
                mask[0], sequences, mask[1],
            )  # fmt: skip
        case Flatten():
            return copying.Copy(source.layout, flattened(source.layout))
        case _:
            return None


def _mask(
    kind: Attend, sources: Sequence[Placement], shape: Shape, tokens: int, sequences: int
) -> tuple[attention.Mask, bool] | None:
    """Return what a mask says about queries and heads, and whether each sequence has its own.

    Args:
        kind: the attention.
        sources: where queries, keys and values lie, and the mask.
        shape: of the mask, up to [sequences, heads, queries, keys].
        tokens: of a sequence.
        sequences: in the batch.

    Returns:
        None if no kernel takes it.
    """
    if len(sources) == 1:
        return attention.Mask.NONE, False
    whole = (1,) * (4 - len(shape)) + tuple(shape)
    if len(whole) != 4 or whole[0] not in (1, sequences) or whole[3] != tokens:
        return None
    own, heads, queries = whole[0] > 1, whole[1], whole[2]
    vectors = sources[1].layout.plane == 1
    if queries == 1 == heads:
        keys = attention.Mask.KEYS if vectors else attention.Mask.SEQUENCES
        return keys, own
    if vectors or queries != tokens or heads not in (1, kind.heads):
        return None
    return (attention.Mask.PAIRS if heads == 1 else attention.Mask.HEADS), own


def _product_of_bytes(
    kind: Convolve | Project,
    source: Planes,
    out: Planes,
    kernel: Shape,
    residual: bool,
    to: Quantisation | None,
    of: Quantisation | None,
) -> Problem:
    if isinstance(kind, Project):
        shape = conv.Conv(source, out, activation=kind.activation, residual=residual)
    else:
        depthwise = kind.groups > 1 and kernel[1] == 1 and to is not None
        shape = conv.Conv(
            source, out, (kernel[2], kernel[3]), kind.stride, kind.padding, kind.dilation,
            source.channels if depthwise else kind.groups, kind.activation, residual,
        )  # fmt: skip
    if isinstance(kind, Convolve) and kind.groups > 1 and kernel[1] == 1 and to is not None:
        return int8_conv.Int8Depthwise(shape, kernel[0], to)
    return int8_conv.Int8Conv(shape, kernel[0], kernel[1], to, of)


def build_kernel(
    problem: Problem, weight: NDArray[Any] | None, bias: Array | None, target: Target, threads: int
) -> Kernel:
    """Return a problem's kernel with the weight packed into it."""
    packing: Any = None
    if isinstance(problem, conv.Conv):
        weight = _given(weight).reshape(problem.weight_shape)
        packing = costs.choose_packing(problem, weight, target, threads=threads)
    if isinstance(problem, int8_conv.Int8Conv):
        weight = _given(weight).reshape(problem.weight_shape)
        packing = costs.choose_int8_packing(problem, weight, _given(bias), target, threads=threads)
    if isinstance(problem, matvec.MatVec):
        weight = _given(weight)
        weight = weight.reshape(len(weight), -1)
    return packed_kernel(problem, weight, bias, target, packing, threads)


def packed_kernel(
    problem: Problem,
    weight: Any,
    bias: Array | None,
    target: Target,
    packing: Any,
    threads: int,
) -> Kernel:
    """Return a problem's kernel with a packing that is decided already.

    Args:
        problem: what it does.
        weight: its weight, or what a file holds of it, packed.
        bias: its bias.
        target: the family that runs it.
        packing: how the weight is packed, as was measured or as a file says; None for the usual way.
        threads: threads that share the work.
    """
    match problem:
        case conv.Conv():
            return conv.build(
                problem, _given(weight), bias, target, packing=packing, threads=threads
            )
        case int8_conv.Int8Conv():
            return int8_build.build(
                problem, _given(weight), _given(bias), target, packing=packing, threads=threads
            )
        case int8_matvec.Int8MatVec():
            return int8_matvec.build(
                problem, _given(weight), _given(bias), target, packing=packing, threads=threads
            )
        case int8_conv.Int8Depthwise():
            return int8_depthwise.build(problem, _given(weight), _given(bias), target)
        case borders.ToBytes() | borders.ToFloats():
            return borders.build(problem, target)
        case matvec.MatVec():
            return matvec.build(
                problem, _given(weight), bias, target, threads=threads, packing=packing
            )
        case pooling.Pool():
            return pooling.build(problem, target)
        case pooling.GlobalAverage():
            return pooling.build_global(problem, target)
        case normalisation.LayerNorm():
            return normalisation.build(problem, _given(weight), _given(bias), target)
        case head_norm.HeadNorm():
            return head_norm.build(problem, _given(weight), target)
        case rotary.Rotary():
            return rotary.build(problem, _given(weight), target)
        case attention.Attention():
            return attention.build(problem, target)
        case elementwise.Elementwise():
            return elementwise.build(problem, target)
        case recurrent.LstmCell():
            return recurrent.build_lstm(problem, target)
        case recurrent.GruCell():
            return recurrent.build_gru(problem, target)
        case _:
            return copying.build(problem, target)


def _given(weight: Any) -> Any:
    if weight is None:
        raise TypeError("this problem has a weight")
    return weight
