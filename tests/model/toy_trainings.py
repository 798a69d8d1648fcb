"""A toy network, its batches and plain training loops, for tests of policies and their naive versions."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from boxwood._internal.model.sparse_training import SparseTraining

LAYERS = ("0.weight", "2.weight")


def network(seed: int = 0) -> nn.Sequential:
    """Make a network in double precision, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Draw the batch of a step."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(16, 12, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(4, (16,), generator=generator)


def sgd(net: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum and weight decay."""
    given = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, **settings}
    return torch.optim.SGD(net.parameters(), **given)


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay."""
    return torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)


def steps(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    count: range,
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """Train, and call ``after`` with the number of steps taken."""
    for step in count:
        inputs, targets = batch(step)
        optimizer.zero_grad()
        cross_entropy(net(inputs), targets).backward()
        optimizer.step()
        after(step + 1)


def trained(policy: Any, count: int, **settings: Any) -> tuple[nn.Module, SparseTraining]:
    """Train the toy network under a policy by SGD."""
    net = network()
    optimizer = sgd(net, **settings)
    training = SparseTraining(net, optimizer, policy)
    steps(net, optimizer, range(count))
    return net, training


def gradients(weights: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a network with the given parameters, by autograd alone."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    inputs, targets = batch(step)
    outputs = torch.func.functional_call(network(), leaves, (inputs,))
    loss = cross_entropy(outputs, targets)
    found = torch.autograd.grad(loss, list(leaves.values()))
    return loss.detach(), dict(zip(leaves, found, strict=True))


def parameters(net: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters by name."""
    return {name: p.detach().clone() for name, p in net.named_parameters()}
