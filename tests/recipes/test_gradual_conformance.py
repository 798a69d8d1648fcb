"""Every criterion, granularity and scope under gradual pruning, on three kinds of network.

To add a criterion, add a row: the criterion, and the networks that can give its evidence.
"""

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwood import criteria
from boxwood._internal.core.allocation import Allocation, global_, uniform
from boxwood._internal.core.allocation_by_layer import OutlierWeighed, erdos_renyi_kernel, lamp
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.call import Call
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.core.granularity import Elements, Granularity, NofM, PerRow, Slices, total
from boxwood._internal.core.policies import Gradual
from boxwood._internal.core.schedules import Cubic, OneShot, Schedule
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.gathering import Evidence, gather
from boxwood._internal.model.evidence.movement import TrackMovement
from boxwood._internal.model.prunable import Layers, Named, linear_and_conv
from boxwood._internal.model.scoring import Criterion
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood.errors import BoxwoodError

END, STEPS = 2, 3


class Recurrent(nn.Module):
    """A small LSTM over words, as in a language model."""

    layers: Layers = staticmethod(Named(("embedding.weight", "lstm.weight_*", "output.weight")))

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.output = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1)[:, :5].mul(3).long() % 8
        return self.output(self.lstm(self.embedding(tokens))[0][:, -1])


class Convolutional(nn.Module):
    """Two convolutions with norms, the second by groups."""

    layers: Layers = staticmethod(linear_and_conv)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 4, 3, padding=1, groups=2, bias=False)
        self.norm2 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.first(x)))
        return self.norm2(self.second(hidden)).mean((2, 3))


class TransformerBlock(nn.Module):
    """Attention with a residual, then a hidden layer."""

    layers: Layers = staticmethod(linear_and_conv)

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(4, 4) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        normed = self.norm1(tokens)
        weights = (self.query(normed) @ self.key(normed).transpose(1, 2) / 2).softmax(-1)
        tokens = tokens + self.mix(weights @ self.value(normed))
        tokens = tokens + self.down(torch.relu(self.up(self.norm2(tokens))))
        return tokens.mean(1)


NETWORKS = (Recurrent, Convolutional, TransformerBlock)
EVERYWHERE = NETWORKS
LAYERS = (Convolutional, TransformerBlock)  # what flows through an LSTM's inside nobody sees

ROWS: tuple[tuple[Criterion, tuple[type[nn.Module], ...]], ...] = (
    (criteria.magnitude, EVERYWHERE),
    (Call.of(criteria.magnitude, p=2), EVERYWHERE),
    (criteria.random, EVERYWHERE),
    (criteria.magnitude_over_std, EVERYWHERE),
    (criteria.magnitude_over_survivor_std, EVERYWHERE),
    (criteria.geometric_median, EVERYWHERE),
    (criteria.gradient_magnitude, EVERYWHERE),
    (criteria.snip, EVERYWHERE),
    (criteria.grasp, EVERYWHERE),
    (criteria.synflow, EVERYWHERE),
    (criteria.taylor, EVERYWHERE),
    (criteria.fisher, EVERYWHERE),
    (criteria.movement, EVERYWHERE),
    (criteria.hutchinson, EVERYWHERE),
    (criteria.woodfisher, EVERYWHERE),
    (criteria.cap, EVERYWHERE),
    (criteria.wanda, LAYERS),
    (criteria.squared_activations, LAYERS),
    (criteria.ria, LAYERS),
    (criteria.obs, LAYERS),
    (criteria.taylor_gate, LAYERS),
    (criteria.network_slimming, (Convolutional,)),
    (criteria.rank_of_features, (Convolutional,)),
    (criteria.obd, ()),
    (criteria.obd_full, ()),
)
GRANULARITIES: tuple[Granularity, ...] = (
    Elements(),
    Slices(),
    Slices(dims=(1,), pooling=total),
    PerRow(),
    NofM(2, 4),
    Blocks(1, 4),
)
SCOPES: tuple[Allocation, ...] = (
    uniform,
    global_,
    erdos_renyi_kernel,
    lamp,
    OutlierWeighed(2.0),
)
SIGNED = (criteria.grasp, criteria.movement, criteria.hutchinson)


def name_of(part: object) -> str:
    return getattr(getattr(part, "function", part), "__name__", repr(part))


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1).mean()


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 4, 4, 4, generator=generator), torch.randn(n, 4, generator=generator))
        for n in (5, 3)
    ]


def made(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind()


def trained(
    kind: type[nn.Module],
    policy: Gradual,
    steps: int = STEPS,
    known: Evidence | None = None,
) -> Iterator[tuple[int, SparseTraining, nn.Module]]:
    """Train with Adam, decay and clipping; yield after every step."""
    net = made(kind)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    data = batches()
    moved = "weight_movement" in evidence_of(policy.criterion)
    track = TrackMovement(optimizer, kind.layers(net)) if moved else None
    given = None if known is None else lambda: known
    training = SparseTraining(
        net,
        optimizer,
        policy,
        layers=kind.layers,
        loss=squared,
        batches=data,
        evidence=given if track is None else track.evidence,
    )
    for step in range(1, steps + 1):
        inputs, targets = data[step % 2]
        optimizer.zero_grad()
        squared(net(inputs), targets).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        yield step, training, net


def gradual(criterion: Criterion, granularity: Granularity, allocation: Allocation) -> Gradual:
    rise: Schedule = Cubic(final=0.5, end=END)
    if isinstance(granularity, NofM):  # it has one sparsity, and no other on the way
        rise = OneShot(final=0.5, at=END)
    return Gradual(
        schedule=rise,
        every=1,
        criterion=criterion,
        granularity=granularity,
        allocation=allocation,
    )


def cases(*, given: bool) -> list[Any]:
    """Pairs of criterion and network in which the evidence can be given, or those where not."""
    return [
        pytest.param(criterion, kind, id=f"{name_of(criterion)}-{kind.__name__}")
        for criterion, kinds in ROWS
        for kind in NETWORKS
        if (kind in kinds) == given
    ]


@pytest.mark.parametrize(("criterion", "kind"), cases(given=True))
def test_every_criterion_granularity_and_scope(criterion: Criterion, kind: type[nn.Module]) -> None:
    """Counts follow the schedule, groups are whole, and what is pruned is zero and stays.

    Evidence is gathered at every update of the first pair; it does not depend on granularity and
    scope, and the other pairs are given what the first network shows.
    """
    known: Evidence | None = None
    for granularity, allocation in itertools.product(GRANULARITIES, SCOPES):
        policy = gradual(criterion, granularity, allocation)
        if (criterion in SIGNED and allocation is lamp) or (
            isinstance(granularity, NofM) and allocation is not uniform
        ):
            continue  # refused, see test_criteria.py
        before: dict[str, Tensor] = {}
        for step, training, net in trained(kind, policy, known=known):
            masks = training.masks
            check_zero(net, masks)
            for name, mask in before.items():
                assert not (masks[name] & ~mask).any(), "what is pruned came back"
            if step > END:
                assert all(torch.equal(masks[name], before[name]) for name in masks)
            if policy.due(step):
                check_counts(policy, step, masks)
            before = masks
        if known is None and "weight_movement" not in evidence_of(criterion):
            first = made(kind)
            seen = Calibration(first, kind.layers(first), batches(), squared)
            known = gather(evidence_of(criterion), seen)


def check_zero(net: nn.Module, masks: dict[str, Tensor]) -> None:
    weights = dict(net.named_parameters())
    for name, mask in masks.items():
        assert not weights[name][~mask].any()


def check_counts(policy: Gradual, step: int, masks: dict[str, Tensor]) -> None:
    wanted = policy.schedule(step)
    groups = {n: policy.granularity.pool(torch.ones(m.shape)).numel() for n, m in masks.items()}
    each = {name: mask.numel() // groups[name] for name, mask in masks.items()}
    if policy.allocation is uniform:
        for name, mask in masks.items():
            assert int(mask.sum()) == round((1 - wanted) * groups[name]) * each[name]
    else:
        kept = sum(int(mask.sum()) // each[name] for name, mask in masks.items())
        assert kept == round((1 - wanted) * sum(groups.values()))


@pytest.mark.parametrize(("criterion", "kind"), cases(given=False))
def test_evidence_that_a_network_cannot_give(criterion: Criterion, kind: type[nn.Module]) -> None:
    """Where a criterion has no evidence, the first update says so."""
    with pytest.raises(BoxwoodError, match=r"Expected .*, got .*;"):
        list(trained(kind, gradual(criterion, Elements(), uniform)))


def test_every_criterion_has_a_row() -> None:
    """Nothing that is exported is missing from the table."""
    listed = {name for name in criteria.__all__ if inspect.isfunction(getattr(criteria, name))}
    assert {name_of(criterion) for criterion, _ in ROWS} == listed


def test_evidence_asks_for_a_loss() -> None:
    """A criterion that needs gradients is refused without a loss."""
    net = Convolutional()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    policy = gradual(criteria.taylor, Elements(), uniform)
    SparseTraining(net, optimizer, policy)
    inputs, targets = batches()[0]

    def step() -> None:
        squared(net(inputs), targets).backward()
        optimizer.step()

    with pytest.raises(BoxwoodError, match="a loss for evidence from gradients, got None; give"):
        step()


def test_an_update_leaves_the_training_alone() -> None:
    """Gathering evidence changes no random number, buffer, gradient or mode of the training."""
    found: list[Tensor] = []
    for criterion in (criteria.magnitude, criteria.fisher):
        policy = Gradual(schedule=Cubic(final=1e-6, end=4), every=2, criterion=criterion)
        torch.manual_seed(3)
        *_, (_, _, net) = trained(Convolutional, policy)
        found.append(
            torch.cat(
                [
                    *(p.detach().flatten() for p in net.parameters()),
                    net.norm1.running_mean,
                    torch.rand(3),
                ]
            )
        )
    assert torch.equal(*found)
