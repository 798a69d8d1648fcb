"""A list of kernel calls as one native call: a loop over a table, with a barrier after each call.

Every thread runs the whole table; kernels take their own share of each call. The barrier counts
arrivals in one word and generations in another, and yields its processor after spinning a while,
so that more threads than cores go on, if slowly. `SHARE` is the same for a thread of OpenMP's, which
has to ask for its number.
"""

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine.kernels.contract import Code
from boxwood._internal.engine.llvm.objects import Library

WORDS_PER_LINE = 8
"""Words of a cache line."""

SPINS = 4096
"""Turns of waiting before the thread yields; about 100 µs."""

_TEXT = f"""
define void @boxwood_driver(ptr %job, i64 %thread, i64 %threads) {{
entry:
  %table = load ptr, ptr %job, align 8
  %count.at = getelementptr i64, ptr %job, i64 1
  %count = load i64, ptr %count.at, align 8
  %yield.at = getelementptr i64, ptr %job, i64 2
  %yield = load ptr, ptr %yield.at, align 8
  %arrived = getelementptr i64, ptr %job, i64 8
  %generation = getelementptr i64, ptr %job, i64 16
  %alone = icmp eq i64 %threads, 1
  %last = sub i64 %threads, 1
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %call, label %done
call:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %slot = mul i64 %i, 2
  %function.at = getelementptr i64, ptr %table, i64 %slot
  %function = load ptr, ptr %function.at, align 8
  %arguments.at = getelementptr i64, ptr %function.at, i64 1
  %arguments = load ptr, ptr %arguments.at, align 8
  call void %function(ptr %arguments, i64 %thread, i64 %threads)
  br i1 %alone, label %next, label %barrier
barrier:
  %before = load atomic i64, ptr %generation seq_cst, align 8
  %here = atomicrmw add ptr %arrived, i64 1 seq_cst
  %is.last = icmp eq i64 %here, %last
  br i1 %is.last, label %release, label %wait
release:
  store atomic i64 0, ptr %arrived seq_cst, align 8
  %after = add i64 %before, 1
  store atomic i64 %after, ptr %generation seq_cst, align 8
  br label %next
wait:
  %spin = phi i64 [ 0, %barrier ], [ %spin.next, %again ]
  %now = load atomic i64, ptr %generation seq_cst, align 8
  %released = icmp ne i64 %now, %before
  br i1 %released, label %next, label %patience
patience:
  %spin.more = add i64 %spin, 1
  %tired = icmp sgt i64 %spin.more, {SPINS}
  br i1 %tired, label %give.way, label %again
give.way:
  %ignored = call i32 %yield()
  br label %again
again:
  %spin.next = phi i64 [ %spin.more, %patience ], [ 0, %give.way ]
  br label %wait
next:
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %count
  br i1 %more, label %call, label %done
done:
  ret void
}}
"""

CODE = Code("boxwood_driver", lambda: _TEXT)
"""The function; its first argument is a `job`."""

_SHARE = """
define void @boxwood_share(ptr %job) {
  %driver.at = getelementptr i64, ptr %job, i64 3
  %driver = load ptr, ptr %driver.at, align 8
  %number.at = getelementptr i64, ptr %job, i64 4
  %number = load ptr, ptr %number.at, align 8
  %count.at = getelementptr i64, ptr %job, i64 5
  %count = load ptr, ptr %count.at, align 8
  %thread = call i32 %number()
  %threads = call i32 %count()
  %thread.wide = sext i32 %thread to i64
  %threads.wide = sext i32 %threads to i64
  call void %driver(ptr %job, i64 %thread.wide, i64 %threads.wide)
  ret void
}
"""

SHARE = Code("boxwood_share", lambda: _SHARE)
"""The driver's work of one thread of OpenMP's, of which there may be fewer than were asked for."""

JOB = 24
"""Words of a job: table, count, yield, driver, OpenMP's ``omp_get_thread_num`` and
``omp_get_num_threads``; the barrier's two words on cache lines of their own."""


def yield_address() -> int:
    """Where the C library's ``sched_yield`` starts."""
    function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def function(library: Library) -> Callable[[int, int, int], None]:
    """Return the driver as a function of (job's address, thread, threads)."""
    found: Callable[[int, int, int], None] = library.function(CODE.entry)
    return found


def job(
    calls: Sequence[tuple[int, int]], library: Library, numbers: tuple[int, int]
) -> tuple[int, NDArray[np.int64]]:
    """Return a job's address and the memory that holds it.

    Args:
        calls: addresses of functions and of their arguments.
        library: with the driver.
        numbers: addresses of OpenMP's functions for the number of a thread and the number of all
            threads; zeros without.
    """
    words = np.zeros(JOB + WORDS_PER_LINE + 2 * len(calls), np.int64)
    first = -(words.ctypes.data // 8) % WORDS_PER_LINE
    begin = first + JOB
    words[begin : begin + 2 * len(calls)] = np.array(calls, np.int64).ravel()
    table, own = words.ctypes.data + 8 * begin, library.address(CODE.entry)
    words[first : first + 6] = (table, len(calls), yield_address(), own, *numbers)
    return words.ctypes.data + 8 * first, words
