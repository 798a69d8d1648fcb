"""Targets: what a kernel may assume of the processor that it is emitted for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A processor family: its instruction set as LLVM names it, and its sizes.

    Args:
        triple: LLVM's target triple.
        cpu: LLVM's name of the processor to schedule for.
        features: LLVM's feature string, ``"+avx2,+fma"``; empty for the processor's own.
        lanes: float32 values per vector register.
        registers: vector registers.
        l1: bytes of the first-level data cache.
        l2: bytes of the second-level cache of one core.
    """

    triple: str
    cpu: str
    features: str
    lanes: int
    registers: int
    l1: int
    l2: int


AVX2 = Target(
    "x86_64-unknown-linux-gnu", "x86-64-v3", "+prefer-256-bit", 8, 16, 32 * 1024, 512 * 1024
)
AVX512 = Target(
    "x86_64-unknown-linux-gnu", "x86-64-v4", "-prefer-256-bit", 16, 32, 32 * 1024, 1024 * 1024
)
NEON = Target("aarch64-unknown-linux-gnu", "neoverse-n1", "", 4, 32, 64 * 1024, 1024 * 1024)
