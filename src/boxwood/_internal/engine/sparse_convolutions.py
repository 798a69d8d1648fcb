"""Convolutions of torch's images with a sparse weight, in kernels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from boxwood._internal.engine import costs
from boxwood._internal.engine.kernel_cache import place_constants
from boxwood._internal.engine.kernels import conv, copying
from boxwood._internal.engine.kernels.contract import BoundKernel
from boxwood._internal.engine.layer_plans import Holding, next_number, plans
from boxwood._internal.engine.layouts import Array, contiguous, padded
from boxwood._internal.engine.measured_shapes import MeasuredShapes
from boxwood._internal.engine.native_calls import Chain, ChainPool
from boxwood._internal.engine.targets import Target
from boxwood._internal.engine.thread_team import ThreadTeam

Pair = tuple[int, int]

BATCHES = 4
"""Numbers of images whose arguments are kept."""


class SparseConvolution:
    """``torch.conv2d`` for images of one height and width.

    Args:
        weight: float32 [out, in / groups, rows, columns].
        bias: [out], or None.
        size: height and width of the images.
        stride: steps between outputs, down and right.
        padding: zeros above and below, and left and right.
        dilation: steps between the taps of a filter.
        groups: groups of channels that do not mix.
        target: the family that runs it.
        team: the threads.
    """

    def __init__(
        self,
        weight: Array,
        bias: Array | None,
        size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
        target: Target,
        team: ThreadTeam,
    ) -> None:
        channels, kernel = weight.shape[1] * groups, weight.shape[2:]
        reach = [(kernel[axis] - 1) * dilation[axis] for axis in (0, 1)]
        rows, columns = (
            (size[axis] + 2 * padding[axis] - reach[axis] - 1) // stride[axis] + 1
            for axis in (0, 1)
        )
        self._shape = (len(weight), rows, columns)
        source = padded(channels, *size, halo=max(padding))
        # Strides of one are fastest where rows of both lie alike.
        alike = stride == (1, 1) and columns <= source.row_stride
        out = padded(*self._shape, row_stride=source.row_stride if alike else None)
        problem = conv.Conv(source, out, kernel, stride, padding, dilation, groups)
        packing = costs.choose_packing(problem, weight, target, threads=team.threads)
        kernels = place_constants(
            [
                copying.build(copying.Copy(contiguous(channels, *size), source), target),
                conv.build(problem, weight, bias, target, packing=packing, threads=team.threads),
                copying.build(copying.Copy(out, contiguous(*self._shape)), target),
            ]
        )
        self._between = (4 * source.size(), 4 * out.size())
        self._chain = partial(self._made, kernels, target, team)
        self._chains: dict[int, ChainPool] = {}

    def _made(
        self, kernels: list[BoundKernel], target: Target, team: ThreadTeam, images: int
    ) -> Chain:
        return Chain(kernels, [images * each for each in self._between], target, team)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the convolution of contiguous float32 x [images, channels, height, width]."""
        images = len(x)
        y = x.new_empty((images, *self._shape))
        chains = self._chains.get(images)
        if chains is None:
            if len(self._chains) >= BATCHES:
                self._chains = {}
            chains = self._chains[images] = ChainPool(partial(self._chain, images))
        chains(x.data_ptr(), y.data_ptr(), images)
        return y


@dataclass(frozen=True)
class ConvolutionSettings:
    """How a convolution of one or two dimensions moves over its input.

    Args:
        stride: steps between outputs.
        padding: zeros on either side.
        dilation: steps between the taps of a filter.
        groups: groups of channels that do not mix.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what torch computes."""
        function = F.conv1d if weight.ndim == 3 else F.conv2d
        return function(
            x, weight, bias, self.stride, self.padding, self.dilation, self.groups
        ).contiguous()

    def as_image(self) -> tuple[Pair, Pair, Pair]:
        """The same moves over images, of which sequences are those of one row."""
        lead = 2 - len(self.stride)
        return (
            (*(1,) * lead, *self.stride), (*(0,) * lead, *self.padding),
            (*(1,) * lead, *self.dilation),
        )  # type: ignore[return-value]  # fmt: skip


class ConvolutionPlan:
    """A convolutional layer's ways to run, by height and width.

    Args:
        weight: as torch holds it, float32 on the CPU.
        bias: [out], or None.
        settings: how it moves.
        target: the family that runs it.
        team: the threads.
        shapes: what was found for a layer of equal weights.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        settings: ConvolutionSettings,
        target: Target,
        team: ThreadTeam,
        shapes: MeasuredShapes | None = None,
    ) -> None:
        self.number = next_number()
        self._holding, self._settings = Holding(weight, bias), settings
        self._target, self._team = target, team
        self._shapes = shapes or MeasuredShapes(team)
        plans[self.number] = self

    def for_copy(self, weight: Tensor, bias: Tensor | None) -> "ConvolutionPlan":
        """Return the plan of a layer with equal weights; packed ones are shared."""
        return ConvolutionPlan(weight, bias, self._settings, self._target, self._team, self._shapes)

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvolutionSettings
    ) -> Tensor:
        """Return the convolution, contiguous."""
        fits = x.dtype == torch.float32 and x.ndim == weight.ndim and x.numel() > 0
        if settings != self._settings or not fits or not self._holding.holds(weight, bias):
            return settings.dense(x, weight, bias)
        x = x.contiguous().resolve_neg()
        call = self._shapes.choose(
            x.shape[1:], partial(self._made, x.shape, weight, bias), settings.dense, x, weight, bias
        )
        return call(x, weight, bias)  # type: ignore[no-any-return]

    def _made(
        self, shape: Sequence[int], weight: Tensor, bias: Tensor | None
    ) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        image = weight.detach() if weight.ndim == 4 else weight.detach()[:, :, None]
        size = (shape[2], shape[3]) if weight.ndim == 4 else (1, shape[2])
        added = None if bias is None else bias.detach().numpy()
        product = SparseConvolution(
            image.contiguous().numpy(), added, size, *self._settings.as_image(),
            self._settings.groups, self._target, self._team,
        )  # fmt: skip
        if weight.ndim == 4:
            return lambda x, *_: product(x)
        return lambda x, *_: product(x[:, :, None])[:, :, 0]
