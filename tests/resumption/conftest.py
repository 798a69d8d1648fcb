"""What the tests of this folder read from a store."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


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
