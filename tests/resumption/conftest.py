"""What the tests of this folder read from a store."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from boxwood.train.snapshots import Snapshot


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
def stopping() -> type[Stopping]:
    """Return the class of checkpoints that stop."""
    return Stopping
