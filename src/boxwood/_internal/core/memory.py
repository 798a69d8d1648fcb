"""The most memory that was held: of this process, or of a device."""

import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_CPU = torch.device("cpu")


def reset_peak_memory(device: torch.device = _CPU) -> None:
    """Count from here on, where the system can: Linux, and CUDA.

    Example:
        >>> reset_peak_memory()
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device = _CPU) -> int:
    """Return the most memory held, in bytes: of the process, or on a CUDA device.

    Example:
        >>> peak_memory() > 1_000_000
        True
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held when it forked
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found is not None:
            return 1024 * int(found[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
