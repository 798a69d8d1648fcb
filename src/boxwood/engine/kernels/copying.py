"""Copies between layouts: torch's contiguous tensors to padded planes and back, transposes."""

from dataclasses import dataclass

from boxwood.engine.layouts import Array, Planes


@dataclass(frozen=True)
class Copy:
    """The same values in another layout, `contiguous` ones included.

    Args:
        source: layout of x.
        target: layout of y: the same channels, height and width.
        transposed: x is [tokens, features] as torch holds tokens: its layout is
            ``contiguous(tokens, 1, features)`` and the target ``columns(features, tokens)``,
            or the other way round.
    """

    source: Planes
    target: Planes
    transposed: bool = False


def reference(problem: Copy, x: Array) -> Array:
    """What the kernel computes, of values [images, channels, height, width]."""
    return x.transpose(0, 3, 2, 1) if problem.transposed else x
