"""Provenance: the machine and versions that computed a result. It is recorded, but is never part of an identity."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Machine and versions, as plain JSON values.

    Args:
        device: where it was computed; written down unless it is the CPU.

    Example:
        >>> sorted(provenance())[:3]
        ['boxwood', 'commit', 'cores']
    """
    found = {
        "boxwood": metadata.version("boxwood"),
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    return found if device is None or device.type == "cpu" else {**found, "device": _named(device)}


def _named(device: torch.device) -> str:
    name = getattr(getattr(torch, device.type, None), "get_device_name", None)
    return str(device) if name is None else f"{device} ({name(device)})"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str | None:
    """Commit of the source checkout, if this is one."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() or None
