"""Gradual pruning of a network whose weights lie in shards, with a checkpoint that any ranks resume.

    torchrun --nproc-per-node 2 examples/sharded.py --steps 60 --checkpoint kept
    torchrun --nproc-per-node 4 examples/sharded.py --steps 60 --checkpoint kept    # goes on from there

Whoever has one GPU for each process trains on them; others on the CPU.
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

import boxwood


def main(steps: int, checkpoint: Path) -> None:
    """Train, prune, and keep everything that a later run needs."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    dist.init_process_group()
    if device.type != "cpu":
        torch.accelerator.set_device_index(dist.get_node_local_rank())

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 10)).to(device)
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(net)

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    policy = boxwood.policies.Gradual(
        boxwood.schedules.Cubic(final=0.8, end=steps), every=max(1, steps // 10)
    )
    training = boxwood.SparseTraining(net, optimizer, policy)  # after the network is sharded

    if checkpoint.exists():
        state = state_of(net, optimizer, training)
        dcp.load(state, checkpoint_id=checkpoint)
        set_state_dict(
            net,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )

    for step in range(training.steps, steps):
        inputs, targets = examples_of(step, dist.get_rank(), device)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()

    dcp.save(state_of(net, optimizer, training), checkpoint_id=checkpoint)
    if dist.get_rank() == 0:
        print(f"sparsity {training.sparsity:.3g} of {dist.get_world_size()} shards")
    dist.barrier()
    dist.destroy_process_group()


def state_of(
    net: nn.Module, optimizer: torch.optim.Optimizer, training: object
) -> dict[str, object]:
    """Weights, the optimizer's memory, masks and steps, each rank's part of them."""
    model, memory = get_state_dict(net, optimizer)
    return {"model": model, "optimizer": memory, "training": training}


def examples_of(step: int, rank: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Stand for a loader: each rank has examples of its own."""
    chance = torch.Generator().manual_seed(1000 * step + rank)
    inputs = torch.randn(32, 64, generator=chance)
    return inputs.to(device), inputs[:, :10].argmax(1).to(device)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--checkpoint", type=Path, required=True)
    given = parser.parse_args()
    main(given.steps, given.checkpoint)
