"""Built kernels and their packed weights, shared by all plans of one program."""

import hashlib
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine import driver, kernel_problems
from boxwood._internal.engine.constants import Constants
from boxwood._internal.engine.kernels import conv, int8_build
from boxwood._internal.engine.kernels.contract import BoundKernel, Kernel
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.int8_conv import Int8Conv
from boxwood._internal.engine.llvm import jit
from boxwood._internal.engine.llvm.cache import ObjectCache, default_cache
from boxwood._internal.engine.llvm.objects import Library, load_library
from boxwood._internal.engine.memory import BYTES_PER_LINE, allocate_aligned
from boxwood._internal.engine.packed_weights import PackedTensor, groups_of
from boxwood._internal.engine.plan import KernelStep
from boxwood._internal.engine.program import Program
from boxwood._internal.engine.targets import Target

HeldConstants = weakref.WeakValueDictionary[tuple[bytes, int], NDArray[Any]]
"""Constants that are in memory, by a fingerprint and a number among those that share it."""

_SAMPLE = 256
"""Bytes that lie together in what is looked at first, at up to 17 places."""

KernelKey = tuple[Any, int | None, int | None]
"""A kernel's problem, the number of its weight and that of its bias."""


@dataclass(eq=False)
class KernelCache:
    """Builds kernels and keeps them, so that plans share packed weights and compiled code.

    Args:
        program: whose constants the weights are.
        target: the processor family.
        threads: that will run them.
        cache: compiled objects on disk, or None.
    """

    program: Program
    target: Target
    threads: int
    cache: ObjectCache | None = field(default_factory=default_cache)

    def __post_init__(self) -> None:
        self.built: dict[KernelKey, BoundKernel] = {}
        self.stored: dict[
            KernelKey, Callable[[], BoundKernel]
        ] = {}  # kernels of a file, not yet looked at
        self.objects: dict[str, bytes] = {}
        self.checked: set[int] = set()  # batches at which operations give the program's shapes
        self.held: HeldConstants = weakref.WeakValueDictionary()
        self.permanent: frozenset[KernelKey] = (
            frozenset()
        )  # kernels that stay whatever else is forgotten

    def of_steps(self, steps: Mapping[int, KernelStep]) -> dict[int, BoundKernel]:
        """Return the kernel of each step."""
        missing: dict[KernelKey, Kernel] = {}
        for step in steps.values():
            key = (step.problem, step.weight, step.bias)
            self.restore(key)
            if key not in self.built and key not in missing:
                missing[key] = self._of_other_sizes(step) or kernel_problems.build_kernel(
                    step.problem,
                    self.weight(step.weight),
                    self.weight(step.bias),
                    self.target,
                    self.threads,
                )
        placed = place_constants(tuple(missing.values()), self.held)
        self.built.update(zip(missing, placed, strict=True))
        return {
            index: self.built[step.problem, step.weight, step.bias] for index, step in steps.items()
        }

    def _of_other_sizes(self, step: KernelStep) -> Kernel | None:
        """Return a kernel that shares the packed weight of one for other sizes."""
        if not self.program.ranges or not isinstance(step.problem, Conv | Int8Conv):
            return None
        for key in tuple(self.stored):
            if key[1:] == (step.weight, step.bias):
                self.restore(key)
        for (problem, weight, bias), bound in self.built.items():
            if (weight, bias) != (step.weight, step.bias):
                continue
            if isinstance(problem, Conv) and isinstance(step.problem, Conv):
                return conv.resized(step.problem, problem, bound.kernel, self.target)
            if isinstance(problem, Int8Conv) and isinstance(step.problem, Int8Conv):
                units = self.weight(bias)
                return int8_build.resized(step.problem, problem, bound.kernel, units, self.target)
        return None

    def restore(self, key: KernelKey) -> None:
        """Take a kernel from the file, if it is there."""
        if key in self.stored:
            self.built[key] = self.stored.pop(key)()

    def compact(self) -> None:
        """Keep for good what is built or stored now, in memory that holds nothing else."""
        kernels = [each.kernel for each in self.built.values()]
        parts = {id(part): part for kernel in kernels for part in kernel.constants}
        memories = {id(each.owner): each.owner for each in self.built.values()}
        held = sum(each.nbytes for each in memories.values() if isinstance(each, np.ndarray))
        if sum(map(_whole_lines, parts.values())) != held:
            self.held.clear()
            self.built = dict(zip(self.built, place_constants(kernels, self.held), strict=True))
        self.permanent = frozenset((*self.built, *self.stored))

    def packed_weights(self) -> dict[int, PackedTensor]:
        """Return the weights that kernels hold, by number."""
        found = {}
        for (problem, weight, _), bound in self.built.items():
            if weight is not None and bound.kernel.packing is not None:
                shape, _ = Constants(self.program.constants).kind(weight)
                found[weight] = PackedTensor(shape, bound.kernel, groups_of(problem))
        return found

    def forget_all_but(self, kernels: Iterable[BoundKernel]) -> None:
        """Forget all kernels but these and the permanent ones."""
        kept = {id(each) for each in kernels}
        self.built = {
            key: each
            for key, each in self.built.items()
            if id(each) in kept or key in self.permanent
        }
        if self.program.ranges:
            return  # code of all sizes is kept, so that a plan for new ones compiles nothing
        own = {driver.CODE.entry, driver.SHARE.entry}
        entries = own | {b.kernel.code.entry for b in self.built.values()}
        self.objects = {e: code for e, code in self.objects.items() if e in entries}

    def library(self, kernels: Iterable[BoundKernel]) -> Library:
        """Return the code of kernels and the driver's."""
        codes = {bound.kernel.code.entry: bound.kernel.code for bound in kernels}
        wanted = [driver.CODE, driver.SHARE, *codes.values()]
        objects = {
            code.entry: self.objects[code.entry] for code in wanted if code.entry in self.objects
        }
        rest = [code for code in wanted if code.entry not in objects]
        self.objects.update(jit.compile_all(rest, self.target, self.cache))
        return load_library({code.entry: self.objects[code.entry] for code in wanted})

    def weight(self, number: int | None) -> NDArray[np.float32] | None:
        """Return a constant as an array; None if there is no number."""
        return None if number is None else self.program.constants[number].numpy()


def place_constants(
    kernels: Sequence[Kernel],
    held: HeldConstants | None = None,
    mapped: NDArray[np.uint8] | None = None,
) -> list[BoundKernel]:
    """Copy the constants of kernels into new memory, each to the start of a cache line.

    Args:
        kernels: the kernels.
        held: constants that are there already: packed weights are often the same for several
            batches, and are then shared.
        mapped: memory of a file; constants that lie on lines there stay.
    """
    held = weakref.WeakValueDictionary() if held is None else held
    parts = {id(part): part for kernel in kernels for part in kernel.constants}
    there = {id(part) for part in held.values()}
    placed = {
        number: part for number, part in parts.items() if number in there or _stays(part, mapped)
    }
    new: dict[int, NDArray[Any]] = {}
    same: dict[int, int] = {}  # the new one that another is equal to
    keys: dict[tuple[bytes, int], int] = {}  # of new ones
    for number, part in parts.items():
        if number in placed:
            continue
        key = (_fingerprint(part), 0)
        while (other := held.get(key, new.get(keys.get(key, -1)))) is not None:
            if _equal_bits(other, part):
                break
            key = (key[0], key[1] + 1)
        if other is None:
            new[number], keys[key] = part, number
        elif key in keys:
            same[number] = keys[key]
        else:
            placed[number] = other
    memory = allocate_aligned(sum(_whole_lines(part) for part in new.values()))
    start = 0
    for key, number in keys.items():
        part = new[number]
        lies = memory[start : start + part.nbytes].view(part.dtype)
        lies[:] = part.reshape(-1)
        placed[number] = held[key] = lies
        start += _whole_lines(part)
    placed |= {number: placed[first] for number, first in same.items()}
    found = []
    for kernel in kernels:
        constants = tuple(placed[id(part)] for part in kernel.constants)
        addresses = tuple(constant.ctypes.data for constant in constants)
        found.append(BoundKernel(replace(kernel, constants=constants), addresses, memory))
    return found


def _whole_lines(part: NDArray[Any]) -> int:
    return -(-part.nbytes // BYTES_PER_LINE) * BYTES_PER_LINE


def _fingerprint(part: NDArray[Any]) -> bytes:
    """Return a digest of an array's type, its size and some of its bytes."""
    flat = _bytes_of(part)
    digest = hashlib.blake2b(f"{part.dtype} {part.size}".encode(), digest_size=16)
    for start in range(0, flat.size, max(_SAMPLE, flat.size // 16)):
        digest.update(flat[start : start + _SAMPLE].data)
    return digest.digest()


def _equal_bits(one: NDArray[Any], two: NDArray[Any]) -> bool:
    return one.dtype == two.dtype and np.array_equal(_bytes_of(one), _bytes_of(two))


def _bytes_of(part: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8)


def _stays(part: NDArray[Any], mapped: NDArray[np.uint8] | None) -> bool:
    if mapped is None:
        return False
    first, place = mapped.ctypes.data, part.ctypes.data
    return first <= place < first + mapped.nbytes and place % BYTES_PER_LINE == 0
