"""The contract between kernels and the program that runs them: what is built, how it is called.

A built kernel is one native function and constant data. The function's signature is::

    void entry(const int64_t *arguments, int64_t thread, int64_t threads)

    arguments[0]  input
    arguments[1]  output
    arguments[2]  second input (residual, other operand, state), else 0
    arguments[3]  scratch, `Kernel.scratch` bytes for each thread; thread t uses the t-th part
    arguments[4]  images: how many images the buffers hold
    arguments[5:] the kernel's own slots, see `Kernel.slots`

Buffers start on cache lines (64 bytes) and are as long as their layout says. Every thread of
``threads`` is called with the same arguments; each does its share of the output, and the result
is the same to the last bit for any number of threads. A kernel writes all of its output layout,
zeros of halo and gutters included, reads nothing outside its inputs' layouts, and needs nothing
from its output's old contents. The residual may be the output buffer itself.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIXED = 5
"""Arguments before a kernel's own slots."""


class Activation(enum.Enum):
    """What is applied to each value last; torch's functions of the same names."""

    NONE = enum.auto()
    RELU = enum.auto()
    RELU6 = enum.auto()
    LEAKY_RELU = enum.auto()  # slope 0.01, torch's default
    SILU = enum.auto()
    GELU = enum.auto()
    GELU_TANH = enum.auto()
    HARDSWISH = enum.auto()
    HARDSIGMOID = enum.auto()
    SIGMOID = enum.auto()
    TANH = enum.auto()


@dataclass(frozen=True)
class Code:
    """One native function: its symbol and the function that writes its LLVM text when asked."""

    entry: str
    emit: Callable[[], str] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Pointer:
    """A slot that holds the address of ``constants[index]`` plus ``offset`` bytes."""

    index: int
    offset: int = 0


@dataclass(frozen=True, eq=False)
class Kernel:
    """A function with its data, ready to be bound to buffers.

    Args:
        code: the function; kernels of equal ``code.entry`` share it.
        slots: integers and pointers that follow the fixed arguments.
        constants: packed weights and tables, to be held at addresses that are multiples of 64.
        scratch: bytes of scratch per thread, a multiple of 64.
        units: shares of work per image; more threads than this have nothing to do.
        note: what was chosen and why, for people.
        packing: how a weight was packed into the first four constants, for files; None where no
            weight was.
    """

    code: Code
    slots: tuple[int | Pointer, ...] = ()
    constants: tuple[NDArray[np.generic], ...] = ()
    scratch: int = 0
    units: int = 1
    note: str = ""
    packing: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of all constants."""
        return sum(constant.nbytes for constant in self.constants)


@dataclass(frozen=True)
class BoundKernel:
    """A kernel whose constants lie at their addresses."""

    kernel: Kernel
    addresses: tuple[int, ...]
    owner: object


def arguments(
    kernel: Kernel,
    addresses: Sequence[int],
    *,
    source: int,
    target: int,
    second: int = 0,
    scratch: int = 0,
    images: int = 1,
) -> NDArray[np.int64]:
    """The argument block of one call.

    Args:
        kernel: the kernel.
        addresses: where its constants are.
        source: address of the input.
        target: address of the output.
        second: address of the residual or second input.
        scratch: address of ``threads · kernel.scratch`` bytes.
        images: images in the buffers.
    """
    own = [
        slot if isinstance(slot, int) else addresses[slot.index] + slot.offset
        for slot in kernel.slots
    ]
    return np.array([source, target, second, scratch, images, *own], np.int64)
