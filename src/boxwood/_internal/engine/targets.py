"""Targets: what a kernel may assume of the processor that it is emitted for."""

import functools
import platform
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class Target:
    """A processor family: its instruction set as LLVM names it, and its sizes.

    Args:
        triple: LLVM's target triple.
        cpu: LLVM's name of the family to compile for.
        features: LLVM's feature string on top of the family.
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
    l1: int = 32 * 1024
    l2: int = 512 * 1024

    @property
    def vector(self) -> str:
        """LLVM's type of one vector register."""
        return f"<{self.lanes} x float>"


AVX2 = Target("x86_64-unknown-linux-gnu", "x86-64-v3", "", 8, 16)
AVX512 = Target("x86_64-unknown-linux-gnu", "x86-64-v4", "-prefer-256-bit", 16, 32)
NEON = Target("aarch64-unknown-linux-gnu", "neoverse-n1", "", 4, 32)


@functools.cache
def host() -> Target:
    """The family of this machine, with its cache sizes where the system reports them.

    Compiled code is for the family, so it moves between machines of one family.

    Raises:
        InvalidInput: the processor has neither AVX2 nor NEON.

    Example:
        >>> host().lanes in (4, 8, 16)
        True
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if platform.machine().lower() in {"arm64", "aarch64"}:
        family = NEON
        if sys.platform == "darwin":
            family = replace(NEON, triple="arm64-apple-darwin", cpu="apple-m1")
    elif capability == "AVX512":
        family = AVX512
    elif capability == "AVX2":
        family = AVX2
    else:
        raise InvalidInput(
            f"Expected a processor with AVX2, AVX-512 or NEON, got {platform.machine()} with "
            f"torch's capability {capability}; run the model in torch on this machine."
        )
    return replace(family, l1=_cache_bytes(0, family.l1), l2=_cache_bytes(2, family.l2))


def _cache_bytes(index: int, fallback: int) -> int:
    try:
        text = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size").read_text("ascii")
        return int(text.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return fallback
