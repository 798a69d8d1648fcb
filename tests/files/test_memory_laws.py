"""Pruning and packing hold a few chunks, however large a tensor is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEGABYTES = 200

GROWTH = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from boxwood._internal.files.packed import pack_file, unpack_file
from boxwood._internal.files.streaming import prune_checkpoint

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

at = Path(sys.argv[1])
prune_checkpoint(at / "small.safetensors", at / "small", 0.5)
before = peak()
prune_checkpoint(at / "large.safetensors", at / "large", 0.5)
pack_file(at / "large" / "large.safetensors", at / "packed.safetensors")
unpack_file(at / "packed.safetensors", at / "back.safetensors")
print(peak() - before)
"""


def zeros(path: Path, rows: int) -> None:
    """Write a file of zeros that takes no room on the disk."""
    size = rows * 1000 * 4
    entry = {"dtype": "F32", "shape": [rows, 1000], "data_offsets": [0, size]}
    text = json.dumps({"w": entry}).encode()
    with path.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + size)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_a_tensor(tmp_path):
    """One tensor of 200 MB is pruned, packed and unpacked in a third of its size."""
    zeros(tmp_path / "small.safetensors", 10)
    zeros(tmp_path / "large.safetensors", MEGABYTES * 250)
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < MEGABYTES / 3
