"""Ratios against a named peer: both run by turns, so that a busy machine slows both alike."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Row:
    """One comparison; ``ratio`` is ours over the peer's, the median of the ratios of pairs."""

    name: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    unit: str


def compare(
    name: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, *, unit: str
) -> Row:
    """Make a row out of paired measurements; one of each is a pair as well."""
    ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True))
    return Row(name, statistics.median(ours), statistics.median(peer), peer_name, ratio, unit)


def machine() -> dict[str, object]:
    """What a figure is worth nothing without."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **gpu,
    }


def main(
    measure: Callable[[bool], list[Row]],
    description: str,
    *,
    options: argparse.ArgumentParser | None = None,
) -> None:
    """Read the command line, measure, print; ``options`` are a script's own, which it has read."""
    own = [] if options is None else [options]
    parser = argparse.ArgumentParser(description=description, parents=own)
    parser.add_argument("--quick", action="store_true", help="less than a minute, less certain")
    parser.add_argument("--json", action="store_true", help="rows as JSON instead of a table")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = measure(given.quick)
    if given.json:
        print(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1))
        return
    print(description, " ".join(f"{key}={value}" for key, value in machine().items()), sep="\n")
    wide = max(len(row.name) for row in rows)
    peers = max(len(row.peer_name) for row in rows)
    for row in rows:
        print(
            f"{row.name:<{wide}}  ours {row.ours:>10.4g}  {row.peer_name:<{peers}} "
            f"{row.peer:>10.4g} {row.unit:<13}  ratio {row.ratio:.3f}"
        )
