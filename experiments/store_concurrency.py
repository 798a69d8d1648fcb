"""Many processes on one store, killed at random, while others read and collect garbage.

The law: what is in the store in the end is byte for byte what one undisturbed process leaves; a
process that nobody kills ends by itself without an error; whoever reads meanwhile meets no damaged
file; garbage collection takes what nobody wants and nothing else, and in the end nothing unfinished
is left. Each round begins with an empty store, in which lie a phase and a note that nobody finished.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile_stores import experiment

from boxwood._internal.core.replacing import UNFINISHED
from boxwood._internal.report.page.store_reader import read
from boxwood._internal.runs.provenance import provenance
from boxwood.errors import BoxwoodError
from boxwood.recipes import State
from boxwood.runs import Job, RunSettings, Store, collect_garbage, jobs_of, run_all

FORK = multiprocessing.get_context("fork")
ORPHAN = "f" * 20
PATIENCE = 120
"""Seconds after which a round counts as hanging."""


def wanted() -> list[Job]:
    """What is run."""
    return jobs_of(experiment(), range(2))


def contents(store: Path) -> dict[str, tuple[bytes, Any]]:
    """Bytes and facts of every finished phase."""
    return {
        folder.name: (
            (folder / "state.safetensors").read_bytes(),
            json.loads((folder / "phase.json").read_text())["facts"],
        )
        for folder in (store / "phases").iterdir()
        if not folder.name.startswith(".")
    }


def runs(root: Path) -> None:
    """Run everything, with a snapshot at every step."""
    run_all(wanted(), Store(root), RunSettings(snapshot_every=0))


def collects(root: Path) -> None:
    """Collect garbage without a pause."""
    while True:
        collect_garbage(Store(root))


def reads(root: Path) -> None:
    """Read everything without a pause."""
    while True:
        try:
            for study in read([Store(root)]):
                _ = study.measurements
        except BoxwoodError as error:
            if "got 0 of which" not in str(error):  # nothing has been noted yet
                raise


def notes(root: Path) -> None:
    """Let threads of one process write the same notes."""

    def note(turn: int) -> None:
        for _ in range(20):
            path = root / "runs" / f"{turn % 2}{'e' * 19}.json"
            path.unlink(missing_ok=True)
            about = {"name": "x", "chain": ["e" * 20], "genesis": {}, "recipe": []}
            Store(root).note_run(path.stem, about)

    threads = [threading.Thread(target=note, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for turn in range(2):
        (root / "runs" / f"{turn}{'e' * 19}.json").unlink(missing_ok=True)


def guarded(work: Callable[[Path], None], root: Path, said: Path) -> None:
    """Do the work of a child; what it raises or warns of is kept."""
    warnings.simplefilter("error")
    try:
        work(root)
    except BaseException:  # noqa: BLE001 - the very thing that is looked for
        with said.open("a") as file:
            file.write(f"{work.__name__}: {traceback.format_exc()}\n")
        os._exit(1)
    os._exit(0)


def one_round(root: Path, said: Path, chance: random.Random) -> Counter[str]:
    """Run everything on an empty store, with kills; return what happened."""
    counts: Counter[str] = Counter()
    store = Store(root)
    store.commit(ORPHAN, State({"a": torch.ones(9)}, {}, {}), {"spec": {"is": "x:y"}, "parent": None, "provenance": {}})  # fmt: skip
    (root / "runs").mkdir()
    (root / "runs" / f"{UNFINISHED}0-{ORPHAN}.json").write_text("{")

    def start(work: Callable[[Path], None]) -> Any:
        child = FORK.Process(target=guarded, args=(work, root, said), daemon=True)
        child.start()
        return child

    companions = [start(collects), start(reads), start(notes)]
    runners = [start(runs) for _ in range(3)]
    end = time.monotonic() + PATIENCE
    kills = chance.randrange(4, 12)
    while any(child.is_alive() for child in runners) and time.monotonic() < end:
        time.sleep(chance.uniform(0.02, 0.4))
        alive = [child for child in runners if child.is_alive()]
        if alive and kills:
            victim = chance.choice(alive)
            how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            os.kill(victim.pid, how)
            victim.join()
            counts[how.name] += victim.exitcode == -how
            runners.remove(victim)
            runners.append(start(runs))
            kills -= 1
    counts["hangs"] += any(child.is_alive() for child in runners)
    counts["failures"] += sum(child.exitcode not in (0, None) for child in runners)
    for child in [*companions[:2], *runners]:
        child.kill()
    for child in [*companions, *runners]:
        child.join()
    collect_garbage(store)
    left = [p for p in root.rglob("*") if p.name.startswith(UNFINISHED)]
    counts["left behind"] += len(left) + store.has(ORPHAN)
    counts["rounds"] += 1
    return counts


def main() -> None:
    """Run some rounds and write the counts down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/store_concurrency.json"))  # fmt: skip
    given = parser.parse_args()
    torch.set_num_threads(1)
    begin, chance = time.perf_counter(), random.Random(given.seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        calm, storm, said = (Path(name) / each for each in ("calm", "storm", "said"))
        runs(calm)
        right = contents(calm)
        for _ in range(given.rounds):
            counts += one_round(storm, said, chance)
            counts["byte-identical"] += contents(storm) == right
            shutil.rmtree(storm)
        errors = said.read_text().split("\n\n") if said.exists() else []
    found = {
        "phases": len(right),
        "counts": {
            name: counts[name]
            for name in (
                "rounds", "byte-identical", "SIGKILL", "SIGTERM", "failures", "hangs", "left behind",
            )
        },
        "errors": [error[-600:] for error in errors if error.strip()][:20],
        "seed": given.seed,
        "seconds": round(time.perf_counter() - begin, 1),
        "machine": provenance(),
    }  # fmt: skip
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
