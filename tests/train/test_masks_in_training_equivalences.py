"""Boxwood's loop holds masks with fewer hooks than `MaskBinding` needs in any other loop: same weights."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from boxwood._internal.core.chance import seeded_policy
from boxwood._internal.core.policies import Gradual, Policy
from boxwood._internal.core.replacing_policies import RigL
from boxwood._internal.core.returning_policies import TopKAST
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.core.seeds import generator_for
from boxwood._internal.data.splits import InMemory
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.prunable import linear_and_conv
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.computation import Computation
from boxwood._internal.train.loop import train_
from boxwood._internal.train.losses import add_l1_gradient_
from boxwood._internal.train.optimizers import SGD, Adam, AdamW, OptimizerSpec
from boxwood._internal.train.settings import PolicyPruning, Regularisation, Training

STEPS, BATCH = 12, 8
OPTIMIZERS = (
    SGD(lr=0.1, momentum=0.9, weight_decay=1e-2),
    Adam(lr=0.01, weight_decay=1e-2),
    AdamW(lr=0.01, fused=True),
)
POLICIES = (
    Gradual(schedule=Cubic(final=0.8, end=8), every=2),
    RigL(sparsity=0.7, until=9, every=3),
    TopKAST(0.7, backward_sparsity=0.5, every=2),
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )


def examples() -> InMemory:
    numbers = torch.Generator().manual_seed(1)
    return InMemory(
        torch.randn(32, 1, 6, 6, generator=numbers), torch.randint(5, (32,), generator=numbers)
    )


def masks_of(net: nn.Module) -> dict[str, Tensor]:
    numbers = torch.Generator().manual_seed(2)
    weights = linear_and_conv(net).items()
    return {name: torch.rand(w.shape, generator=numbers) < 0.4 for name, w in weights}


def any_loop(net: nn.Module, training: Training, policy: Policy | None) -> None:
    """What a user writes, with the hooks that watch any loop."""
    optimizer = training.optimizer.build(list(net.parameters()))
    held = (
        MaskBinding(net, optimizer, masks_of(net))
        if policy is None
        else SparseTraining(net, optimizer, seeded_policy(policy, 0))
    )
    data, limits = examples(), training.regularisation
    matrices = [p for p in net.parameters() if p.dim() > 1]
    parts = training.computation.microbatches
    net.train()
    for epoch in range(STEPS * BATCH // len(data)):
        order = torch.randperm(len(data), generator=generator_for(0, "order/0", epoch))
        for indices in order.split(BATCH):
            optimizer.zero_grad()
            inputs, targets = data.take(indices)
            for some, wanted in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
                value = cross_entropy(net(some), wanted)
                (value * (len(some) / len(inputs)) if parts > 1 else value).backward()
            add_l1_gradient_(matrices, limits.l1)
            if limits.max_gradient_norm is not None:
                nn.utils.clip_grad_norm_(net.parameters(), limits.max_gradient_norm)
            optimizer.step()
    held.detach()


@pytest.mark.parametrize("policy", [None, *POLICIES], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_weights_are_those_of_a_loop_under_hooks(
    policy: Policy | None, optimizer: OptimizerSpec, clip: float | None
) -> None:
    """Bit for bit, with and without clipping, which mixes the gradients of all weights."""
    training = Training(
        steps=STEPS,
        batch=BATCH,
        optimizer=optimizer,
        regularisation=Regularisation(l1=1e-3, max_gradient_norm=clip),
        computation=Computation(microbatches=2 if clip else 1),
    )
    ours, theirs = network(), network()
    any_loop(theirs, training, policy)
    if policy is None:
        train_(ours, examples(), training, seed=0, masks=masks_of(ours))
    else:
        train_(ours, examples(), replace(training, pruning=PolicyPruning(policy)), seed=0)
    for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(weight, other), name
    assert (linear_and_conv(ours)["4.weight"] == 0).any()


def test_what_a_callback_writes_is_pruned_before_it_is_read() -> None:
    """Forward passes have no hook of their own here: the loop looks before each of them."""
    net, masks, seen = network(), masks_of(network()), []

    def watch(model: nn.Module, _: object) -> dict[str, float]:
        for weight in linear_and_conv(model).values():
            weight.data.fill_(1.0)
        return {}

    net.register_forward_pre_hook(
        lambda *_: seen.append(float(net[0].weight.detach()[~masks["0.weight"]].abs().sum()))
    )
    training = Training(steps=4, batch=BATCH, optimizer=SGD(lr=0.1), watch_every=1)
    train_(net, examples(), training, seed=0, masks=masks, callbacks=Callbacks(watch=watch))
    assert seen == [0.0] * 4
    assert not net[0].weight.detach()[~masks["0.weight"]].any()


def test_gradients_that_are_not_finite_stay_at_pruned_weights() -> None:
    """An infinite gradient of a pruned weight leaves no NaN, though the gradient is not masked."""
    net = nn.Sequential(nn.Linear(2, 1, bias=False))
    data = InMemory(torch.tensor([[1.0, 3e38]] * 2), torch.zeros(2, dtype=torch.int64))
    training = Training(steps=3, batch=2, optimizer=SGD(lr=0.1, momentum=0.9), loss=_large)
    masks = {"0.weight": torch.tensor([[True, False]])}
    train_(net, data, training, seed=0, masks=masks)
    assert torch.isfinite(net[0].weight).all()
    assert net[0].weight[0, 1] == 0


def _large(outputs: Tensor, _: Tensor) -> Tensor:
    return 100 * outputs.mean()
