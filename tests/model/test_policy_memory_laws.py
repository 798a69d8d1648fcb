"""What policies remember from step to step: of which gradients, in which layers, and how long."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from boxwood import SparseTraining
from boxwood._internal.model.policy_memory import PolicyMemory
from boxwood.errors import InvalidInput
from boxwood.granularity import NofM, Slices
from boxwood.policies import SNFS, SRSTE, STR, Moment, MovementPruning, Policy, SRigL, TopKAST
from boxwood.schedules import Cubic

_SPEC = importlib.util.spec_from_file_location("toy", Path(__file__).parent / "toy_trainings.py")
toy = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(toy)


def test_momentum_is_of_the_dense_gradients() -> None:
    """Pruned places count, whatever clipping and masks do to the gradients of the optimizer."""
    net = toy.network()
    optimizer = toy.sgd(net)
    training = SparseTraining(net, optimizer, SNFS(0.8, until=1000, every=100, momentum=0.5))
    wanted = {name: torch.zeros_like(mask, dtype=torch.float64) for name, mask in training.masks.items()}  # fmt: skip
    for step in range(5):
        _, found = toy.gradients(toy.parameters(net), step)
        wanted = {name: 0.5 * each + 0.5 * found[name] for name, each in wanted.items()}
        toy.steps(net, optimizer, range(step, step + 1))
    state = training.state_dict()
    for name, each in wanted.items():
        torch.testing.assert_close(state[f"memory/{name}"], each, rtol=1e-12, atol=1e-14)


def test_gradients_of_several_passes_add_up() -> None:
    """An accumulated gradient is remembered whole, once."""
    net, whole = toy.network(), toy.network()
    found = []
    for model, parts in ((net, 2), (whole, 1)):
        optimizer = toy.sgd(model)
        training = SparseTraining(model, optimizer, SNFS(0.8, until=1000))
        inputs, targets = toy.batch(0)
        for x, y in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
            loss = nn.functional.cross_entropy(model(x), y) / parts
            loss.backward()
        optimizer.step()
        found.append(training.state_dict()["memory/0.weight"])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("gradient", "skipped", "kept"),
    [
        (torch.ones(2), None, False),
        (torch.tensor([1.0, torch.inf]), None, True),
        (torch.ones(2), torch.tensor(1.0), True),
        (torch.ones(2), torch.tensor(0.0), False),
    ],
)
def test_a_step_that_is_skipped_is_not_remembered(
    gradient: torch.Tensor, skipped: torch.Tensor | None, kept: bool
) -> None:
    """Nor is one whose gradient has overflown: what is remembered stays as it was."""
    for policy in (SNFS(0.5, until=9), MovementPruning(Cubic(final=0.5, end=4))):
        memory = PolicyMemory(policy, {"w": torch.tensor([1.0, 2.0])})
        moment = Moment(
            1, torch.tensor([3.0, 4.0]), gradient, torch.ones(2, dtype=torch.bool), None, 0.1
        )
        seen = memory.seen("w", moment, skipped)
        assert seen.memory is memory.tensors["w"]
        assert (memory.tensors["w"].tolist() == [1.0, 2.0]) == kept
        fresh = PolicyMemory(policy, {})
        fresh.seen("w", moment, skipped)
        assert ("w" not in fresh.tensors) == kept


@pytest.mark.parametrize(
    "policy",
    [
        STR(-3.0, decay=0.1),
        SNFS(0.5, until=1000, every=2),
        SRSTE(NofM(2, 4)),
        TopKAST(0.5, backward_sparsity=0.25),
        MovementPruning(Cubic(final=0.5, end=4)),
        SRigL(0.5, until=1000, every=2),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_layers_that_store_inputs_first(policy: Policy) -> None:
    """Kernels of transposed convolutions are trained, and grouped along their inputs."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(8, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    training = SparseTraining(net, optimizer, policy)
    for _ in range(5):
        optimizer.zero_grad()
        net(torch.randn(2, 8, 4, 4)).square().mean().backward()
        optimizer.step()
    mask = training.masks["0.weight"]
    assert not net[0].weight[~mask].any()
    if isinstance(policy, SRSTE):
        assert (mask.view(2, 4, 4, 3, 3).sum(1) == 2).all()
    if isinstance(policy, SRigL):
        assert mask.sum((0, 2, 3)).unique().numel() == 1


def test_constant_fan_in_has_no_granularity() -> None:
    """Its rows are what a granularity would be."""
    with pytest.raises(InvalidInput, match="Expected single weights under a constant fan-in"):
        SRigL(0.5, until=10, granularity=Slices())
