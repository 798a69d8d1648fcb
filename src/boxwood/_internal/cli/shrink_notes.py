"""What all commands that shrink with a text measure and print: perplexities, costs, sizes, loaders."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from boxwood._internal.cli.shrink_pretrained import Reading
from boxwood._internal.core.memory import peak_memory


def costs(measured: Mapping[str, float], begin: float, reading: Reading) -> dict[str, Any]:
    """Collect what a report ends with.

    Args:
        measured: perplexities, by when they were measured.
        begin: of the work, by `time.perf_counter`.
        reading: the text that decided.
    """
    return {
        "perplexity": measured,
        "seconds": time.perf_counter() - begin,
        "peak_memory_bytes": peak_memory(),
        "calibration_tokens": sum(batch["input_ids"].numel() for batch in reading.calibration),
    }


def notes(report: Mapping[str, Any], out: Path | None, *between: str) -> Iterator[str]:
    """Say a report in lines; those ``between`` stand after the perplexities."""
    measured = report["perplexity"]
    if measured:
        listed = ", ".join(f"{value:.4g} {when}" for when, value in measured.items())
        yield f"Perplexity on the last tenth of the text: {listed}"
    yield from between
    yield (
        f"{report['seconds']:.0f} s, at most {report['peak_memory_bytes'] / 1e9:.2f} GB of memory, "
        f"{report['calibration_tokens']:,} calibration tokens"
    )
    if "parameters" in report:
        before, after = report["parameters"]
        yield f"Parameters: {before:,} before, {after:,} after ({after / before:.1%})"
        yield from report["loads"]
        yield f"Written: {out}"
