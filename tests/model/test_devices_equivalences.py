"""A network on an accelerator gives what it gives on the CPU, whatever stays on the CPU.

The device is a pretend one, see `pretend_device.py`: it raises where tensors of two devices meet,
and counts what CUDA would let the host wait for.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "run_devices.py"
PAGE = Path(__file__).parents[2] / "docs" / "guides" / "gpus_and_clusters.md"
PATIENCE = 500  # seconds, on a machine that is busy with other tests
HISTOGRAM = 8 * (1 << 16)  # bytes


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a process with the device has written down."""
    written = tmp_path_factory.mktemp("devices") / "found.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, str(written)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(written.read_text())


def test_networks_on_a_device_give_the_numbers_of_the_cpu(found: dict[str, Any]) -> None:
    """Every scenario runs, and agrees with itself on the CPU."""
    wrong = [f"{name}:\n{each}" for name, each in found["said"].items() if each]
    assert not wrong, "\n\n".join(wrong)
    assert len(found["said"]) > 60


def test_every_public_function_has_met_a_tensor_of_the_device(found: dict[str, Any]) -> None:
    """A new one needs a scenario, or a reason in `public_functions.py`; reasons are true."""
    assert not found["unseen"], "give these a scenario in devices_in_parts.py"
    assert not found["outdated"], "these reasons are no longer true or needed"


def test_nothing_waits_for_the_device_between_updates(found: dict[str, Any]) -> None:
    """Masks are held without a wait, and `train_` waits for the two halves of a batch at most."""
    steps = {row["what"]: row["per_step"] for row in found["waits"] if row["per_step"] is not None}
    assert len(steps) > 10
    assert steps.pop("`train_`, data on the host") <= 2
    assert steps.pop("`SparseTraining`, STR: every step") == 2  # weights are checked for NaN
    assert set(steps.values()) == {0}


def test_selection_copies_histograms_and_no_weights(found: dict[str, Any]) -> None:
    """Two of 16 bits for a threshold, which is looked for twice: for the count, and for the mask."""
    copied = {row["what"]: row["to_host"] for row in found["waits"]}
    assert copied["`find_masks`, 30,000 weights"] == 0
    assert copied["`find_masks`, 1,200,000 weights"] == 4 * HISTOGRAM
    assert all(each == 0 for what, each in copied.items() if "`SparseTraining`" in what)


def test_the_documents_say_what_waits(found: dict[str, Any]) -> None:
    """``python tests/model/synchronisations.py`` prints the table, updates of masks included."""
    page = PAGE.read_text()
    for row in found["waits"]:
        if row["per_step"] is not None:
            assert f"| {row['what']} | {row['per_step']:g} |" in page
