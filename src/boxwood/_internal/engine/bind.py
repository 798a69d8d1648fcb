"""From an operation and the places of its tensors to a kernel's problem, and to the kernel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine import costs, formats
from boxwood._internal.engine.kernels import (
    attention,
    conv,
    copying,
    elementwise,
    matvec,
    normalisation,
    pooling,
    recurrent,
)
from boxwood._internal.engine.kernels.contract import Kernel
from boxwood._internal.engine.layouts import LINE, Planes
from boxwood._internal.engine.ops import (
    Attend,
    Average,
    Convolve,
    Flatten,
    Native,
    Normalise,
    Pointwise,
    PoolWindows,
    Project,
)
from boxwood._internal.engine.placement import Form, Place, Shape
from boxwood._internal.engine.targets import Target

Problem = Any  # a frozen dataclass of one of the kernel files
Array = NDArray[np.float32]


def form_of(op: Native, rank: int) -> Form:
    """Return what an operation takes the axes of its first source for."""
    match op.does:
        case Project() | Normalise() | Attend():
            return Form.TOKENS
        case Pointwise():
            return Form.IMAGES if rank == 4 else Form.TOKENS
        case _:
            return Form.IMAGES


def out_form(op: Native, rank: int) -> Form:
    """Return what the axes of an operation's result are."""
    match op.does:
        case Flatten():
            return Form.TOKENS
        case Average(keep=False):
            return Form.TOKENS
        case _:
            return form_of(op, rank)


def halo_of(op: Native, kernel: tuple[int, int], source: Shape, out: Shape) -> int:
    """Return how many zeros an operation needs around its source [.., height, width].

    Args:
        op: the operation.
        kernel: rows and columns of a convolution's filters.
        source: the source's shape.
        out: the result's shape.
    """
    if not isinstance(op.does, Convolve):
        return 0
    need = 0
    for axis in (0, 1):
        padding = op.does.padding[axis]
        reach = (out[2 + axis] - 1) * op.does.stride[axis]
        reach += (kernel[axis] - 1) * op.does.dilation[axis]
        need = max(need, padding, reach - padding - (source[2 + axis] - 1))
    return need


def flat(source: Planes) -> Planes:
    """Return the layout of an image as a vector, channel after channel, in whole lines."""
    area = source.height * source.width
    floats = source.channels * area
    return Planes(*source.shape, 0, source.width, 0, area, -(-floats // LINE) * LINE)


def problem_of(
    op: Native, sources: Sequence[Place], out: Place, kernel: Shape, *, alone: bool
) -> Problem | None:
    """Return the kernel's problem that an operation is with its tensors in these places.

    Args:
        op: the operation, any but `Join`.
        sources: where what it reads is.
        out: where its result goes.
        kernel: shape of the weight, [out, in / groups, rows, columns] of a convolution.
        alone: whether the batch is one.

    Returns:
        None where no kernel does it.
    """
    source = sources[0]
    residual = len(sources) > 1
    match op.does:
        case Convolve() if source.layout.plane == 1 or out.layout.plane == 1:
            whole = source.layout.plane == out.layout.plane and kernel[2:] == (1, 1)
            if not whole or op.does.groups > 1 or op.does.stride != (1, 1):
                return None
            return matvec.MatVec(kernel[1], kernel[0], op.does.activation, residual)
        case Convolve():
            does = op.does
            return conv.Conv(
                source.layout, out.layout, (kernel[2], kernel[3]), does.stride, does.padding,
                does.dilation, does.groups, does.activation, residual,
            )  # fmt: skip
        case Project() if source.layout.plane == 1:
            return matvec.MatVec(kernel[1], kernel[0], op.does.activation, residual)
        case Project():
            return conv.Conv(
                source.layout, out.layout, activation=op.does.activation, residual=residual
            )
        case PoolWindows() if source.layout.plane == 1 or out.layout.plane == 1:
            return None
        case PoolWindows():
            window = op.does
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
        case Normalise(epsilon) if source.layout.plane > 1:
            return normalisation.LayerNorm(source.layout.channels, source.layout.width, epsilon)
        case Attend(heads, size, scale) if source.layout.plane > 1 and alone:
            return attention.Attention(heads, size, source.layout.width, scale or None)
        case Flatten():
            return copying.Copy(source.layout, flat(source.layout))
        case _:
            return None


def build(
    problem: Problem, weight: Array | None, bias: Array | None, target: Target, threads: int
) -> Kernel:
    """Return a problem's kernel with the weight packed into it."""
    plan = None
    if isinstance(problem, conv.Conv):
        weight = _given(weight).reshape(problem.weight_shape)
        plan = costs.choose(problem, weight, target, threads=threads)
    if isinstance(problem, matvec.MatVec):
        weight = _given(weight)
        weight = weight.reshape(len(weight), -1)
    return made(problem, weight, bias, target, plan, threads)


def made(
    problem: Problem,
    weight: Array | formats.Parts | None,
    bias: Array | None,
    target: Target,
    packing: Any,
    threads: int,
) -> Kernel:
    """Return a problem's kernel as it was decided.

    Args:
        problem: what it does.
        weight: its weight, or what a file holds of it, packed.
        bias: its bias.
        target: the family that runs it.
        packing: how the weight is packed: a convolution's plan, or what a file says.
        threads: threads that shall have work.
    """
    match problem:
        case conv.Conv():
            return conv.build(problem, _given(weight), bias, target, plan=packing, threads=threads)
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
