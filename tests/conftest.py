"""What the tests of this folder read from a store."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from boxwood._internal.recipes.phase import State
from boxwood._internal.train.snapshots import Snapshot


@pytest.fixture
def contents() -> Callable[[Path], dict[str, tuple[bytes, object]]]:
    """Return a function that reads the bytes and facts of every finished phase of a store."""

    def read(store: Path) -> dict[str, tuple[bytes, object]]:
        return {
            folder.name: (
                (folder / "state.safetensors").read_bytes(),
                json.loads((folder / "phase.json").read_text())["facts"],
            )
            for folder in (store / "phases").iterdir()
            if not folder.name.startswith(".")
        }

    return read


class Stopping:
    """Checkpoints that keep a snapshot at one moment and stop there; -1 for no stop."""

    def __init__(self, stop: int) -> None:
        self.stop, self.step, self.kept = stop, 0, None

    def load(self) -> Snapshot | None:
        return self.kept

    def due(self) -> bool:
        self.step += 1
        return self.step == self.stop

    def save(self, snapshot: Snapshot) -> None:
        copied = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
        self.kept = Snapshot(copied, snapshot.facts)
        raise KeyboardInterrupt


@pytest.fixture
def stopped_is_undisturbed() -> Callable[..., State]:
    """Return a function that compares a run that is stopped and taken up with one that is not."""

    def compare(phase, start, world, stop) -> State:
        whole = phase.run(start, world())
        checkpoints = Stopping(stop)
        with pytest.raises(KeyboardInterrupt):
            phase.run(start, world(checkpoints))
        checkpoints.stop = -1
        again = phase.run(start, world(checkpoints))
        assert again.facts == whole.facts
        for mine, other in ((again.weights, whole.weights), (again.masks, whole.masks)):
            assert mine.keys() == other.keys()
            assert all(torch.equal(mine[name], other[name]) for name in mine)
        return whole

    return compare
