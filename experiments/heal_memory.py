"""The memory that healing takes, against what is said of it: 16 bytes a trained parameter, and the rest.

Writes Llamas of random weights with the same blocks but more of them, makes three steps of each
way of healing in a process of its own (``boxwood heal --dry-run``), and notes the most memory held.

    python experiments/heal_memory.py
"""

import argparse
import importlib.util
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pretrained_memory import make
from pruning_runs import boxwood, imports

from boxwood._internal.runs.provenance import provenance

OUT = Path(__file__).parent / "results" / "heal_memory.json"
LENGTH, BATCH = 128, 2
WAYS = {
    "text alone": (),
    "teacher": ("--teacher",),
    "teacher, recomputed": ("--teacher", "--checkpointing"),
    "adapters": ("--lora",),
}


def main() -> None:
    """Heal models of two depths in every way and write down what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 6])
    given = parser.parse_args()
    rows = [row for count in given.blocks for row in measured(count)]
    found = {"length": LENGTH, "batch": BATCH, **imports(), "rows": rows, "machine": provenance()}
    OUT.write_text(json.dumps(found, indent=1, default=str) + "\n")
    for row in rows:
        print(json.dumps(row))


def measured(blocks: int) -> list[dict[str, Any]]:
    """Heal a model of the given number of blocks by itself."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        make(at / "dense", blocks)
        (at / "text.txt").write_text("a b c d e f g h\n" * 200)
        for name, settings in WAYS.items():
            if "--lora" in settings and importlib.util.find_spec("peft") is None:
                continue
            call = [
                *boxwood(), "heal", str(at / "dense"), "--out", str(at / "out"), "--text", str(at / "text.txt"),
                "--tokens", "1K", "--length", str(LENGTH), "--batch", str(BATCH), "--no-bf16",
                "--dry-run", "--json",
            ]  # fmt: skip
            for option in settings:
                call += [option, str(at / "dense")] if option == "--teacher" else [option]
            done = subprocess.run(call, stdout=subprocess.PIPE, check=True)  # noqa: S603
            said = json.loads(done.stdout)
            rows.append(
                {
                    "blocks": blocks,
                    "way": name,
                    "trained": said["trained"],
                    "peak_memory_bytes": said["peak_memory_bytes"],
                }
            )
    return rows


if __name__ == "__main__":
    main()
