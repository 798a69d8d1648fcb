"""What runs on the pretend device, in a process of its own: see `run_devices.py`.

Every scenario runs twice, with its network on the CPU and on the device, and gives the same numbers.
What others hand over (masks, batches, evidence) stays where it usually is: on the CPU.
"""

import copy
import inspect
import tempfile
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from policy_table import policies
from pretend_device import GPU, MODULE, Pretending
from torch import Tensor, nn

import boxwood
from boxwood import criteria
from boxwood._internal.agent.environment import tries_of
from boxwood._internal.agent.search import Agent, TryAndLearn
from boxwood._internal.core.allocation import global_, uniform
from boxwood._internal.core.granularity import NofM, PerRow, Slices
from boxwood._internal.data.digits import digits
from boxwood._internal.data.splits import InMemory, from_tensors
from boxwood._internal.distill.cached_logits import CachedStepLogits, Float32, Shards, cache_logits
from boxwood._internal.distill.ensembles import forward_of
from boxwood._internal.distill.losses import Distillation
from boxwood._internal.files.mask_files import load_masks, masks_file_of, write_with_masks
from boxwood._internal.graph.compensate import compensate
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.model.counting import count_layers
from boxwood._internal.model.dead import remove_dead_
from boxwood._internal.model.evidence.movement import TrackMovement
from boxwood._internal.model.mask_refinement import refine_masks
from boxwood._internal.model.oneshot import (
    apply_masks_,
    find_masks,
    find_masks_in_rounds,
    masks_from_zeros,
)
from boxwood._internal.model.prunable import linear_and_conv
from boxwood._internal.model.reconstruct import (
    load_,
    prune_and_reconstruct,
    prune_by_alps,
    reconstruct,
)
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood._internal.recipes.unit_selection import select_units
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.loop import train_
from boxwood._internal.train.losses import cross_entropy
from boxwood._internal.train.metrics import evaluate
from boxwood._internal.train.settings import Regularisation
from boxwood._internal.train.snapshots import Snapshot
from boxwood.optim import SGD, Adam
from boxwood.policies import (
    gmp_star,
)
from boxwood.recipes import Genesis
from boxwood.schedules import Cubic
from boxwood.training import Training

Device = torch.device
CPU = torch.device("cpu")
Numbers = Mapping[str, Any]


POLICIES: dict[str, Any] = {
    **policies(end=9, every=2),
    "gmp_star": gmp_star(0.8, begin=1, end=5, every=1),
}


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3),
    ).eval()  # fmt: skip


def chain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def images(count: int = 8) -> list[tuple[Tensor, Tensor]]:
    chance = torch.Generator().manual_seed(1)
    return [
        (torch.randn(4, 2, 4, 4, generator=chance), torch.randint(3, (4,), generator=chance))
        for _ in range(count // 4)
    ]


def rows(count: int = 20) -> InMemory:
    chance = torch.Generator().manual_seed(2)
    inputs = torch.randn(count, 12, generator=chance)
    return InMemory(inputs, torch.randint(3, (count,), generator=chance))


def pruned_further(device: Device) -> Numbers:
    found = {}
    for name, granularity in (("elements", None), ("filters", Slices()), ("rows", PerRow())):
        for allocation in (global_, uniform):
            net = convolutions().to(device)
            ask = partial(find_masks, net, granularity=granularity, allocation=allocation)
            first = {key: mask.cpu() for key, mask in ask(0.3).items()}
            found |= {f"{name} {key}": mask for key, mask in ask(0.7, masks=first).items()}
    net = nn.Linear(8, 8).to(device)
    whole = {"weight": torch.ones(8, 8, dtype=torch.bool)}
    return found | find_masks(net, 0.5, granularity=NofM(2, 4), masks=whole)


def pruned_by(device: Device, name: str) -> Numbers:
    net = (chain() if name.startswith("obd") else convolutions()).to(device)
    layers = linear_and_conv
    if name in ("network_slimming", "rank_of_features"):
        layers = boxwood._internal.model.prunable.Named(("0.weight",))
    batches: Any = images()
    if name.startswith("obd"):
        batches = [rows().take(torch.arange(20))]
    settings = {"loss": cross_entropy, "batches": batches, "layers": layers}
    masks = find_masks(net, 0.3, criterion=getattr(criteria, name), **settings)
    within = {key: mask.cpu() for key, mask in masks.items()}
    return find_masks(net, 0.6, criterion=getattr(criteria, name), masks=within, **settings)


def pruned_by_movement(device: Device) -> Numbers:
    net = chain().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    track = TrackMovement(optimizer, linear_and_conv(net))
    inputs, targets = rows().take(torch.arange(20))
    cross_entropy(net(inputs.to(device)), targets.to(device)).backward()
    optimizer.step()
    found = {kind: {n: t.cpu() for n, t in each.items()} for kind, each in track.evidence().items()}
    return find_masks(net, 0.5, criterion=criteria.movement, evidence=found)


def pruned_in_rounds(device: Device) -> Numbers:
    net = convolutions().to(device)
    return find_masks_in_rounds(
        net, Cubic(final=0.8, end=3), 3, masks=find_masks(convolutions(), 0.1)
    )


def trained(device: Device, policy: Any) -> Numbers:
    net = chain().to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    start = {name: mask.cpu() for name, mask in policy.init(linear_and_conv(chain())).items()}
    inputs, targets = rows().take(torch.arange(20))
    training = SparseTraining(
        net, optimizer, policy, state=start, loss=cross_entropy, batches=[(inputs, targets)]
    )
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(net(inputs.to(device)), targets.to(device)).backward()
        optimizer.step()
    saved = {name: each.cpu() for name, each in training.state_dict().items()}
    training.load_state_dict(saved)
    return {**training.masks, **dict(net.named_parameters())}


def masked(device: Device) -> Numbers:
    net = chain().to(device)
    masks = find_masks(chain(), 0.5)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    held = boxwood.MaskBinding(net, optimizer, masks)
    inputs, targets = rows().take(torch.arange(20))
    cross_entropy(net(inputs.to(device)), targets.to(device)).backward()
    optimizer.step()
    held.replace_masks(find_masks(chain(), 0.7, masks=masks))
    held.detach()
    apply_masks_(net, find_masks(chain(), 0.8))
    zeros = masks_from_zeros(net)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        write_with_masks(path, {n: p.detach().cpu() for n, p in net.named_parameters()}, zeros)
        read = load_masks(masks_file_of(path))
    counts = count_layers(net, rows().inputs, masks)
    dead = remove_dead_(net, masks, (12,))
    return {**zeros, "counts": repr(counts), "dead": repr(dead.removed), **{f"r {n}": m for n, m in read.items()}}  # fmt: skip


def reconstructed(device: Device) -> Numbers:
    net = convolutions().to(device)
    inputs = [x for x, _ in images()]
    first = reconstruct(net, find_masks(convolutions(), 0.5), inputs)
    second = prune_and_reconstruct(net, 0.5, inputs)
    load_(net, {name: weight.cpu() for name, weight in first.items()})
    third = prune_by_alps(net, 0.5, inputs)
    refined = refine_masks(net, find_masks(convolutions(), 0.5), inputs)
    return {
        **first,
        **{f"second {name}": weight for name, weight in second.weights.items()},
        **{f"third {name}": weight for name, weight in third.weights.items()},
        **{f"refined {name}": mask for name, mask in refined.items()},
    }


def shrunken(device: Device) -> Numbers:
    net = convolutions().to(device)
    found = find_units(net, images()[0][0].to(device))
    selection = select_units(found, 0.5)
    small = shrink(net, selection)
    assert check_equivalence(net, small, selection).equivalent
    assert check_equivalence(net, small, selection, example=images()[1][0]).equivalent
    assert check_equivalence(net, small, selection, inputs=[images()[1][0]]).equivalent
    assert shrink(net, select_units(find_units(net, images()[0][0]), 0.5))[0].weight.shape[0] == 3
    return dict(small.state_dict())


def compensated(device: Device) -> Numbers:
    net = convolutions().to(device)
    selection = select_units(find_units(net, images()[0][0].to(device)), 0.5)
    batches = [inputs for inputs, _ in images()]
    small = shrink(net, selection)
    folded = compensate(net, small, selection, batches, refit=False)
    refitted = compensate(net, small, selection, batches)
    return {**folded.state_dict(), **{f"2 {n}": t for n, t in refitted.state_dict().items()}}


def fitted(device: Device, *, data_on_device: bool, **settings: Any) -> Numbers:
    net = nn.Sequential(*chain(), nn.Dropout(0.0)).to(device)
    data = rows()
    if data_on_device:
        data = InMemory(data.inputs.to(device), data.targets.to(device))
    training = Training(epochs=2, batch=6, optimizer=Adam(lr=0.01), **settings)
    done = train_(net, data, training, seed=0, masks=find_masks(chain(), 0.3))
    return {
        **dict(net.named_parameters()), **done.masks, "history": repr(done.history),
        "evaluated": repr(evaluate(net, data, cross_entropy)),
    }  # fmt: skip


class Stopping:
    """Checkpoints that keep a snapshot at one moment, as files do: on the CPU."""

    def __init__(self, stop: int) -> None:
        self.stop, self.step = stop, 0
        self.kept: Snapshot | None = None

    def load(self) -> Snapshot | None:
        return self.kept

    def due(self) -> bool:
        self.step += 1
        return self.step == self.stop

    def save(self, snapshot: Snapshot) -> None:
        copied = {name: tensor.cpu().clone() for name, tensor in snapshot.tensors.items()}
        self.kept = Snapshot(copied, snapshot.facts)
        raise KeyboardInterrupt


def resumed(
    device: Device, make: Callable[[], nn.Module], data: InMemory, training: Training
) -> Numbers:
    """A training that is stopped and taken up is the undisturbed one."""
    found: list[nn.Module] = []
    for stop in (-1, 5):
        net, checkpoints = make().to(device), Stopping(stop)
        try:
            train_(net, data, training, seed=0, callbacks=Callbacks(checkpoints=checkpoints))
        except KeyboardInterrupt:
            net, checkpoints.stop = make().to(device), -1
            train_(net, data, training, seed=0, callbacks=Callbacks(checkpoints=checkpoints))
        found.append(net)
    whole, again = (dict(net.named_parameters()) for net in found)
    assert all(torch.equal(whole[name].cpu(), again[name].cpu()) for name in whole)
    return {} if training.shuffle_index else whole


class Reading(nn.Module):
    """A network that reads on, without torch's recurrent kernels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words, self.again, self.out = nn.Embedding(13, 6), nn.Linear(6, 6), nn.Linear(6, 13)

    def forward_with_state(self, inputs: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        hidden = state.get("hidden", self.words.weight.new_zeros(len(inputs), 6))
        seen = []
        for word in self.words(inputs).unbind(1):
            hidden = torch.tanh(word + self.again(hidden))
            seen.append(self.out(hidden))
        return torch.stack(seen, 2), {"hidden": hidden.detach()}


def reading(device: Device) -> Numbers:
    stream = torch.randint(13, (93,), generator=torch.Generator().manual_seed(5))
    data = InMemory(stream[:-1].view(23, 4), stream[1:].view(23, 4))
    training = Training(
        epochs=2,
        batch=3,
        optimizer=SGD(lr=1.0),
        regularisation=Regularisation(max_gradient_norm=0.25),
        stateful=True,
    )
    return resumed(device, Reading, data, training)


def dropping(device: Device) -> Numbers:
    def make() -> nn.Module:
        return nn.Sequential(*chain()[:2], nn.Dropout(0.5), chain()[2])

    # The device draws other numbers than the CPU does: compared is stopped with undisturbed.
    return resumed(
        device, make, rows(), Training(epochs=4, batch=6, optimizer=Adam(lr=0.1), shuffle_index=1)
    )


def splits(device: Device) -> Numbers:
    data = rows()
    pair = data.inputs.to(device), data.targets.to(device)
    made = from_tensors("toy", pair, pair, validation=5)
    inputs, targets = made.validation.take(torch.tensor([1, 3]))
    return {"inputs": inputs, "targets": targets, "identity": made.identity}


def taught(device: Device) -> Numbers:
    teacher, data, order = chain().to(device), rows(), torch.tensor([3, 1])
    on_device = InMemory(data.inputs.to(device), data.targets)
    answers = cache_logits(forward_of(teacher), data, batch=7)
    with torch.no_grad():
        raw = cache_logits(lambda inputs: teacher(inputs), on_device)
    with tempfile.TemporaryDirectory() as folder:
        kept = CachedStepLogits(
            lambda x: teacher(x.to(device)).detach(), Float32(), Shards(Path(folder))
        )
        step = kept(0, order, data.inputs[:2], data.targets[:2]).logits
        kept.close()
    student = nn.Linear(12, 3).to(device)
    nn.init.ones_(student.weight)
    nn.init.zeros_(student.bias)
    training = Training(
        epochs=1, batch=6, optimizer=SGD(lr=0.1), loss=Distillation(temperature=2.0)
    )
    train_(student, on_device, training, seed=0, make_targets=raw)
    found = answers(0, order, data.inputs, data.targets[order]).logits
    return {"found": found, "step": step, "student": student.weight}


def searched(device: Device) -> Numbers:
    net = convolutions().to(device)
    tries = tries_of(net, images()[0][0].to(device), "0.weight", lambda small: 0.9)
    agent = Agent(tries.picture, TryAndLearn(bound=1.0, updates=4), seed=0)
    while not agent.finished:
        agent.step_(tries.drops)
    return {"action": agent.action, "tried": repr(agent.updates)}


def undisturbed(device: Device) -> Numbers:
    """Torch's random numbers go on as if nothing had been called in between."""
    net = convolutions().to(device)
    example, batches = images()[0][0].to(device), images()
    genesis = Genesis(model=partial(nn.Linear, 3, 2), data=digits)
    trained = nn.Sequential(chain(), nn.Dropout()).to(device)
    training = Training(epochs=1, batch=6, optimizer=SGD(lr=0.1))
    found = find_units(net, example)
    selection = select_units(found, 0.5)
    small = shrink(net, selection)

    class Noisy(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.rand_like(x))

    noisy = Noisy(*copy.deepcopy(net))
    calls: dict[str, Callable[[], object]] = {
        "find_units": lambda: find_units(noisy, example),
        "shrink": lambda: shrink(net, selection),
        "check_equivalence": lambda: check_equivalence(net, small, selection),
        "compensate": lambda: compensate(noisy, small, selection, [example]),
        "prune": lambda: find_masks(
            noisy, 0.5, criterion=criteria.snip, loss=cross_entropy, batches=batches
        ),
        "train_": lambda: train_(trained, rows(), training, seed=0),
        "build": genesis.build,
        "agent": lambda: Agent(torch.eye(3), TryAndLearn(bound=1.0), seed=0),
    }
    for name, call in calls.items():
        torch.manual_seed(7)
        MODULE.manual_seed(8)
        before, other = torch.get_rng_state(), MODULE.get_rng_state()
        call()
        assert torch.equal(before, torch.get_rng_state()), f"{name} on the CPU"
        assert torch.equal(other, MODULE.get_rng_state()), f"{name} on the device"
    return {}


SCENARIOS: dict[str, Callable[[Device], Numbers]] = {
    "pruned further": pruned_further,
    "pruned by movement": pruned_by_movement,
    "pruned in rounds": pruned_in_rounds,
    "masked": masked,
    "reconstructed": reconstructed,
    "shrunken": shrunken,
    "compensated": compensated,
    "fitted": partial(fitted, data_on_device=False),
    "fitted to data on the device": partial(fitted, data_on_device=True),
    "read in order": reading,
    "stopped with dropout": dropping,
    "splits": splits,
    "taught": taught,
    "searched": searched,
    "undisturbed": undisturbed,
}
SCENARIOS |= {
    f"by {name}": partial(pruned_by, name=name)
    for name in criteria.__all__
    if inspect.isfunction(getattr(criteria, name)) and name != "movement"
}
SCENARIOS |= {
    f"trained by {name}": partial(trained, policy=policy) for name, policy in POLICIES.items()
}


def plain(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def said(scenario: Callable[[Device], Numbers]) -> str:
    """Compare both runs; "" where they agree."""
    try:
        with Pretending():
            mine = {name: plain(each) for name, each in scenario(GPU).items()}
            other = {name: plain(each) for name, each in scenario(CPU).items()}
    except Exception:  # noqa: BLE001 - the test shows it
        return traceback.format_exc()
    if mine.keys() != other.keys():
        return f"{sorted(mine)} and {sorted(other)}"
    differ = [
        name
        for name, each in mine.items()
        if not (torch.equal(each, other[name]) if isinstance(each, Tensor) else each == other[name])
    ]
    return f"other numbers on the device: {', '.join(differ)}" if differ else ""
