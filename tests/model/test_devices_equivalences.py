"""A network on an accelerator gives what it gives on the CPU, whatever stays on the CPU beside it.

The device is a pretend one, see `pretend_device.py`: it raises where tensors of two devices meet.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "devices_at_work.py"
PATIENCE = 400  # seconds, on a machine that is busy with other tests


def test_networks_on_a_device_give_the_numbers_of_the_cpu(tmp_path):
    """Every scenario of `devices_at_work.py` runs, and agrees with itself on the CPU."""
    written = tmp_path / "said.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, str(written)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(written.read_text())
    wrong = [f"{name}:\n{each}" for name, each in said.items() if each]
    assert not wrong, "\n\n".join(wrong)
    assert len(said) > 40
