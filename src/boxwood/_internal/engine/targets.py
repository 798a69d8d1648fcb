"""Targets: what a kernel may assume of the processor that it is emitted for."""

import enum
import functools
import platform
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from boxwood.errors import InvalidInput


class Dots(enum.Enum):
    """How a family adds four products of bytes to each 32-bit sum."""

    VNNI = enum.auto()  # one instruction
    PAIRS = enum.auto()  # products of neighbours are added to 16 bits first, which may saturate
    SIGNED = enum.auto()  # one instruction whose factors both have signs


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

    @property
    def words(self) -> str:
        """LLVM's type of one vector register of 32-bit words."""
        return f"<{self.lanes} x i32>"

    @property
    def dots(self) -> Dots:
        """What the family has for products of bytes."""
        if not self.triple.startswith("x86_64"):
            return Dots.SIGNED
        return Dots.VNNI if "vnni" in self.features else Dots.PAIRS


AVX2 = Target("x86_64-unknown-linux-gnu", "x86-64-v3", "", 8, 16)
AVX_VNNI = replace(AVX2, features="+avxvnni")
AVX512 = Target("x86_64-unknown-linux-gnu", "x86-64-v4", "-prefer-256-bit", 16, 32)
AVX512_VNNI = replace(AVX512, features="-prefer-256-bit,+avx512vnni")
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
        family = AVX512_VNNI if "avx512_vnni" in _features() else AVX512
    elif capability == "AVX2":
        # With AVX-512, torch is held to AVX2: then kernels are, too.
        held = "avx512f" in _features()
        family = AVX_VNNI if "avx_vnni" in _features() and not held else AVX2
    else:
        raise InvalidInput(
            f"Expected a processor with AVX2, AVX-512 or NEON, got {platform.machine()} with "
            f"torch's capability {capability}; run the model in torch on this machine."
        )
    return replace(family, l1=_cache_bytes(0, family.l1), l2=_cache_bytes(2, family.l2))


@functools.cache
def _features() -> frozenset[str]:
    """What Linux says that this processor can do; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def _cache_bytes(index: int, fallback: int) -> int:
    try:
        text = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size").read_text("ascii")
        return int(text.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return fallback
