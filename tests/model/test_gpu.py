"""What only hardware can show, on the CPU as well, so that these tests are tested everywhere.

On a GPU networks give what they give on the CPU, nothing waits for the device between updates, and
masks hold under fused, captured and compiled steps. ``pytest -m gpu`` runs that half alone.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from boxwood import MaskBinding, SparseTraining, apply_masks_, find_masks
from boxwood._internal.core import selection
from boxwood.allocation import erdos_renyi_kernel, uniform
from boxwood.criteria import random
from boxwood.granularity import NofM, PerRow, Slices
from boxwood.policies import Gradual, RigL
from boxwood.schedules import Cubic

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])
NEAR = {"rtol": 1e-5, "atol": 1e-6}  # capturable optimizers count their steps in float32
SHORT = 0.05  # gradients are clipped to it: a pruned one that counted would move all weights
SETTINGS = {"lr": 0.01, "weight_decay": 0.1, "eps": 0.1}  # by its eps, Adam feels the clipping
ADAM = {
    "one by one": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable": {"foreach": True, "capturable": True},
}
SELECTIONS = {
    "global": {},
    "uniform": {"allocation": uniform},
    "by size of layer": {"allocation": erdos_renyi_kernel},
    "whole outputs": {"granularity": Slices((0,))},
    "rows": {"granularity": PerRow()},
    "by chance": {"criterion": random},
    "2:4": {"sparsity": 0.5, "granularity": NofM(2, 4)},
}


@pytest.fixture(params=["cpu", GPU])
def device(request: pytest.FixtureRequest) -> str:
    """Yield the CPU, and a GPU where there is one."""
    return request.param


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Let torch raise where a kernel of CUDA may give other results the next time."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def network(device: str = "cpu", dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Two layers, the same on every device."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 4)).to(device, dtype)


def loss_of(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(net(batch[0]), batch[1])


def batch_for(net: nn.Module) -> tuple[Tensor, Tensor]:
    """Make the one batch of these tests, where the network is."""
    weight = next(net.parameters())
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(32, 12, generator=generator, dtype=torch.float64)
    return inputs.to(weight), torch.randint(4, (32,), generator=generator).to(weight.device)


def step_of(net: nn.Module, optimizer: Any) -> Callable[[], None]:
    """Make one step of training, on the one batch; it keeps no graph alive."""
    batch = batch_for(net)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        clip_grad_norm_(net.parameters(), SHORT)
        optimizer.step()

    return step


def masked_by_hand(steps: int) -> dict[str, Tensor]:
    """Train on the CPU by plain Adam, and multiply gradients and weights by the masks."""
    net = network()
    masks = find_masks(net, 0.6)
    apply_masks_(net, masks)
    optimizer = Adam(net.parameters(), **SETTINGS, foreach=False)
    named, batch = dict(net.named_parameters()), batch_for(net)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        for name, mask in masks.items():
            named[name].grad *= mask
        clip_grad_norm_(net.parameters(), SHORT)
        optimizer.step()
        apply_masks_(net, masks)
    return net.state_dict()


def assert_held(net: nn.Module, masks: dict[str, Tensor]) -> None:
    """No pruned weight lives, and not all kept ones are zero."""
    for name, mask in masks.items():
        weight = net.get_parameter(name).detach()
        assert mask.device == weight.device
        assert not weight[~mask].any()
        assert weight[mask].any()
        assert weight.isfinite().all()


def assert_near(net: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, weight in net.state_dict().items():
        torch.testing.assert_close(weight.cpu(), expected[name], **NEAR)


# Masks


def tied_network(outputs: int, dtype: torch.dtype) -> nn.Module:
    """Weights with thousands of ties, whose sums are exact in whatever order they are added."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, outputs), nn.Linear(outputs, 16), nn.Conv2d(8, 16, 3))
    for weight in net.parameters():
        nn.init.constant_(weight, 0).data += torch.randint(-99, 100, weight.shape) / 64
    return net.to(dtype)


@pytest.mark.parametrize("outputs", [100, 40_000], ids=["partition", "histogram"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.usefixtures("deterministic")
def test_global_masks_are_those_of_the_cpu(
    device: str, dtype: torch.dtype, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, ties included, at the first pruning and at one that goes on from it."""
    monkeypatch.setattr(selection, "_DEVICE_CHUNK", 1 << 18)  # several pieces
    net = tied_network(outputs, dtype)
    moved = copy.deepcopy(net).to(device)
    mine, masks = None, None
    for sparsity in (0.5, 0.93):
        masks = find_masks(net, sparsity, masks=masks)
        mine = find_masks(moved, sparsity, masks=mine)
        for name, mask in masks.items():
            assert mine[name].device == moved.get_parameter(name).device
            assert torch.equal(mine[name].cpu(), mask)
    apply_masks_(moved, masks)  # masks of the CPU, network on the device
    assert_held(moved, mine)


@pytest.mark.parametrize("how", SELECTIONS)
def test_masks_of_every_kind_are_those_of_the_cpu(device: str, how: str) -> None:
    """Bit for bit, whatever a group is and however the sparsity is shared out."""
    net = tied_network(4096, torch.float32)
    moved = copy.deepcopy(net).to(device)
    masks, mine = (
        find_masks(each, **{"sparsity": 0.75, **SELECTIONS[how]}) for each in (net, moved)
    )
    assert all(torch.equal(mine[name].cpu(), mask) for name, mask in masks.items())


# Training under masks


@pytest.mark.parametrize("kind", ADAM)
def test_adam_under_masks_is_adam_masked_by_hand(device: str, kind: str) -> None:
    """Every implementation of it, against a loop on the CPU that knows nothing of bindings."""
    if kind == "capturable" and device == "cpu":
        pytest.skip("capturable optimizers need an accelerator")
    net = network(device)
    optimizer = Adam(net.parameters(), **SETTINGS, **ADAM[kind])
    held = MaskBinding(net, optimizer, find_masks(net, 0.6))
    step = step_of(net, optimizer)
    for _ in range(6):
        step()
    assert_held(net, held.masks)
    assert_near(net, masked_by_hand(6))


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_steps_that_a_scaler_skips_move_and_count_nothing(device: str, fused: bool) -> None:
    """Under autocast, at the second of every three steps a gradient overflows."""
    net = network(device, torch.float32)
    optimizer = AdamW(net.parameters(), lr=0.05, fused=fused)
    policy = Gradual(schedule=Cubic(final=0.8, end=4), every=1)
    training = SparseTraining(net, optimizer, policy)
    scaler = torch.amp.GradScaler(device, init_scale=8.0)
    batch = batch_for(net)
    half = torch.float16 if device == "cuda" else torch.bfloat16
    for number in range(9):
        before = {name: value.clone() for name, value in net.state_dict().items()}
        masks = {name: mask.clone() for name, mask in training.masks.items()}
        overflows = number % 3 == 1
        optimizer.zero_grad()
        with torch.autocast(device, half):
            loss = loss_of(net, batch) * (float("inf") if overflows else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        same = all(torch.equal(before[name], value) for name, value in net.state_dict().items())
        assert same == overflows
        if overflows:
            assert all(torch.equal(masks[name], mask) for name, mask in training.masks.items())
        assert_held(net, training.masks)
    assert training.steps == 6
    assert training.sparsity == pytest.approx(0.8, abs=0.01)


def recorded(step: Callable[[], None], device: str) -> Callable[[], Any]:
    """Capture a step into a CUDA graph, after three others; on the CPU the step is its own replay."""
    if device == "cpu":
        for _ in range(3):
            step()
        return step
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph, stream=stream):
        step()
    return graph.replay


def test_a_captured_step_trains_under_masks_and_takes_new_ones(device: str) -> None:
    """Replays are the steps that Python would take; new masks reach the graph that is there."""
    net = network(device)
    options = ADAM["capturable"] if device == "cuda" else ADAM["foreach"]
    optimizer = Adam(net.parameters(), **SETTINGS, **options)
    held = MaskBinding(net, optimizer, find_masks(net, 0.6))
    replay = recorded(step_of(net, optimizer), device)
    for _ in range(4):
        replay()
    assert_near(net, masked_by_hand(7))
    others = {name: ~mask for name, mask in held.masks.items()}
    held.replace_masks(others)
    for _ in range(2):
        replay()
    assert_held(net, others)


@pytest.mark.filterwarnings("ignore")  # of the compiler's own imports and settings
@pytest.mark.parametrize("what", ["network", "step", "both"])
def test_compiled_code_trains_under_masks(device: str, what: str) -> None:
    """A compiled network and a compiled step of the optimizer do what Python would."""
    torch.compiler.reset()
    backend = "inductor" if device == "cuda" else "aot_eager"
    net = network(device)
    called = net if what == "step" else torch.compile(net, backend=backend, fullgraph=True)
    optimizer = Adam(net.parameters(), **SETTINGS, foreach=True)
    held = MaskBinding(called, optimizer, find_masks(net, 0.6))
    advance = optimizer.step
    if what != "network":
        advance = torch.compile(optimizer.step, backend=backend)
    batch = batch_for(net)
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(called, batch).backward()
        clip_grad_norm_(net.parameters(), SHORT)
        advance()
    assert_held(net, held.masks)
    assert_near(net, masked_by_hand(5))


# Policies


def test_rigl_is_that_of_the_cpu(device: str) -> None:
    """The same weights are dropped and grown, and as many of them as there were."""

    def trained(device: str) -> tuple[nn.Module, dict[str, Tensor], SparseTraining]:
        net = network(device)
        optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
        policy = RigL(sparsity=0.7, until=20, every=4)
        training = SparseTraining(net, optimizer, policy)
        first = {name: mask.cpu().clone() for name, mask in training.masks.items()}
        step = step_of(net, optimizer)
        for _ in range(13):
            step()
        return net, first, training

    net, first, training = trained(device)
    other, first_of_cpu, on_cpu = trained("cpu")
    for name, mask in training.masks.items():
        assert torch.equal(first[name], first_of_cpu[name])
        assert torch.equal(mask.cpu(), on_cpu.masks[name])
        assert not torch.equal(mask.cpu(), first[name])
        assert int(mask.sum()) == int(first[name].sum())
    assert_held(net, training.masks)
    assert_near(net, other.state_dict())


class Waits(TorchDispatchMode):
    """Count the calls after which Python knows what a tensor holds."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in {
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
        }
        return func(*args, **(kwargs or {}))


@contextmanager
def never_waiting(device: str):
    """Raise where CUDA is waited for, and on any device where a number is read."""
    waits = Waits()
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        with waits:
            yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert not waits.count


HOLDERS = {
    "MaskBinding": lambda net, optimizer: MaskBinding(net, optimizer, find_masks(net, 0.6)),
    "RigL": lambda net, optimizer: SparseTraining(
        net, optimizer, RigL(sparsity=0.7, until=1000, every=100)
    ),
    "Gradual": lambda net, optimizer: SparseTraining(
        net, optimizer, Gradual(schedule=Cubic(final=0.9, end=1000), every=100)
    ),
}


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.parametrize("holder", HOLDERS)
def test_nothing_waits_for_the_device_between_updates(device: str, holder: str) -> None:
    """A step under masks queues work, and does not ask how it went."""
    net = network(device)
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    held = HOLDERS[holder](net, optimizer)
    step = step_of(net, optimizer)
    step()
    with never_waiting(device):
        for _ in range(3):
            step()
    assert_held(net, held.masks)
