"""The peak multiply-adds of one core, to compare kernels with."""

from boxwood._internal.engine.kernels import frame
from boxwood._internal.engine.kernels.contract import Code, Kernel
from boxwood._internal.engine.llvm.build import module
from boxwood._internal.engine.targets import Target

CHAINS = 12
"""Sums that do not wait for one another: more than any core has multiply-adds under way."""


def build(rounds: int, target: Target) -> Kernel:
    """A kernel that only multiplies and adds registers, ``rounds · multiply_adds`` times."""
    entry = f"peak_{target.lanes}"
    return Kernel(Code(entry, lambda: emit(entry, target)), (rounds,))


def multiply_adds(target: Target) -> int:
    """Multiply-adds of one round.

    Example:
        >>> from boxwood._internal.engine.targets import AVX2
        >>> multiply_adds(AVX2)
        96
    """
    return CHAINS * target.lanes


def emit(entry: str, target: Target) -> str:
    """The text: values from memory, so that nothing is known beforehand."""
    f, a = frame.begin(entry, ("rounds",))
    kind = target.vector
    left = f.load(kind, a["source"], 4)
    right = f.load(kind, f.offset(a["source"], 4 * target.lanes), 4)
    sums = [f.variable(kind, "zeroinitializer") for _ in range(CHAINS)]
    with f.loop(0, a["rounds"]):
        for sum_ in sums:
            f.store(kind, f.fma(kind, left, right, f.load(kind, sum_)), sum_)
    total = f.load(kind, sums[0])
    for sum_ in sums[1:]:
        total = f.binary("fadd", kind, total, f.load(kind, sum_))
    f.store(kind, total, a["target"], 4)
    return module([f])
