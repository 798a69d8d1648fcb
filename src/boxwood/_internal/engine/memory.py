"""One buffer for all values that kernels produce: where each value is, and for how long."""

import mmap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BYTES_PER_LINE = 64
_HUGE = 2 * 1024 * 1024


def allocate_aligned(nbytes: int) -> NDArray[np.uint8]:
    """Return zeroed memory that starts on a page, in huge pages where the system has them.

    It is this process's own: Python's default would share it with the children of a fork, whose
    results would then be written into each other.

    Example:
        >>> allocate_aligned(100).ctypes.data % mmap.PAGESIZE
        0
    """
    huge = nbytes >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE")
    private = (
        {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    )
    memory = mmap.mmap(-1, max(nbytes, 1) + (_HUGE if huge else 0), **private)
    array = np.frombuffer(memory, np.uint8)
    if huge:
        memory.madvise(mmap.MADV_HUGEPAGE)
        first = -array.ctypes.data % _HUGE
        array = array[first : first + nbytes]
    array = array[:nbytes]
    array[:] = 0  # untouched pages would all be the kernel's one page of zeros
    return array


@dataclass
class Buffer:
    """A stretch of memory that is needed from one step to another.

    Args:
        nbytes: its size.
        first: the step that writes it.
        last: the last step that reads it.
        over: a buffer of the same size that it may take the place of, if that one was made before
            and its last step is this one's first; the first to ask has it.
    """

    nbytes: int
    first: int
    last: int
    over: int | None = None


def arrange_buffers(buffers: list[Buffer]) -> tuple[list[int], int]:
    """Return where each buffer starts, and the bytes of all.

    Buffers that are needed at the same time do not overlap, except that one that is written over
    another takes its place. Each goes into the tightest gap that fits.

    Args:
        buffers: in the order of their first steps.

    Example:
        >>> arrange_buffers([Buffer(64, 0, 1), Buffer(128, 1, 2), Buffer(64, 2, 3)])
        ([0, 64, 0], 192)
    """
    starts: list[int] = []
    active: dict[int, tuple[int, int]] = {}  # where each buffer that is still needed lies
    total = 0
    for number, buffer in enumerate(buffers):
        size = -(-buffer.nbytes // BYTES_PER_LINE) * BYTES_PER_LINE
        taken = None
        if buffer.over is not None and buffer.over in active:
            old = buffers[buffer.over]
            # What this very step makes is no place for something else that it makes.
            if old.first < buffer.first == old.last and old.nbytes == buffer.nbytes:
                taken, _ = active.pop(buffer.over)
        active = {each: lies for each, lies in active.items() if buffers[each].last >= buffer.first}
        if taken is None:
            taken = _tightest(sorted(active.values()), size, total)
        active[number] = (taken, taken + size)
        starts.append(taken)
        total = max(total, taken + size)
    return starts, total


def _tightest(active: list[tuple[int, int]], size: int, total: int) -> int:
    best, best_gap, end = None, None, 0
    for start, stop in [*active, (total, total)]:
        gap = start - end
        if gap >= size and (best_gap is None or gap < best_gap):
            best, best_gap = end, gap
        end = max(end, stop)
    return end if best is None else best
