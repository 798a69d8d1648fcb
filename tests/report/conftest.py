"""A store that was written by hand, so that every number on its page is known beforehand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from boxwood._internal.core.digests import digest
from boxwood._internal.recipes.phase import State
from boxwood._internal.runs.store import Store

MODEL = {"function": "boxwood.networks:lenet_300_100"}
DATA = {"function": "boxwood.data:digits"}
PHASES = "boxwood.phases"
SHAPES = {"fc1": (6, 16), "fc2": (3, 6)}
SIZE = 114
"""Weights of both layers."""


def prune(sparsity: float, criterion: str = "magnitude") -> dict[str, Any]:
    return {
        "is": f"{PHASES}:Prune",
        "sparsity": sparsity,
        "criterion": {"function": f"boxwood.criteria:{criterion}"},
        "allocation": {"function": "boxwood.allocation:global_"},
        "label": "",
    }


def train(label: str = "", epochs: int = 2) -> dict[str, Any]:
    training = {"is": "boxwood.training:Training", "epochs": epochs, "batch": 60}
    return {
        "is": f"{PHASES}:Train",
        "training": training,
        "correct_dropout": False,
        "label": label,
    }


def measure(label: str) -> dict[str, Any]:
    return {"is": f"{PHASES}:Measure", "label": label}


def trained(epochs: int = 2, start: float = 0.5) -> dict[str, Any]:
    rows = [
        {"epoch": e + 1, "loss": 1 / (e + 1), "validation": start + 0.1 * e} for e in range(epochs)
    ]
    return {"history": rows, "epochs": epochs}


def measured(
    correct: int, kept: Sequence[int] = (96, 18), *, validation: int = 900
) -> dict[str, Any]:
    layers = [
        {
            "name": name, "kind": "Linear", "weights": o * i, "kept": k, "multiply_adds": o * i,
            "effective_multiply_adds": k, "input_activity": 1.0, "output_activity": 0.5,
            "han_flops_kept": k / (o * i),
        }
        for (name, (o, i)), k in zip(SHAPES.items(), kept, strict=True)
    ]  # fmt: skip
    whole = sum(kept)
    return {
        "test": {"correct": correct, "total": 1000},
        "validation": {"correct": validation, "total": 1000},
        "parameters": SIZE + 9, "nonzero": whole + 9, "weights": SIZE, "kept": whole,
        "multiply_adds": whole, "dense_multiply_adds": SIZE, "bytes": 4 * whole + 30,
        "dense_bytes": 4 * SIZE, "layers": layers,
    }  # fmt: skip


def state(kept: Sequence[int] | None, facts: Mapping[str, Any]) -> State:
    """Weights 1, 2, 3, … of each layer; the masks keep the last of them."""
    weights = {
        f"{name}.weight": torch.arange(1.0, o * i + 1).reshape(o, i)
        for name, (o, i) in SHAPES.items()
    }
    if kept is None:
        return State(weights, {}, facts)
    masks = {}
    for (name, weight), count in zip(weights.items(), kept, strict=True):
        flat = torch.zeros(weight.numel(), dtype=torch.bool)
        flat[weight.numel() - count :] = True
        masks[name] = flat.reshape(weight.shape)
    return State(weights, masks, facts)


Phase = tuple[dict[str, Any], dict[str, Any] | None, Sequence[int] | None]
"""A spec, the facts that it left (None while it is not done), and what its masks keep."""


def note(store: Store, name: str, seed: int, phases: Sequence[Phase], **start: Any) -> list[str]:
    """Write one run; phases that are alike have one key, as everywhere."""
    genesis = {
        "is": "boxwood.recipes:Genesis", "model": MODEL, "data": DATA, "seed": seed,
        "checkpoint": None, "checkpoint_sha256": None, **start,
    }  # fmt: skip
    chain = [digest(genesis)]
    about = {
        "data": "d" * 64,
        "provenance": {"processor": "P", "torch": "2", "threads": 1, "seconds": 1.5},
    }
    if not store.has(chain[0]):
        store.commit(chain[0], state(None, {}), {"spec": genesis, "parent": None, **about})
    for spec, facts, kept in phases:
        chain.append(digest(chain[-1], spec))
        if facts is not None and not store.has(chain[-1]):
            more = {"spec": spec, "parent": chain[-2], **about}
            store.commit(chain[-1], state(kept, facts), more)
    recipe = [spec for spec, _, _ in phases]
    store.note_run(
        chain[-1],
        {"name": f"{name} / seed {seed}", "chain": chain, "genesis": genesis, "recipe": recipe},
    )
    return chain


LEVELS = ((0.5, (48, 9), (960, 1)), (0.75, (24, 4), (955, 2)), (0.9, (9, 2), (940, 3)))
"""Sparsity, weights kept per layer, and right answers of seed 0 and how many more each seed has."""


def fill(store: Store, seeds: Sequence[int] = range(5)) -> None:
    """Three recipes: dense, pruned step by step, and the same by chance."""
    for seed in seeds:
        dense: list[Phase] = [(train("dense"), trained(), None)]
        note(
            store,
            "dense",
            seed,
            [*dense, (measure(""), measured(962 + seed, validation=955), None)],
        )
        for name, criterion, loss in (("pruned", "magnitude", 0), ("by chance", "random", 40)):
            phases = list(dense)
            for level, (sparsity, kept, (right, step)) in enumerate(LEVELS, 1):
                correct = right + step * seed - loss
                facts = {
                    "kept": dict(zip(("fc1.weight", "fc2.weight"), kept, strict=True)),
                    "sparsity": 1 - sum(kept) / SIZE,
                }
                phases += [
                    (prune(sparsity, criterion), facts, kept),
                    (train(), trained(start=0.6), kept),
                    (
                        measure(f"round-{level}"),
                        measured(correct, kept, validation=955 - 2 * level - loss),
                        kept,
                    ),
                ]
            note(store, name, seed, phases)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of `fill`; do not write into it."""
    made = Store(tmp_path_factory.mktemp("stores") / "runs")
    fill(made)
    return made


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    """A store to write into."""
    return Store(tmp_path / "runs")


@pytest.fixture(scope="session")
def hand() -> SimpleNamespace:
    """What writes stores by hand, for tests that need another one."""
    return SimpleNamespace(
        note=note, fill=fill, prune=prune, train=train, trained=trained, measure=measure,
        measured=measured,
    )  # fmt: skip
