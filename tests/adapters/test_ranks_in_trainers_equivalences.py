"""RigL under other people's trainers on two ranks: both hold the same masks and weights."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "trainers_at_work.py"
PATIENCE = 240  # seconds, on a machine that is busy with other tests


@pytest.mark.slow  # six processes, each of which imports a trainer: most of a minute
@pytest.mark.parametrize("trainer", ["transformers", "lightning", "accelerate"])
def test_ranks_agree(trainer, tmp_path):
    """What the trainer wraps and how it averages makes no difference."""
    pytest.importorskip("accelerate" if trainer == "transformers" else trainer)
    pytest.importorskip(trainer)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, SCRIPT, trainer, str(tmp_path)],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "TORCHELASTIC_RUN_ID": "test",
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "GROUP_RANK": "0",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=PATIENCE)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(said)
    mine, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert mine.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
    kept = [int(each.sum()) for name, each in mine.items() if name.startswith("mask")]
    assert kept == [80, 16]
    for name, mask in mine.items():
        if name.startswith("mask"):
            assert not mine[name.replace("mask", "weight", 1)][~mask].any()
