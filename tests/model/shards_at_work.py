"""What ranks do in `test_shards_equivalences.py`: every scenario, its results written to files.

`begin` forks the ranks, so that what they need is imported once.
"""

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import boxwood
from boxwood import allocation, criteria, granularity
from boxwood._internal.core.selection import select
from boxwood.errors import BoxwoodError
from boxwood.layers import Named
from boxwood.policies import (
    ACDC,
    MEST,
    SET,
    SNFS,
    Gradual,
    GraNet,
    LayerByLayer,
    RigL,
    SRigL,
    Static,
    TopKAST,
)
from boxwood.schedules import Cubic

Found = dict[str, Any]
PATIENCE = 240  # seconds, on a machine that is busy with other tests


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Rows that ranks share evenly (16), unevenly (37) and not at all (1); many equal weights."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(8, 37), nn.Tanh(), nn.Linear(37, 16), nn.Tanh(), nn.Linear(16, 1)
    ).to(dtype)
    with torch.no_grad():
        for index in (0, 4):
            net[index].weight.mul_(16).round_().div_(16)
    return net


def transposed() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(5, 6, 2), nn.Conv2d(6, 4, 2))
    with torch.no_grad():
        net[0].weight.mul_(8).round_()
    return net


def batch(step: int, rows: int = 8) -> Tensor:
    chance = torch.Generator().manual_seed(step)
    return torch.randn(rows, 8, generator=chance, dtype=torch.float64)


# How a network is taken to several ranks: it returns the module that is called, and the rank's part
# of a batch as (index, parts).

Way = Callable[[nn.Sequential], tuple[nn.Module, int, int]]


def whole_network(net: nn.Sequential) -> tuple[nn.Module, int, int]:
    return net, 0, 1


def ddp(net: nn.Sequential) -> tuple[nn.Module, int, int]:
    return DistributedDataParallel(net), dist.get_rank(), dist.get_world_size()


def fsdp(net: nn.Sequential) -> tuple[nn.Module, int, int]:
    fully_shard(net)
    return net, dist.get_rank(), dist.get_world_size()


def fsdp_by_layer(net: nn.Sequential, **settings: Any) -> tuple[nn.Module, int, int]:
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, **settings)
    fully_shard(net, **settings)
    return net, dist.get_rank(), dist.get_world_size()


def hsdp(net: nn.Sequential) -> tuple[nn.Module, int, int]:
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("copy", "cut"))
    return fsdp_by_layer(net, mesh=mesh)


PLAN = {"2": ColwiseParallel(), "4": RowwiseParallel()}


def parallel(net: nn.Sequential) -> tuple[nn.Module, int, int]:
    parallelize_module(net, init_device_mesh("cpu", (dist.get_world_size(),)), PLAN)
    return net, 0, 1


def fsdp_and_parallel(net: nn.Sequential) -> tuple[nn.Module, int, int]:
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("data", "cut"))
    parallelize_module(net, mesh["cut"], PLAN)
    fully_shard(net, mesh=mesh["data"])
    return net, mesh.get_local_rank("data"), 2


def ways(ranks: int) -> dict[str, Way]:
    found: dict[str, Way] = {
        "DDP": ddp,
        "FSDP": fsdp,
        "FSDP by layer": fsdp_by_layer,
        "tensor parallel": parallel,
    }
    if ranks == 4:
        found |= {"HSDP": hsdp, "FSDP and tensor parallel": fsdp_and_parallel}
    return found


def gathered(tensors: Mapping[str, Tensor]) -> Found:
    return {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in tensors.items()}


# Masks

MASKS: dict[str, dict[str, Any]] = {
    "global": {},
    "uniform": {"allocation": allocation.uniform},
    "ERK": {"allocation": allocation.erdos_renyi_kernel},
    "LAMP": {"allocation": allocation.lamp},
    "OWL": {"allocation": allocation.OutlierWeighed(outlier=1.5, spread=0.1)},
    "by name": {"sparsity": None, "allocation": allocation.ByName((("0.*", 0.3), ("2.*", 0.8)))},
    "at least": {"sparsity": None, "allocation": allocation.AtLeast((("0.*", 0.125), ("*", 0.05)))},
    "floor": {"floor": 9, "sparsity": 0.95},
    "random": {"criterion": criteria.random},
    "squares": {"criterion": lambda weight: -(weight**2)},
    "spread": {"criterion": criteria.magnitude_over_std},
}
ROWS: dict[str, dict[str, Any]] = {
    "filters": {"granularity": granularity.Slices()},
    "per row": {"granularity": granularity.PerRow(), "allocation": allocation.uniform},
    "2:4": {
        "granularity": granularity.NofM(2, 4),
        "allocation": allocation.uniform,
        "sparsity": 0.5,
        "layers": Named(("0.weight", "4.weight")),
    },
}


def found_masks(net: nn.Module, **settings: Any) -> Found:
    sparsity = settings.pop("sparsity", 0.6)
    return gathered(boxwood.find_masks(net, sparsity, **settings))


def found_transposed(net: nn.Module) -> Found:
    """Its weight has inputs first: shards hold whole inputs, and rows are outputs all the same."""
    inputs = granularity.Slices((1,))
    pooled = found_masks(net, layers=Named(("0.weight",)), granularity=inputs)
    return found_masks(net) | {f"inputs {name}": mask for name, mask in pooled.items()}


def pruned_further(net: nn.Module) -> Found:
    first = boxwood.prune_(net, 0.3)
    second = boxwood.prune_(net, 0.7, masks=first, criterion=criteria.magnitude_over_survivor_std)
    third = boxwood.find_masks(net, 0.8, masks=gathered(second))
    boxwood.apply_masks_(net, third)
    read = {
        f"read {n}": mask for n, mask in gathered(boxwood.oneshot.masks_from_zeros(net)).items()
    }
    return read | gathered(third) | {f"weight {n}": p for n, p in gathered(_weights(net)).items()}


def _weights(net: nn.Module) -> dict[str, Tensor]:
    return {n.removeprefix("module."): p.detach() for n, p in net.named_parameters()}


# Trainings

POLICIES = {
    "Gradual": Gradual(Cubic(final=0.8, end=6), every=2),
    "global Gradual": Gradual(Cubic(final=0.8, end=6), every=2, allocation=allocation.global_),
    "LayerByLayer": LayerByLayer(final=0.8, end=6, every=2),
    "RigL": RigL(0.5, until=100, every=2),
    "SET": SET(0.5, until=100, every=2),
    "ACDC": ACDC(0.75, begin=1, end=9, every=2),
    "MEST": MEST(0.5, until=100, every=2),
    "GraNet": GraNet(0.75, until=100, every=2),
    "Static": Static(0.5, allocation=allocation.erdos_renyi_kernel),
}


class Training:
    """A network in training, on one rank of several or alone."""

    def __init__(self, way: Way, policy: Any, state: Found | None = None) -> None:
        self.net = network(torch.float64)
        self.model, self.part, self.parts = way(self.net)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=0.02, weight_decay=0.1, foreach=False
        )
        self.held: Any = (
            boxwood.SparseTraining(self.model, self.optimizer, policy, state=state)
            if policy is not None
            else boxwood.MaskBinding(self.model, self.optimizer, state)
        )

    def step(self, number: int, micro: int = 1) -> None:
        self.optimizer.zero_grad()
        for turn in range(micro):
            rows = batch(10 * number + turn).chunk(self.parts)[self.part]
            (self.model(rows).sin().square().mean() / micro).backward()
        self.optimizer.step()

    def found(self) -> Found:
        for name, mask in self.held.masks.items():
            weight, kept = (
                getattr(t, "_local_tensor", t) for t in (_weights(self.net)[name], mask)
            )
            assert not weight[~kept].any()
        masks = {f"mask {n}": m for n, m in gathered(self.held.masks).items()}
        return masks | {f"weight {n}": p for n, p in gathered(_weights(self.net)).items()}

    def state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.net, self.optimizer)
        return {"model": model, "optimizer": optimizer, "masks": self.held}

    def load(self, state: dict[str, Any]) -> None:
        set_state_dict(
            self.net,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )


def trained(way: Way, policy: Any, micro: int = 1) -> Found:
    training = Training(way, policy)
    found: Found = {}
    for step in range(1, 6):
        training.step(step, micro)
        found |= {f"{step} {n}": m for n, m in gathered(training.held.masks).items()}
    training.held.load_state_dict(training.held.state_dict())
    return found | training.found()


def bound(way: Way) -> Found:
    """Masks that were made before the network was sharded hold on its shards."""
    training = Training(way, None, boxwood.find_masks(network(torch.float64), 0.7))
    for step in range(4):
        training.step(step)
    return training.found()


def going_on(way: Way, policy: Any, begin: int = 5) -> Found:
    """State of a training that has masks already, given as masks of the whole network."""
    masks = boxwood.find_masks(network(torch.float64), 0.5)
    training = Training(way, policy, {"steps": torch.tensor(begin), **masks})
    for step in range(begin, begin + 2):
        training.step(step)
    return training.found() | {"steps": torch.tensor(training.held.steps)}


# Checkpoints

RESUMED = ("RigL", "Gradual", "binding")


def resumable(way: Way, what: str) -> Training:
    masks = boxwood.find_masks(network(torch.float64), 0.7) if what == "binding" else None
    return Training(way, POLICIES.get(what), masks)


def undisturbed(what: str, way: Way = whole_network, steps: int = 5) -> Training:
    training = resumable(way, what)
    for step in range(1, steps + 1):
        training.step(step)
    return training


def save(folder: Path, ranks: int, what: str) -> None:
    dcp.save(undisturbed(what, fsdp_by_layer, 3).state(), checkpoint_id=folder / f"{what} {ranks}")


def resumed(folder: Path, ranks: int, what: str, way: Way) -> Found:
    """Go on, on other ranks than those that have saved."""
    place = folder / f"{what} {ranks}"
    wait_for(place / ".metadata")
    training = resumable(way, what)
    state = training.state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that one process needs no checkpoint of many
        dcp.load(state, checkpoint_id=place)
    training.load(state)
    for step in (4, 5):
        training.step(step)
    return training.found()


def wait_for(path: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, f"{path} has not come"
        time.sleep(0.01)


# What travels


@contextmanager
def messages() -> Iterator[list[tuple[str, int]]]:
    """Note every collective call of torch.distributed, and its number of bytes."""
    seen: list[tuple[str, int]] = []
    real = {name: getattr(dist, name) for name in ("all_reduce", "all_gather", "broadcast")}

    def noted(name: str) -> Callable[..., Any]:
        def call(*given: Any, **settings: Any) -> Any:
            each = given[0] if isinstance(given[0], Tensor) else given[1]
            seen.append((name, each.numel() * each.element_size()))
            return real[name](*given, **settings)

        return call

    full = DTensor.full_tensor
    DTensor.full_tensor = lambda *_, **__: seen.append(("full_tensor", 1 << 60))  # type: ignore[method-assign]
    for name in real:
        setattr(dist, name, noted(name))
    try:
        yield seen
    finally:
        DTensor.full_tensor = full  # type: ignore[method-assign]
        for name, function in real.items():
            setattr(dist, name, function)


def traffic(way: Way) -> Found:
    """What is sent to decide, apply and hold masks, and what each rank has of them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 301), nn.Tanh(), nn.Linear(301, 130))
    way(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, foreach=False)
    with messages() as sent, CommDebugMode() as torch_sent:
        masks = {
            name: boxwood.find_masks(net, **{"sparsity": 0.6} | MASKS[name])
            for name in ("global", "uniform", "LAMP", "random")
        }
        boxwood.apply_masks_(net, masks["global"])
        held = boxwood.MaskBinding(net, optimizer, masks["global"])
        held.replace_masks(boxwood.find_masks(net, 0.8, masks=held.masks))
        optimizer.step()
    parts = {n: (m._local_tensor, _weights(net)[n]._local_tensor) for n, m in held.masks.items()}
    return {
        "largest": max(size for _, size in sent),
        "kinds": {str(kind) for kind in torch_sent.get_comm_counts()},
        "parts": {name: (part.numel(), like.numel()) for name, (part, like) in parts.items()},
        "whole": {name: mask.numel() for name, mask in held.masks.items()},
    }


# What is refused, and ranks that disagree

Action = Callable[[], object]


def said(action: Action) -> str:
    """Return what a function says, with the kind of its error; "" where it refuses nothing."""
    try:
        action()
    except BoxwoodError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def refusals(way: Way) -> dict[str, str]:
    net, example = network(), torch.randn(2, 8)
    masks, units = boxwood.find_masks(net, 0.5), boxwood.find_units(net, example)
    batches = [(example, torch.zeros(2, 1))]
    stale = torch.optim.SGD(net.parameters(), lr=0.1)
    early = torch.optim.SGD(net.parameters(), lr=0.1)
    bound_early = boxwood.MaskBinding(net, early, masks)
    way(net)
    fresh = torch.optim.SGD(net.parameters(), lr=0.1)
    find = boxwood.find_masks
    cut = {"layers": Named(("4.weight",)), "allocation": allocation.uniform}
    found = {
        "optimizer over the network before": lambda: boxwood.MaskBinding(net, stale, masks),
        "bound before": lambda: net(example),
        "snip": lambda: find(net, 0.5, criterion=criteria.snip, loss=_loss, batches=batches),
        "geometric median": lambda: find(net, 0.5, criterion=criteria.geometric_median),
        "columns": lambda: find(net, 0.5, granularity=granularity.Slices((1,))),
        "of a granularity of one's own": lambda: find(net, 0.5, granularity=_Own()),
        "2:16": lambda: find(net, 0.875, granularity=granularity.NofM(2, 16), **cut),
        "shrink": lambda: boxwood.shrink(net, example, keep=0.5),
        "compile": lambda: boxwood.compile(net, example),
        "find_units": lambda: boxwood.find_units(net, example),
        "compensate": lambda: boxwood.compensate(
            net, network(), boxwood.select_units(units, 0.5), [example]
        ),
        "a mask of another shape": lambda: boxwood.MaskBinding(
            net, fresh, {"0.weight": torch.ones(3, 3, dtype=torch.bool)}
        ),
        "a policy with hidden weights": lambda: boxwood.SparseTraining(
            net, fresh, TopKAST(0.5, backward_sparsity=0.25, penalty=0.0)
        ),
        "a policy with a memory": lambda: boxwood.SparseTraining(
            net, fresh, SNFS(0.5, until=9, every=2)
        ),
        "a policy of constant fan-in": lambda: boxwood.SparseTraining(
            net, fresh, SRigL(0.5, until=9, every=2)
        ),
        "counts of one shard": lambda: boxwood.SparseTraining(net, fresh, _CountsItsShard()),
        "NaN": lambda: _with_nan(net),
    }
    answers = {name: said(action) for name, action in found.items()}
    bound_early.detach()
    return answers


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


class _Own:
    """Rows, without a word on where a tensor may be cut."""

    def __init__(self) -> None:
        rows = granularity.Slices()
        self.pool, self.alive, self.rank, self.spread = (
            rows.pool,
            rows.alive,
            rows.rank,
            rows.spread,
        )


class _CountsItsShard(Static):
    def __init__(self) -> None:
        super().__init__(0.5)

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep as many as the rank has of a weight in its hands, as a mistake would."""
        scores = {name: weight.abs() for name, weight in weights.items()}
        return select(
            scores,
            {
                n: getattr(s, "_local_tensor", s).numel() // 2 + dist.get_rank()
                for n, s in scores.items()
            },
        )


def _with_nan(net: nn.Module) -> None:
    with torch.no_grad():
        if dist.get_rank() == 0:  # one rank's shard
            net[2].weight._local_tensor[0, 0] = float("nan")
    boxwood.find_masks(net, 0.5)


def disagreements() -> dict[str, str]:
    """What every rank is told where rank 1 does something else; each time limit is 5 seconds."""
    rank = dist.get_rank()
    other = int(rank == 1)

    def net(way: Way = fsdp_by_layer) -> tuple[nn.Module, torch.optim.Optimizer]:
        made = network()
        model = way(made)[0]
        return model, torch.optim.SGD(made.parameters(), lr=0.1, foreach=False)

    def binding(way: Way) -> None:
        masks = boxwood.find_masks(network(), 0.5 + 0.1 * other)
        model, optimizer = net(way)
        boxwood.MaskBinding(model, optimizer, masks)
        optimizer.step()

    def training(way: Way, policy: Any, state: Any = None) -> None:
        model, optimizer = net(way)
        held = boxwood.SparseTraining(model, optimizer, policy, state=state)
        for step in range(3):
            optimizer.zero_grad()
            model(batch(step).float()).square().mean().backward()
            optimizer.step()
        held.detach(early=True)

    def other_names() -> None:
        layers = Named(("0.weight",)) if other else Named(("2.weight",))
        boxwood.find_masks(net()[0], 0.5, layers=layers)

    def one_fails() -> None:
        rows = 3 if other else 37
        masks = {"0.weight": torch.ones(rows, 8, dtype=torch.bool)}
        boxwood.find_masks(net()[0], 0.5, masks=masks)

    def one_call_more() -> None:
        """The group has a time limit of its own, and so have the shards' sums."""
        group = dist.new_group(timeout=timedelta(seconds=2))
        model, _ = net()
        if not other:
            boxwood.find_masks(model, 0.5, group=group)

    def steps() -> None:
        masks = boxwood.find_masks(network(), 0.5)
        state = {"steps": torch.tensor(other), **masks}
        training(ddp, RigL(0.5, until=9, every=1), state)

    rigl = RigL(0.5, until=9, every=1, seed=other)
    found = {
        "sparsity": lambda: boxwood.find_masks(net()[0], 0.5 + 0.1 * other),
        "seed of a criterion": lambda: boxwood.find_masks(
            net()[0], 0.5, criterion=boxwood.recipes.Call.of(criteria.random, seed=other)
        ),
        "names": other_names,
        "an error on one rank": one_fails,
        "masks for shards": lambda: binding(fsdp_by_layer),
        "masks for copies": lambda: binding(ddp),
        "masks to apply": lambda: boxwood.apply_masks_(
            net()[0], boxwood.find_masks(network(), 0.5 + 0.1 * other)
        ),
        "seed for shards": lambda: training(fsdp_by_layer, rigl),
        "seed for copies": lambda: training(ddp, rigl),
        "schedule for copies": lambda: training(
            ddp, Gradual(Cubic(final=0.5, end=4), every=1 + other)
        ),
        "number of steps": steps,
        "one call more": one_call_more,
    }
    return {name: said(action) for name, action in found.items()}


# Processes


def of_one_process(way: Way) -> dict[str, Callable[[], Found]]:
    """What one process finds as well, whatever way the network is shared out."""

    def sharded() -> nn.Module:
        return way(network())[0]

    found: dict[str, Callable[[], Found]] = {}
    if way is not ddp:
        found |= {
            f"masks {name}": lambda settings=settings: found_masks(sharded(), **settings)
            for name, settings in MASKS.items()
        }
        if way not in (parallel, fsdp_and_parallel):
            found |= {
                f"masks {name}": lambda settings=settings: found_masks(sharded(), **settings)
                for name, settings in ROWS.items()
            }
        found["pruned further"] = lambda: pruned_further(sharded())
    found |= {
        f"training {name}": lambda policy=policy: trained(way, policy)
        for name, policy in POLICIES.items()
    }
    return found | {
        "training RigL, gradients of 3 passes": lambda: trained(way, POLICIES["RigL"], 3),
        "bound": lambda: bound(way),
        "going on": lambda: going_on(way, POLICIES["RigL"]),
    }


FEW = ("masks global", "training RigL")
"""What is tried in every way."""
SOME = (*FEW, "masks LAMP", "masks filters", "training global Gradual", "bound")
"""What is tried where there are four ranks in two dimensions."""


def scenarios(ranks: int, folder: Path) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    for name, way in ways(ranks).items():
        for what, scenario in of_one_process(way).items():
            everything = ranks == 2 and way in (ddp, fsdp_by_layer, parallel)
            if (
                what in (SOME if name in ("HSDP", "FSDP and tensor parallel") else FEW)
                or everything
            ):
                found[f"{name}: {what}"] = scenario
    for what in RESUMED:
        found[f"resumed: {what}"] = lambda what=what: resumed(
            folder, 6 - ranks, what, fsdp_by_layer
        )
    if ranks == 4:
        found["traffic"] = lambda: traffic(fsdp_by_layer)
    if ranks == 2:
        found["transposed"] = lambda: found_transposed(_sharded(transposed()))
        found["refused by FSDP"] = lambda: refusals(fsdp_by_layer)
        found["refused by tensor parallelism"] = lambda: refusals(parallel)
        found["disagreements"] = disagreements
    return found


def _sharded(net: nn.Module) -> nn.Module:
    fully_shard(net)
    return net


def main(rank: int, ranks: int, folder: Path) -> None:
    """Be one rank of several."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / f'meeting {ranks}'}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=PATIENCE),
    )
    for what in RESUMED:
        save(folder, ranks, what)
    found = {}
    for name, scenario in scenarios(ranks, folder).items():
        try:
            found[name] = scenario()
        except Exception as error:
            error.add_note(f"in the scenario {name!r}")
            raise
    torch.save(found, folder / f"{ranks} {rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def alone(folder: Path) -> None:
    """Write results of one process, by the names of the scenarios without the way."""
    found = {name: scenario() for name, scenario in of_one_process(whole_network).items()}
    found["transposed"] = found_transposed(transposed())
    for what in RESUMED:
        found[f"undisturbed: {what}"] = undisturbed(what).found()
        found[f"resumed: {what}"] = resumed(folder, 2, what, whole_network)
    torch.save(found, folder / "alone.pt")


def begin(folder: Path) -> None:
    """Fork two ranks, four others and one process that is alone; end as soon as one fails."""
    works = [partial(main, rank, ranks, folder) for ranks in (2, 4) for rank in range(ranks)]
    left = {_fork(work) for work in (*works, partial(alone, folder))}
    try:
        while left:
            child, status = os.wait()
            left.discard(child)
            if status:
                sys.exit(1)
    finally:
        for child in left:
            os.kill(child, signal.SIGKILL)


def _fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        os._exit(code)
