"""Policies reach what they promise, step by step, and touch nothing else."""

import re
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boxwood._internal.core.allocation import global_, uniform
from boxwood._internal.core.allocation_by_layer import erdos_renyi_kernel
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import Slices
from boxwood._internal.core.schedules import Cubic, Linear, OneShot, Steps
from boxwood._internal.data.splits import InMemory
from boxwood._internal.model.layer_kinds import layouts_of, outputs_first
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood._internal.train.loop import train_
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import PolicyPruning, Training
from boxwood.errors import BoxwoodError
from boxwood.policies import (
    ACDC,
    MEST,
    SET,
    SNFS,
    Gradual,
    GraNet,
    LayerByLayer,
    MovementPruning,
    Policy,
    RigL,
    Static,
)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 7), nn.Tanh(), nn.Linear(7, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(16, 12, generator=generator)
    return inputs, torch.randint(3, (16,), generator=generator)


def train(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: range,
    *,
    clip: float | None = None,
    after: Callable[[int], None] = lambda step: None,
) -> None:
    for step in steps:
        inputs, targets = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        after(step + 1)


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)


@given(
    final=st.floats(0.05, 0.95),
    begin=st.integers(0, 30),
    length=st.integers(1, 30),
    every=st.integers(1, 7),
    allocation=st.sampled_from([uniform, global_]),
    shape=st.sampled_from([Cubic, Linear]),
)
@settings(max_examples=20, deadline=None)
def test_counts_are_exact_at_every_update(
    final: float, begin: int, length: int, every: int, allocation: object, shape: type
) -> None:
    """At every update the counts are those of the schedule, and afterwards nothing changes."""
    schedule = shape(final=final, begin=begin, end=begin + length)
    policy = Gradual(schedule=schedule, every=every, allocation=allocation)
    net = network()
    optimizer = adam(net)
    training = SparseTraining(net, optimizer, policy)
    last: dict[str, Tensor] = training.masks

    def check(step: int) -> None:
        nonlocal last
        masks = training.masks
        if policy.due(step):
            wanted = schedule(step)
            if allocation is uniform:
                for mask in masks.values():
                    assert int(mask.sum()) == round((1 - wanted) * mask.numel())
            every_mask = torch.cat([mask.view(-1) for mask in masks.values()])
            assert allocation is uniform or int(every_mask.sum()) == round(
                (1 - wanted) * every_mask.numel()
            )
        else:
            assert all(torch.equal(masks[n], last[n]) for n in masks)
        assert not any((masks[n] & ~last[n]).any() for n in masks)
        for name, mask in masks.items():
            assert not net.get_parameter(name)[~mask].any()
        last = masks

    train(net, optimizer, range(begin + length + 2 * every), clip=0.5, after=check)
    assert (
        all(abs(int((~m).sum()) - final * m.numel()) <= 0.5 + 1e-9 for m in last.values())
        or allocation is global_
    )


def test_a_dense_tensor_replaces_as_large_a_fraction_as_any_other() -> None:
    """With one free place two weights go, and one of them may come again, as in the authors' code."""
    masks = {"w": torch.tensor([True] * 9 + [False])}
    scores = {"w": torch.tensor([2.0, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 0.0])}
    gradients = {"w": torch.tensor([0.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0])}
    after = RigL(0.1, until=10**9, fraction=0.3).update(100, masks, scores, gradients)["w"]
    assert after.tolist() == [False] + [True] * 9


@pytest.mark.parametrize("shape", [Cubic, Linear])
def test_an_initial_sparsity_waits_for_the_begin(shape: type) -> None:
    """Nothing is pruned before the window; its first update prunes what the schedule starts from."""
    policy = Gradual(schedule=shape(final=0.8, initial=0.5, begin=100, end=300), every=50)
    assert [t for t in range(1, 500) if policy.due(t)] == [100, 150, 200, 250, 300]
    masks = {"w": torch.ones(1000, dtype=torch.bool)}
    assert int(policy.update(100, masks, {"w": torch.rand(1000)}, {})["w"].sum()) == 500


def test_the_cubic_ramp_is_seven_eighths_done_in_the_middle() -> None:
    """Zhu and Gupta's schedule: nothing at the start, 0.875 s_f in the middle, s_f at the end."""
    policy = Gradual(schedule=Cubic(final=0.8, begin=100, end=300), every=50)
    assert [t for t in range(1, 500) if policy.due(t)] == [150, 200, 250, 300]
    masks = {"w": torch.ones(1000, dtype=torch.bool)}
    scores = {"w": torch.rand(1000)}
    kept = [int(policy.update(t, masks, scores, {})["w"].sum()) for t in (200, 300)]
    assert kept == [300, 200]


def test_a_ramp_that_ends_between_updates_ends_at_the_next() -> None:
    """The final sparsity is reached even where the end is no multiple of every."""
    policy = Gradual(schedule=Cubic(final=0.8, end=130), every=50)
    assert [t for t in range(1, 500) if policy.due(t)] == [50, 100, 150]
    shot = Gradual(schedule=OneShot(final=0.8, at=130), every=50)
    assert [t for t in range(1, 500) if shot.due(t)] == [150]
    windows = LayerByLayer(final=0.8, begin=20, end=130, every=50)
    assert [t for t in range(1, 500) if windows.due(t)] == [50, 100, 150]


def test_layers_are_pruned_one_after_the_other() -> None:
    """Each tensor reaches its final sparsity when its own window ends, and none begins earlier."""
    policy = LayerByLayer(final=0.75, begin=0, end=300, every=50)
    scores = {name: torch.rand(40) for name in "abc"}
    masks = policy.init(scores)
    kept = {}
    for step in range(1, 400):
        if policy.due(step):
            masks = policy.update(step, masks, scores, {})
            kept[step] = [int(m.sum()) for m in masks.values()]
    assert kept[50] == [14, 40, 40]  # 0.875 of 30 weights are 26
    assert kept[100] == [10, 40, 40]
    assert kept[200] == [10, 10, 40]
    assert kept[300] == [10, 10, 10]


@pytest.mark.parametrize(
    "policy", [SET(sparsity=0.8, until=80, every=10), RigL(sparsity=0.8, until=80, every=10)]
)
def test_replacing_keeps_every_count(policy: Policy) -> None:
    """SET and RigL change which weights live, and never how many, in any tensor."""
    net = network()
    optimizer = adam(net)
    training = SparseTraining(net, optimizer, policy)
    first = training.masks
    train(net, optimizer, range(100))
    for name, mask in training.masks.items():
        assert int(mask.sum()) == int(first[name].sum()) == round(0.2 * mask.numel())
    assert not torch.equal(training.masks["0.weight"], first["0.weight"])
    assert not net[0].weight[~training.masks["0.weight"]].any()


class Mixed(nn.Module):
    """Every way in which a matrix can lie: kernels, of groups and transposed, and recurrent ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.up(self.grouped(self.first(x.view(-1, 3, 2, 2)).relu()).relu())
        return self.last(self.lstm(maps.flatten(2).transpose(1, 2))[0][:, -1])


@pytest.mark.parametrize(
    "policy",
    [
        Static(sparsity=0.7, granularity=Blocks(1, 4)),
        SET(sparsity=0.7, until=12, every=3, granularity=Blocks(1, 4)),
        RigL(sparsity=0.7, until=12, every=3, granularity=Blocks(1, 4)),
        RigL(sparsity=0.7, until=12, every=3, granularity=Blocks(1, 4), allocation=erdos_renyi_kernel),
        LayerByLayer(final=0.7, end=10, every=1, granularity=Blocks(1, 4)),
        Gradual(schedule=Cubic(final=0.7, end=9), every=3, granularity=Blocks(1, 4), allocation=global_),
        RigL(sparsity=0.7, until=12, every=3, granularity=Slices()),
        ACDC(sparsity=0.7, begin=2, end=11, every=3, granularity=Blocks(1, 4), allocation=uniform),
        GraNet(sparsity=0.7, until=12, every=3, granularity=Blocks(1, 4)),
        SNFS(sparsity=0.7, until=12, every=3, granularity=Blocks(1, 4)),
        MEST(sparsity=0.7, until=12, every=3, granularity=Blocks(1, 4)),
        MovementPruning(Cubic(final=0.7, end=9), every=3, granularity=Blocks(1, 4)),
    ],
    ids=lambda policy: type(policy).__name__,
)  # fmt: skip
def test_groups_go_and_grow_whole(policy: Policy) -> None:
    """Under every policy a group of inputs is whole at every step, and counts are of groups."""
    torch.manual_seed(0)
    net = Mixed()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    training = SparseTraining(net, optimizer, policy)
    groups = policy.granularity

    def pooled() -> dict[str, Tensor]:
        shown = outputs_first(layouts_of(net, dict(net.named_parameters())), training.masks)
        for mask in shown.values():
            assert torch.equal(groups.spread(groups.alive(mask), tuple(mask.shape)), mask)
        return {name: groups.alive(mask) for name, mask in shown.items()}

    first = pooled()
    train(net, optimizer, range(12), after=lambda step: pooled() and None)
    last = pooled()
    kept = {name: int(mask.sum()) for name, mask in last.items()}
    wanted = {name: round(0.3 * mask.numel()) for name, mask in last.items()}
    if getattr(policy, "allocation", uniform) is not uniform:
        assert sum(kept.values()) == round(0.3 * sum(mask.numel() for mask in last.values()))
    elif isinstance(policy, SNFS):  # it moves groups from tensor to tensor
        assert sum(kept.values()) == sum(wanted.values())
    else:
        assert kept == wanted
    changed = not all(torch.equal(first[name], mask) for name, mask in last.items())
    assert changed == (not isinstance(policy, Static))


def test_rigl_grows_where_the_dense_gradient_is_largest() -> None:
    """At an update, what grows has the largest gradients of all that was pruned or dropped."""
    net, twin = network(), network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    policy = RigL(sparsity=0.8, until=100, every=1)
    training = SparseTraining(net, optimizer, policy)
    before = training.masks
    twin.load_state_dict(net.state_dict())
    inputs, targets = batch(0)
    nn.functional.cross_entropy(twin(inputs), targets).backward()
    scores = {n: twin.get_parameter(n).detach().abs() for n in before}
    gradients = {n: twin.get_parameter(n).grad for n in before}
    train(net, optimizer, range(1))
    wanted = policy.update(1, before, scores, gradients)
    assert all(torch.equal(training.masks[n], wanted[n]) for n in wanted)


def test_clipping_sees_no_pruned_gradients_at_an_update() -> None:
    """RigL's dense gradients are kept aside: what the loop sees is masked at every step."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    training = SparseTraining(net, optimizer, RigL(sparsity=0.8, until=100, every=1))
    inputs, targets = batch(0)
    nn.functional.cross_entropy(net(inputs), targets).backward()
    for name, mask in training.masks.items():
        assert not net.get_parameter(name).grad[~mask].any()


def test_static_masks_stay() -> None:
    """Static sparse training never changes its random masks; another seed draws others."""
    net = network()
    optimizer = adam(net)
    training = SparseTraining(net, optimizer, Static(sparsity=0.5))
    first = training.masks
    train(net, optimizer, range(20))
    assert all(torch.equal(first[n], mask) for n, mask in training.masks.items())
    weights = {"w": torch.zeros(50)}
    one, other = (Static(sparsity=0.5, seed=s).init(weights)["w"] for s in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "policy",
    [
        Gradual(schedule=Cubic(final=0.9, begin=5, end=45), every=5),
        LayerByLayer(final=0.9, begin=5, end=45, every=5),
        SET(sparsity=0.8, until=45, every=5),
        RigL(sparsity=0.8, until=45, every=5),
    ],
)
@pytest.mark.parametrize(("stop", "late"), [(1, True), (19, False), (20, True), (33, False)])
def test_resuming_inside_a_ramp_is_exact(policy: Policy, stop: int, late: bool) -> None:
    """Stopped anywhere and resumed from what was saved, the weights are those never stopped."""
    whole = network()
    optimizer = adam(whole)
    SparseTraining(whole, optimizer, policy)
    train(whole, optimizer, range(60))
    half = network()
    optimizer = adam(half)
    training = SparseTraining(half, optimizer, policy)
    train(half, optimizer, range(stop))
    saved = (half.state_dict(), optimizer.state_dict(), training.state_dict())
    again = network(seed=1)
    again.load_state_dict(saved[0])
    optimizer = adam(again)
    if late:
        training = SparseTraining(again, optimizer, policy)
        again.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        training.load_state_dict(saved[2])
    else:
        optimizer.load_state_dict(saved[1])
        SparseTraining(again, optimizer, policy, state=saved[2])
    train(again, optimizer, range(stop, 60))
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name


def test_detached_training_changes_nothing_more() -> None:
    """After detach the masks stay as they are and weights may come back."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    policy = Gradual(schedule=Linear(final=0.9, end=20), every=1)
    training = SparseTraining(net, optimizer, policy)
    train(net, optimizer, range(10))
    before = training.masks
    training.detach(early=True)
    train(net, optimizer, range(10, 20))
    assert all(torch.equal(before[n], mask) for n, mask in training.masks.items())
    assert net[0].weight[~before["0.weight"]].any()


def _table(step: int) -> float:
    return (0.0, 0.3, 0.6)[step // 10]  # and no row behind it


@pytest.mark.parametrize(
    ("policy", "steps", "said"),
    [
        (Gradual(schedule=Cubic(final=0.9, end=20), every=5), 20, None),
        (Gradual(schedule=Cubic(final=0.9, end=20), every=5), 19, r"0.88\d on the way to 0.900, .* 20"),
        (Gradual(schedule=Linear(final=0.9, end=17), every=5), 17, r"0.79\d on .* 0.900, .* step 20"),
        (Gradual(schedule=OneShot(final=0.5, at=300_000), every=5), 7, "0.000 on .* step 300,000"),
        (Gradual(schedule=lambda t: min(0.5, t / 40), every=5), 10, r"0.2[45]\d on the way to 0.500"),
        (Gradual(schedule=Steps(((5, 0.2), (30, 0.5))), every=5), 10, r"0.(199|20\d) on the way to 0.500"),
        (Gradual(schedule=_table, every=5), 12, None),  # nothing is known, and nothing fails
        (LayerByLayer(final=0.5, end=20, every=5), 10, "on the way to 0.500, .* step 15"),
        (LayerByLayer(final=0.5, end=20, every=5), 20, None),
        (RigL(sparsity=0.5, until=100, every=5), 10, None),
        (Static(sparsity=0.5), 10, None),
        (Gradual(schedule=Cubic(final=0.9, end=20), every=5), 0, None),
    ],
)  # fmt: skip
def test_a_schedule_that_had_not_ended_is_said(policy, steps: int, said: str | None) -> None:
    """Once, where the training lets go; sparsity and its being finished can be asked at any time."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    training = SparseTraining(net, optimizer, policy)
    train(net, optimizer, range(steps))
    places = torch.cat([mask.flatten() for mask in training.masks.values()])
    assert training.sparsity == pytest.approx(1 - places.float().mean().item(), abs=1e-6)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        training.detach()
        training.detach()
    assert len(seen) == (said is not None)
    if said:
        assert not training.finished
        assert re.search(rf"after {steps} steps, at a sparsity of .*{said}", str(seen[0].message))


def test_a_recipes_schedule_that_had_not_ended_is_said() -> None:
    """After the last step of a whole training; a part of one may end anywhere."""
    policy = Gradual(schedule=Linear(final=0.8, end=8), every=2)
    training = Training(steps=6, batch=6, optimizer=SGD(lr=0.1), pruning=PolicyPruning(policy))
    examples = InMemory(torch.randn(12, 12), torch.arange(12) % 3)
    with pytest.warns(UserWarning, match=r"after 6 steps, at a sparsity of 0\.60.* to 0\.800"):
        train_(network(), examples, training, seed=0)
    train_(network(), examples, replace(training, steps=8), seed=0)
    train_(network(), examples, replace(training, steps=10, stop_at=6), seed=0)


def test_bad_settings_are_refused() -> None:
    """Each policy names the setting at fault."""
    with pytest.raises(BoxwoodError, match=r"Expected every >= 1 steps, got 0"):
        Gradual(schedule=Cubic(final=0.5, end=10), every=0)
    with pytest.raises(BoxwoodError, match=r"Expected a fraction in \(0, 1\) .* got 1\.5"):
        RigL(sparsity=0.5, until=10, fraction=1.5)
    with pytest.raises(BoxwoodError, match=r"Expected final sparsity in \[0, 1\), got 1"):
        LayerByLayer(final=1, end=10)
    net = network()
    training = SparseTraining(net, adam(net), Static(sparsity=0.5))
    with pytest.raises(
        BoxwoodError, match="Expected a state with the number of steps, got nothing"
    ):
        training.load_state_dict({})


def test_masks_of_other_parameters_are_refused() -> None:
    """A policy goes on from masks of exactly the parameters that it prunes."""
    net = network()
    state = {"0.weight": torch.ones(20, 12, dtype=torch.bool)}
    with pytest.raises(
        BoxwoodError, match=r"Expected masks for 0\.weight, 2\.weight, 4\.weight, got"
    ):
        SparseTraining(net, adam(net), Static(sparsity=0.5), state=state)


def test_a_parameter_without_a_gradient_is_named() -> None:
    """RigL cannot grow what the loss does not depend on."""
    net = nn.ModuleDict({"used": nn.Linear(4, 4), "idle": nn.Linear(4, 4)})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    SparseTraining(net, optimizer, RigL(sparsity=0.5, until=10, every=1))
    net["used"](torch.ones(1, 4)).sum().backward()
    with pytest.raises(BoxwoodError, match=r"gradient of every pruned .* none of idle\.weight"):
        optimizer.step()
