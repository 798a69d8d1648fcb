"""Runs of ``boxwood prune`` in processes of their own, and what was measured of them, kept for good."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from boxwood._internal.core.replacing import replacing
from boxwood._internal.runs.provenance import provenance
from boxwood.runs import Finding

METHODS = ("magnitude", "wanda", "ria", "sparsegpt")
Measure = Callable[[Path], dict[str, Any]]


def boxwood(*arguments: str) -> list[str]:
    """Return the call of a command of Boxwood in a process of its own."""
    code = "from boxwood._internal.cli.main import main; main()"
    return [sys.executable, "-c", code, *arguments]


def pruned(command: list[str], out: Path, measure: Measure) -> dict[str, Any]:
    """Prune a model into a folder, measure what came out, and delete it."""
    shutil.rmtree(out, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call = boxwood("prune", *command, "--out", str(out), "--json")
    done = subprocess.run(call, stdout=subprocess.PIPE, check=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = json.loads(done.stdout)
    found = {
        "by": said["by"],
        "sparsity": said["total"]["sparsity"],
        "weights": said["total"]["weights"],
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_memory_bytes": said["peak_memory_bytes"],
        "calibration_tokens": said["calibration_tokens"],
        **measure(out),
    }
    shutil.rmtree(out)
    return found


def sweep(
    model: Path, levels: Sequence[str], settings: Sequence[str], store: Path, measure: Measure
) -> None:
    """Run every method at every level, such as 0.5 or 2:4, that has not been run."""
    for level in levels:
        wanted = ["--pattern" if ":" in level else "--sparsity", level]
        for by in METHODS:
            command = [str(model), "--by", by, *wanted, *settings]
            write_once(place(store, by, level), partial(pruned, command, store / "pruned", measure))


def report(
    out: Path, facts: Mapping[str, Any], rows: Mapping[str, Any], findings: Iterable[Finding]
) -> None:
    """Write down what was found, and print how it is judged."""
    judged = list(findings)
    found = {**facts, "rows": rows, "findings": [asdict(finding) for finding in judged]}
    found["machine"] = provenance()
    out.write_text(json.dumps(found, indent=1, default=str) + "\n")
    for finding in judged:
        print(finding)


def place(store: Path, by: str, level: str) -> Path:
    """Name the file of a run."""
    return store / f"{by} {level}.json".replace(":", " of ")


def imports() -> dict[str, int]:
    """Return the memory that a process takes before it does anything."""
    code = (
        "import boxwood._internal.cli.main, boxwood._internal.adapters.pretrained;"
        "from boxwood._internal.cli.prune_blocks import peak_memory; print(peak_memory())"
    )
    said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)  # noqa: S603
    return {"imports_memory_bytes": int(said.stdout)}


def write_once(path: Path, make: Callable[[], dict[str, Any]]) -> None:
    """Keep what is measured, whole or not at all."""
    if not path.exists():
        content = json.dumps(make(), indent=1)
        with replacing(path) as new:
            new.write_text(content)
        print(path.stem, content, flush=True)


def rows_of(store: Path) -> dict[str, Any]:
    """Read all that has been measured."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(store.glob("*.json"))}
