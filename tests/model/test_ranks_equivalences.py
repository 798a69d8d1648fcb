"""Several ranks that each see a part of the data decide what one process decides that sees all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "ranks_at_work.py"
PATIENCE = 240  # seconds, on a machine that is busy with other tests
POLICIES = (
    "RigL",
    "RigL by its wrapped network",
    "RigL with gradients as views of buckets",
    "RigL with a static graph",
    "RigL with accumulated gradients",
    "SET",
    "Static",
    "Gradual",
    "LayerByLayer",
    "Gradual by taylor",
    "Gradual by movement",
)
EVIDENCE = (
    "fisher",
    "gradient_magnitude",
    "grasp",
    "hutchinson",
    "network_slimming",
    "obd",
    "obd_full",
    "obs",
    "rank_of_features",
    "ria",
    "snip",
    "synflow",
    "taylor",
    "taylor_gate",
    "wanda",
    "unequal batches",
    "unused on one rank",
    "wrapped afterwards",
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results of both ranks, and of one process alone; none is waited for without end."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), str(folder)],
            env=environment,
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
    return {name: torch.load(folder / f"{name}.pt") for name in ("0", "1", "alone")}


@pytest.mark.parametrize("scenario", POLICIES + EVIDENCE)
def test_masks_are_those_of_one_process(found, scenario):
    """Both ranks hold the same masks, and they are those of one process with all the data."""
    mine, other, alone = (found[name][scenario] for name in ("0", "1", "alone"))
    assert mine.keys() == other.keys() == alone.keys()
    for name, mask in mine.items():
        assert torch.equal(mask, other[name])
        if mask.dtype == torch.bool:
            assert torch.equal(mask, alone[name])
        else:  # weights at the end of a training, in double precision
            assert torch.allclose(mask, alone[name], rtol=0, atol=1e-12)
    assert any(mask.dtype == torch.bool and not mask.all() for mask in mine.values())


@pytest.mark.parametrize("scenario", ["fully sharded", "tensor parallel", "loaded into shards"])
def test_shards_hold_what_the_whole_network_holds(found, scenario):
    """Masks and weights of the whole network, taken to its shards, are there as in one process."""
    mine, other, alone = (found[name][scenario] for name in ("0", "1", "alone"))
    assert mine.keys() == other.keys() == alone.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, other[name])
        assert torch.allclose(tensor.double(), alone[name].double(), rtol=0, atol=1e-12)
        assert torch.equal(tensor == 0, alone[name] == 0)
    assert any((tensor == 0).any() and not (tensor == 0).all() for tensor in mine.values())


def test_shards_are_refused_by_what_needs_the_whole_network(found):
    """Every function says so in the same words; masks are decided and held on ``DTensor`` shards."""
    for rank in "01":
        said = found[rank]["refused when sharded"].split("\n")
        assert len(said) == 17
        for each in said[:-7]:
            assert each.startswith(
                "Expected tensors that this process holds whole, got '0.weight', a DTensor of "
                "which it holds a shard; do this before fully_shard or tensor parallelism"
            )
        assert said[-7:] == [""] * 7


@pytest.mark.parametrize(
    ("scenario", "name"),
    [
        ("refused when flattened", "_fsdp_wrapped_module._flat_param"),
        ("refused when pieces of flat ones", "_fsdp_wrapped_module.0.weight"),
    ],
)
def test_flat_parameters_are_refused(found, scenario, name):
    """What FullyShardedDataParallel flattens is neither scored nor masked by anything."""
    for rank in "01":
        said = found[rank][scenario].split("\n")
        assert len(said) == 17
        for each in said:
            assert each.startswith(
                f"Expected parameters of the network's own shapes, got {name!r}, which "
                f"FullyShardedDataParallel has flattened and shared out; decide masks before"
            )


@pytest.mark.parametrize("scenario", ["reconstruct", "SparseGPT", "ALPS", "DSnoT", "compensate"])
def test_adjusted_weights_are_those_of_one_process(found, scenario):
    """Hessians and statistics add up over the ranks, and all get the same bits."""
    mine, other, alone = (found[name][scenario] for name in ("0", "1", "alone"))
    for name, tensor in mine.items():
        assert torch.equal(tensor, other[name])
        assert torch.allclose(tensor.double(), alone[name].double(), rtol=0, atol=1e-12)


def test_masks_change_while_they_train(found):
    """The policies above have something to disagree about."""
    for scenario in ("RigL", "SET", "Gradual", "LayerByLayer", "Gradual by taylor"):
        masks = found["alone"][scenario]
        assert not torch.equal(masks["mask 0 0.weight"], masks["mask 6 0.weight"])


def test_other_weights_are_refused(found):
    """Evidence of networks that differ is not added up, on any rank."""
    for rank in "01":
        said = found[rank]["other weights"]
        assert said.startswith(
            "Expected the same weights on all 2 ranks of the process group, got different ones of "
            "4.weight; wrap the network in DistributedDataParallel"
        )


def test_other_masks_are_refused(found):
    """Masks that differ between ranks end the training at its first step."""
    for rank in "01":
        assert found[rank]["other masks"].startswith(
            "Expected the same masks on all 2 ranks of the process group, got different ones of "
            "0.weight; decide them from what is the same on every rank"
        )


def test_one_rank_that_fails_ends_all(found):
    """Where one rank has no batches, or its own evidence fails, the other does not wait for it."""
    said = (
        "Expected all 2 ranks of the process group to go on, got an error on rank 1 of them; see "
        "its message."
    )
    assert found["0"]["failure on one rank"] == said
    assert found["1"]["failure on one rank"].startswith("Expected batches to gather evidence from")
    assert found["0"]["failure in training"] == said
    assert found["1"]["failure in training"] == "Expected a disk, got none; buy one."


def test_what_one_rank_calls_alone_ends(found):
    """The process group's time limit holds, and the error says what to do."""
    said = found["0"]["one rank alone"]
    assert said.startswith("Expected all 2 ranks of the process group to come here, got ")
    assert said.endswith(
        "; call it on every rank alike, or give group= a process group of this rank alone."
    )
    assert found["1"]["one rank alone"] == {}


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        ("bound before sharding", "got another one in its place; detach this binding and make"),
        ("bound before flattening", "got none of this name; detach this binding and make"),
        ("bound before tensor parallelism", "got another one in its place; detach this binding"),
        ("bound before becoming pieces", "which FullyShardedDataParallel has flattened and shared"),
    ],
)
def test_masks_bound_before_sharding_are_refused(found, scenario, says):
    """Nothing would hold them any more; the first forward pass says so."""
    assert says in found["0"][scenario]
    assert says in found["1"][scenario]


def test_networks_of_their_own_are_left_alone(found):
    """Ranks that give groups of their own need not agree."""
    assert found["0"]["networks of their own"] == found["1"]["networks of their own"] == {}
