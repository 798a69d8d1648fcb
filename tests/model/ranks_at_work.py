"""What one rank does in `test_ranks.py`: every scenario, its results written to a file.

Run as ``python ranks_at_work.py RANK FOLDER``. Rank 0 repeats all of it in one process afterwards.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from boxwood import criteria
from boxwood._internal.core.masks import kept
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.engine.compiling import compile  # noqa: A004 - as torch names it
from boxwood._internal.graph.compensate import compensate
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.counting import count_layers
from boxwood._internal.model.dead import remove_dead
from boxwood._internal.model.evidence.movement import TrackMovement
from boxwood._internal.model.mask_refinement import refine_masks
from boxwood._internal.model.oneshot import apply_masks_, find_masks, masks_from_zeros
from boxwood._internal.model.prunable import Layers, Named, linear_and_conv
from boxwood._internal.model.reconstruct import (
    load_,
    prune_and_reconstruct,
    prune_by_alps,
    reconstruct,
)
from boxwood._internal.model.scoring import score
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood._internal.recipes.unit_selection import select_units
from boxwood.errors import BoxwoodError
from boxwood.policies import (
    ACDC,
    SET,
    SNFS,
    STR,
    Gradual,
    LayerByLayer,
    MovementPruning,
    Policy,
    RigL,
    Static,
)

RANKS = 2
Found = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """Which of the data this process has: everything where it is alone."""

    rank: int
    ranks: int

    def of(self, everything: Sequence[Any]) -> list[Any]:
        """Every rank's batches in turn, so that batch i of all lies on rank i mod ranks."""
        return list(everything[self.rank :: self.ranks])

    def rows(self, tensor: Tensor) -> Tensor:
        """Equal shares of a batch."""
        return tensor.chunk(self.ranks)[self.rank]

    def wrap(self, net: nn.Module, **settings: Any) -> nn.Module:
        return DistributedDataParallel(net, **settings) if self.ranks > 1 else net


def whole(tensor: Any) -> Tensor:
    """All of a tensor that may be in shards."""
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1).mean()


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip
    return net.double().eval()


def chain() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip
    return net.double()


def batches(count: int, size: int = 4, first: int = 0) -> list[tuple[Tensor, Tensor]]:
    chance = torch.Generator().manual_seed(1 + first)
    draw = {"generator": chance, "dtype": torch.float64}
    return [
        (torch.randn(size, 2, 4, 4, **draw), torch.randn(size, 3, **draw)) for _ in range(count)
    ]


def trained(
    part: Part,
    policy: Policy,
    *,
    micro: int = 1,
    criterion_batches: Sequence[Any] = (),
    movement: bool = False,
    whole: bool = False,
    **ddp: Any,
) -> Found:
    """Masks after each of 7 steps, and the weights at the end."""
    net = chain()
    model = part.wrap(net, **ddp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    track = TrackMovement(optimizer, linear_and_conv(net)) if movement else None
    training = SparseTraining(
        model if whole else net,
        optimizer,
        policy,
        loss=squared,
        batches=part.of(criterion_batches),
        evidence=None if track is None else track.evidence,
    )
    found: Found = {}
    for step in range(7):
        optimizer.zero_grad()
        for turn, (inputs, targets) in enumerate(batches(micro, 8, first=step)):
            local = part.ranks > 1 and turn < micro - 1
            with model.no_sync() if local else nullcontext():  # type: ignore[operator]
                squared(model(part.rows(inputs)), part.rows(targets)).backward()
        optimizer.step()
        found |= {f"mask {step} {name}": mask for name, mask in training.masks.items()}
    return found | {f"weight {name}": p.detach() for name, p in net.named_parameters()}


def policies() -> dict[str, tuple[Policy, dict[str, Any]]]:
    rigl = RigL(sparsity=0.5, until=100, every=2)
    slope = Cubic(final=0.8, end=6)
    taylor = Gradual(schedule=slope, every=2, criterion=criteria.taylor)
    moved = Gradual(schedule=slope, every=2, criterion=criteria.movement)
    return {
        "RigL": (rigl, {}),
        "RigL by its wrapped network": (rigl, {"whole": True}),
        "RigL with gradients as views of buckets": (rigl, {"gradient_as_bucket_view": True}),
        "RigL with a static graph": (rigl, {"static_graph": True}),
        "RigL with accumulated gradients": (rigl, {"micro": 3}),
        "SET": (SET(sparsity=0.5, until=100, every=2), {}),
        "SNFS": (SNFS(0.5, until=100, every=2), {}),
        "AC/DC": (ACDC(0.5, begin=1, end=5, every=1), {}),
        "STR": (STR(-3.0, decay=0.1), {}),
        "movement with return": (MovementPruning(slope), {}),
        "Static": (Static(sparsity=0.5), {}),
        "Gradual": (Gradual(schedule=slope, every=2), {}),
        "LayerByLayer": (LayerByLayer(final=0.8, end=6, every=2), {}),
        "Gradual by taylor": (taylor, {"criterion_batches": batches(4)}),
        "Gradual by movement": (moved, {"movement": True}),
    }


def by_criterion(part: Part, name: str) -> Found:
    net = convolutions() if name in ("network_slimming", "wanda", "ria", "taylor_gate") else chain()
    layers: Layers = linear_and_conv
    if name in ("network_slimming", "rank_of_features"):
        layers = Named(("0.weight",))
    return find_masks(
        part.wrap(net),
        0.6,
        criterion=getattr(criteria, name),
        layers=layers,
        loss=squared,
        batches=part.of(batches(4)),
    )


def sharded(part: Part, shard: Callable[[nn.Module], object], hidden: int) -> Found:
    """Masks of the whole network hold on its shards, some of which are uneven or empty."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, hidden), nn.Tanh(), nn.Linear(hidden, 1)).double()
    masks = find_masks(net, 0.5)
    if part.ranks > 1:
        shard(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.1)
    held = MaskBinding(net, optimizer, masks)
    chance = torch.Generator().manual_seed(5)
    for _ in range(4):
        inputs = torch.randn(8, 12, generator=chance, dtype=torch.float64)
        optimizer.zero_grad()
        given = inputs if shard is tensor_parallel else part.rows(inputs)
        net(given).square().mean().backward()
        optimizer.step()
    found = {f"weight {name}": whole(p).clone() for name, p in net.named_parameters()}
    apply_masks_(net, {name: ~mask for name, mask in masks.items()})
    found |= {f"projected {name}": whole(p).clone() for name, p in net.named_parameters()}
    found["kept"] = torch.tensor(kept(held.masks))
    held.load_state_dict(held.state_dict())
    held.detach()
    MaskBinding(net, optimizer, held.masks)  # masks that are placed as the parameters are
    return found | {f"mask {name}": whole(mask) for name, mask in held.masks.items()}


def tensor_parallel(net: nn.Module) -> None:
    mesh = init_device_mesh("cpu", (RANKS,))
    parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def loaded(part: Part) -> Found:
    """Weights that were decided before sharding are put into the shards."""
    net = chain()
    new = prune_and_reconstruct(net, 0.5, part.of(batches(4))).weights
    if part.ranks > 1:
        fully_shard(net)
    load_(net, new)
    return {name: whole(p).clone() for name, p in net.named_parameters()}


def refused(shard: Callable[[nn.Module], nn.Module]) -> list[str]:
    """What every function says of a sharded network; "" where it refuses nothing."""
    net, example = chain(), batches(1)[0][0]
    found = find_units(net, example)
    selection = select_units(found, 0.5)
    small, masks = shrink(net, selection), find_masks(net, 0.5)
    held = shard(net)

    def sgd() -> torch.optim.Optimizer:
        return torch.optim.SGD(held.parameters(), lr=0.1)

    def said(action: Callable[[], object]) -> str:
        try:
            action()
        except BoxwoodError as error:
            return str(error)
        return ""

    policy = RigL(sparsity=0.5, until=9, every=1)
    return [
        said(
            lambda: find_masks(held, 0.5, criterion=criteria.snip, loss=squared, batches=batches(1))
        ),
        said(lambda: reconstruct(held, masks, batches(1))),
        said(lambda: prune_and_reconstruct(held, 0.5, batches(1))),
        said(lambda: count_layers(held, example, masks)),
        said(lambda: remove_dead(held, masks, (2, 4, 4))),
        said(lambda: find_units(held, example)),
        said(lambda: shrink(held, selection)),
        said(lambda: check_equivalence(held, small, selection)),
        said(lambda: compensate(held, small, selection, [example])),
        said(lambda: compile(held, example)),
        said(lambda: find_masks(held, 0.5)),
        said(lambda: score(linear_and_conv(held), criteria.magnitude)),
        said(lambda: SparseTraining(held, sgd(), policy)),
        said(lambda: SparseTraining(held, sgd(), Static(sparsity=0.5))),
        said(lambda: MaskBinding(held, sgd(), masks)),
        said(lambda: apply_masks_(held, masks)),
        said(lambda: masks_from_zeros(held)),
    ]


def fully_sharded(net: nn.Module) -> nn.Module:
    fully_shard(net)
    return net


def flattened(net: nn.Module, **settings: Any) -> nn.Module:
    return FullyShardedDataParallel(net, device_id=torch.device("cpu"), **settings)


def refusals(shard: Callable[[nn.Module], nn.Module]) -> Found:
    raise BoxwoodError("\n".join(refused(shard)))


def unequal(part: Part) -> Found:
    """One rank has 3 batches and the other 1, of other sizes: the mean is over all examples."""
    sizes = [6, 2, 3, 5]
    given = [batches(1, size, first=place)[0] for place, size in enumerate(sizes)]
    mine = given if part.ranks == 1 else (given[:3], given[3:])[part.rank]
    return find_masks(chain(), 0.6, criterion=criteria.taylor, loss=squared, batches=mine)


def reconstructed(part: Part) -> Found:
    net = convolutions()
    masks = find_masks(net, 0.5)
    return reconstruct(net, masks, part.of(batches(4)))


def sparse_gpt(part: Part) -> Found:
    done = prune_and_reconstruct(convolutions(), 0.5, part.of(batches(4)))
    return done.weights | {f"mask {name}": mask for name, mask in done.masks.items()}


def alps(part: Part) -> Found:
    done = prune_by_alps(convolutions(), 0.5, part.of(batches(4)), refinements=60)
    return done.weights | {f"mask {name}": mask for name, mask in done.masks.items()}


def refined(part: Part) -> Found:
    masks = find_masks(convolutions(), 0.5)
    return refine_masks(convolutions(), masks, part.of(batches(4)), threshold=0.01)


def compensated(part: Part) -> Found:
    net, whole_data = convolutions(), [inputs for inputs, _ in batches(4)]
    selection = select_units(find_units(net, whole_data[0]), 0.5)
    small = shrink(net, selection)
    found: Found = {}
    for refit in (True, False):
        better = compensate(net, small, selection, part.of(whole_data), refit=refit)
        found |= {f"{refit} {name}": tensor for name, tensor in better.state_dict().items()}
    return {name: tensor for name, tensor in found.items() if "num_batches" not in name}


def wrapped_afterwards(part: Part) -> Found:
    """Masks are bound, and then the network is wrapped."""
    net = chain()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    held = MaskBinding(net, optimizer, find_masks(net, 0.5))
    model = part.wrap(net)
    for inputs, targets in batches(3, 8):
        optimizer.zero_grad()
        squared(model(part.rows(inputs)), part.rows(targets)).backward()
        optimizer.step()
    return {**dict(net.named_parameters()), **{f"mask {n}": m for n, m in held.masks.items()}}


def unused_on_one_rank(part: Part) -> Found:
    """A layer that only one rank's batch uses has half that rank's gradient."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.other = nn.Linear(6, 4).double(), nn.Linear(6, 4).double()

        def forward(self, x: Tensor, *, both: bool) -> Tensor:
            return self.one(x) + self.other(x) if both else self.one(x)

    net = Branches()
    model = part.wrap(net, find_unused_parameters=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    training = SparseTraining(net, optimizer, RigL(sparsity=0.5, until=9, every=1))
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for _ in range(2):
        optimizer.zero_grad()
        if part.ranks > 1:
            model(part.rows(x), both=part.rank == 1).square().sum().backward()
        else:
            halves = model(x[:1], both=False).square().sum(), model(x[1:], both=True).square().sum()
            (sum(halves) / 2).backward()
        optimizer.step()
    return dict(training.masks)


def other_weights(part: Part) -> Found:
    net = chain()
    with torch.no_grad():
        net[4].weight[0, 0] += part.rank
    return find_masks(net, 0.5, criterion=criteria.snip, loss=squared, batches=batches(1))


def failure_on_one_rank(part: Part) -> Found:
    given = batches(1) if part.rank == 0 else []
    return find_masks(chain(), 0.5, criterion=criteria.snip, loss=squared, batches=given)


def failure_in_training(part: Part) -> Found:
    def evidence() -> dict[str, dict[str, Tensor]]:
        if part.rank == 1:
            raise BoxwoodError("Expected a disk, got none; buy one.")
        return {}

    net = chain()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    policy = Gradual(schedule=Cubic(final=0.5, end=4), every=1)
    SparseTraining(net, optimizer, policy, evidence=evidence)
    squared(net(batches(1)[0][0]), batches(1)[0][1]).backward()
    optimizer.step()
    return {}


def other_masks(part: Part) -> Found:
    net = chain()
    masks = find_masks(net, 0.5, criterion=criteria.random)
    masks["0.weight"] = masks["0.weight"].roll(part.rank)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    MaskBinding(part.wrap(net), optimizer, masks)
    optimizer.step()
    return {}


def networks_of_their_own(part: Part) -> Found:
    """Ranks that train networks of their own name a group of one rank each."""
    torch.manual_seed(part.rank)
    net = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    groups = [dist.new_group([each]) for each in range(part.ranks)]
    policy = RigL(sparsity=0.5, until=9, every=1)
    SparseTraining(net, optimizer, policy, group=groups[part.rank])
    net(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    return {}


def one_rank_alone(part: Part) -> Found:
    """What only one rank calls ends when the time of its group is over."""
    group = dist.new_group(timeout=timedelta(seconds=1))
    if part.rank == 1:
        return {}
    settings = {"criterion": criteria.snip, "loss": squared, "batches": batches(1)}
    return find_masks(chain(), 0.5, group=group, **settings)


def bound_before(shard: Callable[[nn.Module], nn.Module]) -> Found:
    """Masks are bound, and then the network is sharded: parameters are other ones by then."""
    net = chain()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    MaskBinding(net, optimizer, find_masks(net, 0.5))
    held = shard(net)
    fresh = torch.optim.SGD(held.parameters(), lr=0.1)
    squared(held(batches(1)[0][0]), batches(1)[0][1]).backward()
    fresh.step()
    return {}


def both(part: Part) -> dict[str, Callable[[], Found]]:
    """What one process does as well, with the same results."""
    found: dict[str, Callable[[], Found]] = {
        name: lambda policy=policy, settings=settings: trained(part, policy, **settings)
        for name, (policy, settings) in policies().items()
    }
    functions = [n for n in criteria.__all__ if inspect.isfunction(getattr(criteria, n))]
    gathered = [name for name in functions if name != "movement"]
    found |= {name: lambda name=name: by_criterion(part, name) for name in gathered}
    return found | {
        "unequal batches": lambda: unequal(part),
        "reconstruct": lambda: reconstructed(part),
        "SparseGPT": lambda: sparse_gpt(part),
        "ALPS": lambda: alps(part),
        "DSnoT": lambda: refined(part),
        "unused on one rank": lambda: unused_on_one_rank(part),
        "compensate": lambda: compensated(part),
        "wrapped afterwards": lambda: wrapped_afterwards(part),
        "fully sharded": lambda: sharded(part, fully_shard, 7),
        "tensor parallel": lambda: sharded(part, tensor_parallel, 8),
        "loaded into shards": lambda: loaded(part),
    }


def together(part: Part) -> dict[str, Callable[[], Found]]:
    """What only several processes can do."""
    return {
        "other weights": lambda: other_weights(part),
        "failure on one rank": lambda: failure_on_one_rank(part),
        "failure in training": lambda: failure_in_training(part),
        "other masks": lambda: other_masks(part),
        "one rank alone": lambda: one_rank_alone(part),
        "bound before sharding": lambda: bound_before(fully_sharded),
        "bound before flattening": lambda: bound_before(flattened),
        "bound before tensor parallelism": lambda: bound_before(
            lambda net: parallelize_module(
                net, init_device_mesh("cpu", (RANKS,)), {"4": ColwiseParallel()}
            )
        ),
        "bound before becoming pieces": lambda: bound_before(
            partial(flattened, use_orig_params=True)
        ),
        "networks of their own": lambda: networks_of_their_own(part),
        "refused when sharded": lambda: refusals(fully_sharded),
        "refused when flattened": lambda: refusals(flattened),
        "refused when pieces of flat ones": lambda: refusals(
            partial(flattened, use_orig_params=True)
        ),
    }


def results(scenarios: dict[str, Callable[[], Found]]) -> dict[str, Found | str]:
    """Tensors of each scenario, or what a refusal says."""
    found: dict[str, Found | str] = {}
    for name, scenario in scenarios.items():
        try:
            found[name] = {key: each.detach().clone() for key, each in scenario().items()}
        except BoxwoodError as error:
            found[name] = str(error)
        except Exception as error:
            error.add_note(f"in the scenario {name!r}")
            raise
    return found


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    part = Part(rank, RANKS)
    torch.save(results(both(part) | together(part)), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        torch.save(results(both(Part(0, 1))), folder / "alone.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
