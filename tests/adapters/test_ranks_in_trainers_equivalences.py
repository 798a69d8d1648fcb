"""Two ranks under somebody's trainer train what one process trains that sees all of the data."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parent / "trainers_at_work.py"
PATIENCE = 400  # seconds, on a machine that is busy with other tests
NEAR = {"rtol": 0.0, "atol": 1e-6}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the ranks of all trainers have left their weights and masks."""
    folder = tmp_path_factory.mktemp("trainers")
    done = subprocess.run(
        [sys.executable, SCRIPT, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    (folder / "said.txt").write_text(done.stdout + done.stderr)
    return folder


def read(folder: Path, case: str, who: str) -> Any:
    path = folder / f"{case}.{who}.pt"
    assert path.exists(), (folder / "said.txt").read_text()[-4000:]
    return torch.load(path)


@pytest.mark.parametrize("what", ["policy", "masks"])
@pytest.mark.parametrize("trainer", ["accelerate", "transformers", "lightning", "lightning fsdp2"])
def test_ranks_train_as_one_process(trainer: str, what: str, results: Path) -> None:
    """RigL by averaged gradients, and masks of one's own; masks bit for bit, weights within 1e-6.

    ``fsdp2``: the module is wrapped by ``fully_shard``, under Lightning's ``ModelParallelStrategy``.
    """
    pytest.importorskip("accelerate" if trainer == "transformers" else trainer.split()[0])
    pytest.importorskip(trainer.split()[0])
    case = f"{trainer}, {what}"
    mine, other, alone = (read(results, case, who) for who in ("0", "1", "alone"))
    assert mine.keys() == other.keys() == alone.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
    kept = {name: mask for name, mask in mine.items() if name.startswith("mask")}
    assert kept
    for name, mask in kept.items():
        weight = name.replace("mask", "weight", 1)
        assert torch.equal(mask, alone[name])
        assert not mine[weight][~mask].any()
        assert mine[weight][mask].any()
    for name in mine.keys() - kept.keys():
        torch.testing.assert_close(mine[name], alone[name], **NEAR)


@pytest.mark.parametrize("what", ["policy", "masks"])
def test_flattened_shards_are_refused_on_every_rank(what: str, results: Path) -> None:
    """What Lightning's ``FSDPStrategy`` leaves of parameters; no rank waits for the other."""
    pytest.importorskip("lightning")
    for who in ("0", "1"):
        said = read(results, f"lightning fsdp1, {what}", who)
        assert "which FullyShardedDataParallel has flattened and shared out" in said
        assert "wrap it by fully_shard" in said
