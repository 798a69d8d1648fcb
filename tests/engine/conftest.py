"""Runs kernels as a program does, between pages that must not be touched."""

import ctypes
import math
import mmap
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from boxwood._internal.engine import runner
from boxwood._internal.engine.kernels.contract import Kernel, arguments
from boxwood._internal.engine.layouts import Array, Planes
from boxwood._internal.engine.memory import BYTES_PER_LINE, Buffer
from boxwood._internal.engine.targets import AVX2, AVX_VNNI, NEON, Dots, Target, host

PAGE = mmap.PAGESIZE


def forbid(*pages: int) -> None:
    """Let any touch of the pages at these addresses be a fault."""
    libc = ctypes.CDLL(None)
    for page in pages:
        assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0) == 0


class Guarded:
    """Memory between two pages that fault when touched."""

    def __init__(self, nbytes: int, *, at_end: bool, align: int = 64) -> None:
        inner = math.ceil(max(nbytes, 1) / PAGE) * PAGE
        self.memory = mmap.mmap(-1, inner + 2 * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        forbid(base, base + PAGE + inner)
        start = PAGE + (inner - math.ceil(nbytes / align) * align if at_end else 0)
        self.address = base + start
        self.bytes = np.frombuffer(self.memory, np.uint8, nbytes, start)
        self.floats = self.bytes[: nbytes // 4 * 4].view(np.float32)


class Runner:
    """Compiles kernels once per target, runs them, and checks what they leave."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.libraries: dict[str, object] = {}

    def __call__(
        self,
        kernel: Kernel,
        source: Planes,
        out: Planes,
        values: Array,
        second: tuple[Planes, Array] | None = None,
        *,
        threads: Sequence[int] = (1, 2, 3),
        in_place: bool = False,
        around: Sequence[np.float32 | int] = (0, 0),
    ) -> Array:
        """The output values, after checking that all ways to run agree to the last bit.

        ``around`` is what lies around the input's values, and has to lie around the output's.
        """
        results = [
            self.once(kernel, source, out, values, second, many, at_end, in_place, around[0])
            for many in threads
            for at_end in (False, True)
        ]
        for other in results[1:]:
            np.testing.assert_array_equal(results[0].view(np.int32), other.view(np.int32))
        images = len(values)
        clean = np.zeros(out.size(images), np.float32)
        out.write_(clean, out.view(results[0], images).copy(), around[1])
        used = out.image if out.plane == 1 else out.channels * out.plane
        for image in range(images):
            part = slice(image * out.image, image * out.image + used)
            np.testing.assert_array_equal(
                results[0][part].view(np.int32), clean[part].view(np.int32)
            )
        return out.view(results[0], images)

    def once(
        self,
        kernel: Kernel,
        source: Planes,
        out: Planes,
        values: Array,
        second: tuple[Planes, Array] | None,
        threads: int,
        at_end: bool,
        in_place: bool,
        around: np.float32 | int = 0,
    ) -> Array:
        """One run with all threads' shares one after the other, in buffers full of NaN."""
        from boxwood._internal.engine.llvm.jit import load_codes

        if kernel.code.entry not in self.libraries:
            self.libraries[kernel.code.entry] = load_codes([kernel.code], self.target)
        function = self.libraries[kernel.code.entry].function(kernel.code.entry)
        images = len(values)
        x = Guarded(4 * source.size(images), at_end=at_end, align=4 if source.image % 16 else 64)
        y = Guarded(4 * out.size(images), at_end=at_end, align=4 if out.image % 16 else 64)
        scratch = Guarded(threads * kernel.scratch, at_end=at_end)
        for buffer in (x, y, scratch):
            buffer.floats[:] = np.nan
        source.write_(x.floats, values, around)
        other = y
        if second is not None:
            other = y if in_place else Guarded(4 * second[0].size(images), at_end=at_end)
            second[0].write_(other.floats, second[1])
        constants = []
        for array in kernel.constants:
            constants.append(Guarded(array.nbytes, at_end=at_end, align=8))
            constants[-1].bytes[:] = np.ascontiguousarray(array).view(np.uint8).ravel()
        block = arguments(
            kernel,
            [constant.address for constant in constants],
            source=x.address,
            target=y.address,
            second=other.address if second is not None else 0,
            scratch=scratch.address,
            images=images,
        )
        for thread in range(threads):
            function(block.ctypes.data, thread, threads)
        result: Array = y.floats.copy()
        return result


def _targets() -> list[Target]:
    family = host()
    return (
        [family] if family.lanes == NEON.lanes else [AVX2] + ([family] if family.lanes > 8 else [])
    )


@pytest.fixture(scope="session", params=_targets(), ids=lambda target: f"{target.lanes} lanes")
def run_kernel(request: pytest.FixtureRequest) -> Callable[..., Array]:
    """A runner for each family that this machine can run."""
    return Runner(request.param)


def _bytes_targets() -> list[Target]:
    family = host()
    if family.lanes == NEON.lanes:
        return [family]
    narrow = [AVX_VNNI] if family.dots is Dots.VNNI and family.lanes == AVX2.lanes else []
    return [AVX2, *narrow, *([family] if family.lanes > AVX2.lanes else [])]


@pytest.fixture(
    scope="session",
    params=_bytes_targets(),
    ids=lambda target: f"{target.lanes} lanes {target.dots.name.lower()}",
)
def run_on_bytes(request: pytest.FixtureRequest) -> Callable[..., Array]:
    """A runner for each way of this machine to multiply bytes."""
    return Runner(request.param)


class Arena:
    """Lays buffers out one by one, a forbidden page before and after each."""

    def __init__(self, *, at_end: bool) -> None:
        self.at_end = at_end
        self.forbidden: list[int] = []
        self.made = 0

    def arrange(self, buffers: list[Buffer]) -> tuple[list[int], int]:
        """Put each buffer at an end of whole pages of its own."""
        self.forbidden, starts, place = [0], [], PAGE
        for buffer in buffers:
            size = -(-buffer.nbytes // BYTES_PER_LINE) * BYTES_PER_LINE
            pages = -(-size // PAGE) * PAGE
            starts.append(place + (pages - size if self.at_end else 0))
            self.forbidden.append(place + pages)
            place += pages + PAGE
        return starts, place

    def allocate(self, nbytes: int) -> NDArray[np.uint8]:
        """Forbid the pages between, and fill the others with NaN."""
        array = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
        array.view(np.float32)[:] = np.nan
        forbid(*(array.ctypes.data + page for page in self.forbidden))
        self.made += 1
        return array


@pytest.fixture(scope="module", params=[False, True], ids=["at the start", "at the end"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    made = Arena(at_end=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "arrange_buffers", made.arrange)
        patch.setattr(runner, "allocate_aligned", made.allocate)
        yield made


def arranged(at_end: bool) -> tuple[NDArray[np.uint8], list[int]]:
    """An arena with two buffers, and where they start."""
    arena = Arena(at_end=at_end)
    starts, total = arena.arrange([Buffer(64, 0, 1)] * 2)
    return arena.allocate(total), starts
