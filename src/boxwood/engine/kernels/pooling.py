"""Pooling: maximum and average over windows, average over whole planes."""

from dataclasses import dataclass

import numpy as np

from boxwood.engine.layouts import Array, Planes, vector


@dataclass(frozen=True)
class Pool:
    """Maximum or average over windows, as torch's ``max_pool2d`` and ``avg_pool2d``.

    Args:
        source: layout of x; no halo is needed.
        target: layout of y.
        kernel: rows and columns of a window.
        stride: steps between windows.
        padding: rows and columns that are missing above and left.
        dilation: steps between the values of a window.
        average: average instead of maximum.
        count_padding: the average divides by the window's full size (torch's default).
    """

    source: Planes
    target: Planes
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    average: bool = False
    count_padding: bool = True


@dataclass(frozen=True)
class GlobalAverage:
    """The mean of each plane, as a vector per image.

    Args:
        source: layout of x.
    """

    source: Planes

    @property
    def target(self) -> Planes:
        """Layout of y."""
        return vector(self.source.channels)


def reference(problem: Pool, x: Array) -> Array:
    """What the kernel computes, in float64, of values [images, channels, height, width]."""
    _, height, width = problem.target.shape
    y = np.zeros((*x.shape[:2], height, width))
    for row in range(height):
        for col in range(width):
            top = row * problem.stride[0] - problem.padding[0]
            left = col * problem.stride[1] - problem.padding[1]
            reach = [
                (size - 1) * step + 1
                for size, step in zip(problem.kernel, problem.dilation, strict=True)
            ]
            window = x[
                ...,
                _first(top, problem.dilation[0]) : max(0, top + reach[0]) : problem.dilation[0],
                _first(left, problem.dilation[1]) : max(0, left + reach[1]) : problem.dilation[1],
            ].astype(np.float64)
            if not problem.average:
                y[..., row, col] = window.max((-2, -1))
                continue
            count = window.shape[-2] * window.shape[-1]
            if problem.count_padding:
                # Windows may hang over the padding of the lower right only by ceil mode, which
                # torch does not count.
                count = 1
                for axis, start in enumerate((top, left)):
                    end = x.shape[2 + axis] + problem.padding[axis]
                    count *= min(start + problem.kernel[axis], end) - start
            y[..., row, col] = window.sum((-2, -1)) / count
    return y.astype(np.float32)


def global_reference(x: Array) -> Array:
    """The mean of each plane, in float64: [images, channels]."""
    return x.astype(np.float64).mean((2, 3)).astype(np.float32)


def _first(start: int, step: int) -> int:
    """The first index at or above 0 that is reached from ``start`` in steps."""
    return start if start >= 0 else start % step
