"""What ranks find that hold shards of a network is what one process finds that holds all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "shards_at_work.py"
CODE = """
import importlib.util, sys
from pathlib import Path
script, folder = sys.argv[1:]
found = importlib.util.spec_from_file_location("shards_at_work", script)
module = sys.modules["shards_at_work"] = importlib.util.module_from_spec(found)
found.loader.exec_module(module)
module.begin(Path(folder))
"""
RANKS = ("2 0", "2 1", "4 0", "4 1", "4 2", "4 3")


@pytest.fixture(scope="module")
def found(tmp_path_factory, forks):
    """Results of every rank of two and of four, and of one process alone."""
    folder = tmp_path_factory.mktemp("shards")
    process = forks.start(CODE, SCRIPT, folder, entry="code")
    try:
        assert process.wait(timeout=300) == 0, process.stderr
    finally:
        process.kill()
    return {path.stem: torch.load(path, weights_only=False) for path in folder.glob("*.pt")}


def check_same(mine, alone):
    assert mine.keys() == alone.keys()
    for name, tensor in mine.items():
        if tensor.dtype == torch.float64:  # weights at the end of a training
            assert torch.allclose(tensor, alone[name], rtol=0, atol=1e-10), name
            assert torch.equal(tensor == 0, alone[name] == 0)
        else:
            assert torch.equal(tensor, alone[name]), name


@pytest.mark.parametrize("rank", RANKS)
def test_everything_is_as_in_one_process(found, rank):
    """Masks bit for bit, with their counts and ties; weights to rounding; in every way to share out."""
    compared = set()
    for scenario, results in found[rank].items():
        way, _, what = scenario.partition(": ")
        if what in found["alone"]:
            check_same(results, found["alone"][what])
            compared.add(way)
    assert {"DDP", "FSDP", "FSDP by layer", "tensor parallel"} <= compared
    assert rank[0] == "2" or {"HSDP", "FSDP and tensor parallel"} <= compared


def test_the_masks_are_of_different_kinds(found):
    """The scenarios have something to disagree about."""
    kinds = [found["alone"][name] for name in found["alone"] if name.startswith("masks ")]
    assert len(kinds) == 14
    for index, masks in enumerate(kinds):
        assert not all(bool(mask.all()) for mask in masks.values())
        for others in kinds[:index]:
            assert masks.keys() != others.keys() or any(
                not torch.equal(mask, others[name]) for name, mask in masks.items()
            )
    for name in ("RigL", "SET", "Gradual", "LayerByLayer"):
        training = found["alone"][f"training {name}"]
        assert not torch.equal(training["1 0.weight"], training["5 0.weight"])


def test_ties_are_cut_in_the_order_of_the_whole_tensor(found):
    """Many weights are equal, and the threshold lies among them: counts are exact all the same."""
    masks = found["2 1"]["FSDP by layer: masks global"]
    size = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.4 * size)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("what", ["RigL", "Gradual", "binding"])
def test_a_checkpoint_is_taken_up_by_other_ranks(found, rank, what):
    """Two ranks go on where four have saved, four where two have: as if nothing had happened."""
    check_same(found[rank][f"resumed: {what}"], found["alone"][f"undisturbed: {what}"])


@pytest.mark.parametrize("what", ["RigL", "Gradual", "binding"])
def test_a_checkpoint_is_taken_up_by_one_process(found, what):
    """One process goes on where two have saved."""
    check_same(found["alone"][f"resumed: {what}"], found["alone"][f"undisturbed: {what}"])


@pytest.mark.parametrize("rank", RANKS[2:])
def test_nothing_is_gathered(found, rank):
    """No message is longer than a histogram, and each rank has masks for its own weights alone."""
    sent = found[rank]["traffic"]
    assert sent["largest"] <= 2048
    assert sent["kinds"] == {"c10d.allreduce_", "c10d.allgather_"}
    share = sum(sent["whole"].values()) / int(rank[0])
    assert sum(mask for mask, _ in sent["parts"].values()) < 1.02 * share
    assert all(mask == weight for mask, weight in sent["parts"].values())


@pytest.mark.parametrize("rank", ["2 0", "2 1"])
def test_weights_of_a_transposed_convolution(found, rank):
    """Its outputs are its second dimension: ties go by them, and its shards hold whole inputs."""
    check_same(found[rank]["transposed"], found["alone"]["transposed"])


WHOLE = "InvalidInput: Expected tensors that this process holds whole, got "
REFUSED = {
    "optimizer over the network before": "InvalidInput: Expected an optimizer over the masked",
    "bound before": "InvalidInput: Expected '",
    "snip": WHOLE,
    "geometric median": "InvalidInput: Expected a criterion that works on the shards of '",
    "columns": "InvalidInput: Expected groups of Slices that lie whole in one shard, got",
    "of a granularity of one's own": "InvalidInput: Expected groups of _Own that lie whole in one",
    "shrink": WHOLE,
    "compile": WHOLE,
    "find_units": WHOLE,
    "compensate": WHOLE,
    "a mask of another shape": "InvalidInput: Expected a mask of shape (37, 8) for '0.weight', got",
    "a policy with hidden weights": "InvalidInput: Expected a policy that ranks single weights",
    "a policy with a memory": "InvalidInput: Expected a policy that ranks single weights",
    "a policy of constant fan-in": "InvalidInput: Expected a policy that ranks single weights",
    "counts of one shard": "OtherRankError: Expected the 2 ranks that share a tensor of shape (",
    "NaN": "InvalidInput: Expected finite weights, got 1 NaN or infinite value in '2.weight'",
}


@pytest.mark.parametrize("rank", ["2 0", "2 1"])
@pytest.mark.parametrize("way", ["FSDP", "tensor parallelism"])
def test_what_shards_do_not_allow_is_refused(found, rank, way):
    """Every rank is told, with the way out."""
    said = dict(found[rank][f"refused by {way}"])
    pattern = said.pop("2:16")
    if way == "FSDP":  # it cuts rows, and leaves every 16 inputs whole
        assert pattern == ""
    else:
        assert pattern.startswith("InvalidInput: Expected groups of NofM that lie whole in one")
        assert "decide masks before the network is sharded" in pattern
    assert said.keys() == REFUSED.keys()
    for name, text in said.items():
        assert text.startswith(REFUSED[name]), name
    for name in ("shrink", "compile", "find_units", "compensate", "snip"):
        assert "do this before fully_shard or tensor parallelism" in said[name]
    assert "sharded" in said["optimizer over the network before"]


SAYS = {
    "sparsity": "got sparsity=0.5 on rank 0 and sparsity=0.6 on rank 1",
    "seed of a criterion": "got settings=0 on rank 0 and settings=1 on rank 1",
    "names": "got 2.weight on rank 0 and 0.weight on rank 1",
    "masks for shards": "Expected the same masks on all 2 ranks of the process group, got different",
    "masks for copies": "Expected the same masks on all 2 ranks of the process group, got different",
    "masks to apply": "Expected the same masks on all 2 ranks of the process group, got different",
    "seed for shards": "got seed=0 on rank 0 and seed=1 on rank 1",
    "seed for copies": "got seed=0 on rank 0 and seed=1 on rank 1",
    "schedule for copies": "got every=1 on rank 0 and every=2 on rank 1",
    "number of steps": "got steps=0 on rank 0 and steps=1 on rank 1",
}


@pytest.mark.parametrize("rank", ["2 0", "2 1"])
def test_ranks_that_disagree_all_end(found, rank):
    """Nothing hangs; every rank has an error that says in what they differ."""
    said = found[rank]["disagreements"]
    for name, text in SAYS.items():
        assert said[name].startswith("OtherRankError: Expected "), name
        assert text in said[name], name


def test_an_error_on_one_rank_ends_the_others(found):
    """The rank with the fault has its own error, and the other one is told of it."""
    assert "got an error on rank 1 of them" in found["2 0"]["disagreements"]["an error on one rank"]
    own = found["2 1"]["disagreements"]["an error on one rank"]
    assert own.startswith(
        "InvalidInput: Expected a mask of shape (37, 8) for '0.weight', got (3, 8)"
    )


def test_a_call_on_one_rank_alone_ends_in_time(found):
    """After the time limit of the group, the rank that waits is told what to do."""
    said = found["2 0"]["disagreements"]["one call more"]
    assert "ranks of the process group to come here" in said
    assert said.endswith("or give group= a process group of this rank alone.")
    assert found["2 1"]["disagreements"]["one call more"] == ""


def test_torchrun(tmp_path):
    """The program of the documentation runs as users start it."""
    example = Path(__file__).parents[2] / "examples" / "sharded.py"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--standalone", example, "--steps", "6", "--checkpoint", tmp_path / "kept"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    # Gloo's threads sometimes abort a process that has ended, so its code says little.
    assert "sparsity 0.8 of 2 shards" in run.stdout, run.stderr
    assert (tmp_path / "kept" / ".metadata").exists()
