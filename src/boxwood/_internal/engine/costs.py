"""What kernels cost on this machine: a few rates measured once, and packings decided by timing.

The rates say what one weight costs when it is skipped over alone, in blocks of rows, or for a
single vector. They decide between packings that lie far apart; packings that lie close are run.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boxwood._internal.core.timing import Run, by_turns, calls_lasting
from boxwood._internal.engine.kernels import conv, int8_build, matvec, peak
from boxwood._internal.engine.kernels.contract import Kernel, arguments
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.int8_conv import Int8Conv, Weight
from boxwood._internal.engine.kernels.packing import (
    HEIGHTS,
    ConvPacking,
    Rates,
    block_columns,
    neighbours,
)
from boxwood._internal.engine.layouts import Array, Planes, zeros
from boxwood._internal.engine.llvm import jit
from boxwood._internal.engine.llvm.cache import ObjectCache, default_cache
from boxwood._internal.engine.llvm.objects import Library
from boxwood._internal.engine.targets import Target

REVISION = 4
CLOSE = 1.25
"""Predicted times within this factor are decided by a measurement."""
LONG_ENOUGH = 2e-4
"""Seconds that one measurement lasts at least, by calling more than once."""


class TimedKernel:
    """A kernel with buffers of its own, to be timed.

    Args:
        kernel: the kernel.
        source: layout of its input.
        target: layout of its output.
        library: where its function is.
        images: images in the buffers.
    """

    def __init__(
        self, kernel: Kernel, source: Planes, target: Planes, library: Library, images: int = 1
    ) -> None:
        rng = np.random.default_rng(0)
        values = rng.standard_normal((images, *source.shape), np.float32)
        self.source, self.target = zeros(source.size(images)), zeros(target.size(images))
        self.second, self.scratch = zeros(target.size(images)), zeros(kernel.scratch // 4)
        source.write_(self.source, values)
        self.constants = [zeros(-(-constant.nbytes // 4)) for constant in kernel.constants]
        for place, constant in zip(self.constants, kernel.constants, strict=True):
            flat = np.ascontiguousarray(constant).view(np.uint8).ravel()
            place.view(np.uint8)[: constant.nbytes] = flat
        self._arguments = arguments(
            kernel,
            [place.ctypes.data for place in self.constants],
            source=self.source.ctypes.data,
            target=self.target.ctypes.data,
            second=self.second.ctypes.data,
            scratch=self.scratch.ctypes.data,
            images=images,
        )
        self._address = self._arguments.ctypes.data
        self._function = library.function(kernel.code.entry)
        self._library = library

    def __call__(self) -> None:
        """Run on one thread."""
        self._function(self._address, 0, 1)


def least_seconds(runs: Sequence[Run], *, turns: int = 5) -> list[float]:
    """Return the least seconds per call of each run.

    Args:
        runs: what to time.
        turns: measurements of each.
    """
    named = dict(enumerate(runs))
    calls = {name: calls_lasting(run, LONG_ENOUGH, most=2000) for name, run in named.items()}
    return [min(each) for each in by_turns(named, turns, calls=calls).values()]


def measure_rates(target: Target, cache: ObjectCache | None = None) -> Rates:
    """Measure this machine's rates: about a second, and llvmlite is needed once.

    Args:
        target: the family of this machine.
        cache: where compiled kernels are kept.
    """
    rng = np.random.default_rng(0)

    def weight(rows: int, columns: int, height: int, keep: float) -> Array:
        kept = rng.random((rows // height, columns)) < keep
        values = rng.standard_normal((rows, columns), np.float32)
        return np.where(np.repeat(kept, height, 0), values, np.float32(0))

    tokens, vectors = 128, 128 // target.lanes
    problem = conv.linear(512, 240, tokens)
    single, full = weight(240, 512, 1, 0.2), weight(240, 512, 1, 1.0)
    vector = matvec.MatVec(1024, 1024)
    matrices = [(height, weight(1024, 1024, height, 0.1)) for height in (1, *HEIGHTS)]
    rounds = 20_000
    kernels: list[tuple[Kernel, Conv | matvec.MatVec]] = [
        (peak.build(rounds, target), problem),
        (conv.build(problem, single[..., None, None], None, target), problem),
        (conv.build(problem, full[..., None, None], None, target), problem),
        *(
            (matvec.build(vector, matrix, None, target, height=height), vector)
            for height, matrix in matrices
        ),
    ]
    library = jit.load_codes([kernel.code for kernel, _ in kernels], target, cache)
    times = least_seconds(
        [TimedKernel(kernel, each.source, each.target, library) for kernel, each in kernels]
    )
    cycle = times[0] / (rounds * peak.CHAINS) * 2
    scalar, *column = (
        seconds / cycle / block_columns(matrix[None], height)
        for seconds, (height, matrix) in zip(times[3:], matrices, strict=True)
    )
    return Rates(
        single=times[1] / cycle / np.count_nonzero(single) / vectors,
        blocked=times[2] / cycle / np.count_nonzero(full) / vectors,
        scalar=scalar,
        column=(column[0], column[1]),
    )


@functools.cache
def rates(target: Target, cache: ObjectCache | None = None) -> Rates:
    """This machine's rates, measured once and kept in the user's cache.

    Args:
        target: the family of this machine.
        cache: where they are kept; the user's when None.
    """
    cache = cache or default_cache("costs")
    key = _key("rates", target)
    found = cache.get(key)
    if found is not None:
        fields = json.loads(found)
        return Rates(**{**fields, "column": tuple(fields["column"])})
    measured = measure_rates(target, default_cache())
    cache.put(key, json.dumps(dataclasses.asdict(measured)).encode())
    return measured


def choose_packing(
    problem: Conv,
    weight: Array,
    target: Target,
    *,
    threads: int = 1,
    cache: ObjectCache | None = None,
) -> ConvPacking | None:
    """The fastest packing of a weight on this machine.

    Decisions are kept by the shape of the problem and by the share of weights that are not zero,
    to a twentieth, so that the next compile measures nothing.

    Args:
        problem: the convolution.
        weight: its weight.
        target: the family of this machine.
        threads: threads that share the work.
        cache: where decisions are kept; the user's when None.

    Returns:
        The packing; None for a depthwise convolution, which has one way only.
    """
    if problem.depthwise:
        return None
    cache = cache or default_cache("costs")
    density = round(20 * np.count_nonzero(weight) / weight.size)
    first = conv.usual_packing(problem, weight, target, threads, rates(target))
    key = _key(f"{problem}|{threads}|{density}|{first}", target)
    found = cache.get(key)
    if found is not None:
        return ConvPacking(**json.loads(found))
    packings = list(neighbours(first, target))
    other = conv.usual_packing(problem, weight, target, threads, _other(first, rates(target)))
    if other.height != first.height:
        packings.append(other)
    kernels = [conv.build(problem, weight, None, target, packing=packing) for packing in packings]
    best = packings[_fastest(kernels, problem, target)]
    cache.put(key, json.dumps(dataclasses.asdict(best)).encode())
    return best


def choose_int8_packing(
    problem: Int8Conv,
    weight: Weight,
    constants: Array,
    target: Target,
    *,
    threads: int = 1,
    cache: ObjectCache | None = None,
) -> int8_build.Int8Packing | None:
    """The fastest packing of a weight of bytes on this machine, as `choose_packing`.

    Args:
        problem: the convolution.
        weight: its weight.
        constants: its scales and offsets, [2, out].
        target: the family of this machine.
        threads: threads that share the work.
        cache: where decisions are kept; the user's when None.
    """
    cache = cache or default_cache("costs")
    first = int8_build.usual_packing(problem, weight, target, threads)
    density = round(20 * int8_build.density(weight))
    about = (problem.shape, problem.out is None, first)
    key = _key(f"int8|{about}|{threads}|{density}", target)
    found = cache.get(key)
    if found is not None:
        return dataclasses.replace(first, conv=ConvPacking(**json.loads(found)))
    packings = list(int8_build.neighbours(problem, first, weight, target, threads))
    kernels = [
        int8_build.build(problem, weight, constants, target, packing=packing)
        for packing in packings
    ]
    best = packings[_fastest(kernels, problem.shape, target)]
    cache.put(key, json.dumps(dataclasses.asdict(best.conv)).encode())
    return best


def _fastest(kernels: Sequence[Kernel], problem: Conv, target: Target) -> int:
    """Return which of several kernels of one convolution is the fastest."""
    library = jit.load_codes([kernel.code for kernel in kernels], target, default_cache())
    runs = [TimedKernel(kernel, problem.source, problem.target, library) for kernel in kernels]
    return int(np.argmin(least_seconds(runs, turns=3)))


def _other(packing: ConvPacking, known: Rates) -> Rates:
    """Rates that favour the other row height as far as measured times may be close."""
    factor = CLOSE if packing.height == 1 else 1 / CLOSE
    return dataclasses.replace(known, single=known.single * factor)


def _key(what: str, target: Target) -> str:
    """Digest of what was decided, for which family, on which processor."""
    text = f"{REVISION}|{what}|{target}|{_processor()}"
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _processor() -> str:
    """The processor's name, or nothing where the system does not report it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")
