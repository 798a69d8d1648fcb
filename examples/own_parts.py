"""Write a criterion, an allocation, a schedule, a policy and a rule of your own; none is registered.

python examples/own_parts.py
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

import boxwood
from boxwood.criteria import magnitude
from boxwood.data import digits
from boxwood.policies import Gradual
from boxwood.training import accuracy

DATA = digits()


def signal(weight: Tensor, input_norm: Tensor, *, power: float = 0.5) -> Tensor:
    """Score weights by their size and by what flows into them; the higher score stays."""
    return weight.abs() * input_norm**power


def denser_ends(
    scores: Mapping[str, Tensor], sparsity: float | None, masks: Mapping[str, Tensor] | None
) -> dict[str, int]:
    """Keep twice the density in the first and the last tensor; return how many each keeps."""
    names = list(scores)
    sizes = {name: each.numel() for name, each in scores.items()}
    share = {name: 2.0 if name in (names[0], names[-1]) else 1.0 for name in names}
    total = round((1 - sparsity) * sum(sizes.values()))
    unit = total / sum(share[name] * sizes[name] for name in names)
    keep = {name: min(sizes[name], int(unit * share[name] * sizes[name])) for name in names}
    largest = max(names, key=sizes.__getitem__)
    keep[largest] += total - sum(keep.values())  # the total is exact
    return keep


def stairs(step: int) -> float:
    """Return the sparsity after a step: a schedule is a function."""
    return 0.9 if step >= 200 else 0.7 if step >= 100 else 0.0


@dataclass(frozen=True)
class Halving:
    """Repeatedly remove a part of what is left in every tensor, down to a final sparsity."""

    wants_gradients: ClassVar[bool] = False
    criterion: ClassVar = staticmethod(magnitude)

    final: float
    every: int = 50
    part: float = 0.5

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep everything at first."""
        return {name: torch.ones_like(each, dtype=torch.bool) for name, each in weights.items()}

    def due(self, step: int) -> bool:
        """Say whether masks change after this step."""
        return step > 0 and step % self.every == 0

    def update(self, step, masks, scores, gradients) -> dict[str, Tensor]:
        """Make the new masks from the old ones and from what the criterion says."""
        new = {}
        for name, mask in masks.items():
            least = round((1 - self.final) * mask.numel())
            keep = max(least, round((1 - self.part) * int(mask.sum())))
            kept = scores[name].masked_fill(~mask, -torch.inf).flatten().topk(keep).indices
            new[name] = torch.zeros_like(mask).flatten().index_fill(0, kept, True).view_as(mask)
        return new


@torch.library.custom_op("own_parts::gated", mutates_args=())
def gated(x: Tensor, gate: Tensor) -> Tensor:
    """Multiply every channel by a gate; think of a kernel of your own."""
    return x * gate


@gated.register_fake
def _(x: Tensor, gate: Tensor) -> Tensor:
    return torch.empty_like(x)


def _gradients(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, gate = ctx.saved_tensors
    return grad * gate, (grad * x).sum(0)


gated.register_autograd(
    _gradients, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
)

RULES = {gated: [{"x": -1, "gate": 0, "output": -1}]}


class Gate(nn.Module):
    """A layer that runs the operator."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the operator makes of the inputs."""
        return gated(x, self.gate)


def network() -> nn.Module:
    """Return a small network for handwritten digits."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )  # fmt: skip


def train(net: nn.Module, steps: int, policy=None) -> None:
    """Train in a plain loop, under a policy if there is one."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    training = boxwood.SparseTraining(net, optimizer, policy) if policy else None
    for _ in range(steps):
        images, labels = DATA.train.take(torch.randint(len(DATA.train), (60,)))
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    if training:
        training.detach(early=True)


def main(steps: int = 400) -> dict[str, float]:
    """Return the accuracy on test examples of each way, at 90 % zeros."""
    found = {}
    dense = network()
    train(dense, steps)
    found["dense"] = accuracy(dense, DATA.test).fraction

    weights = {name: each.clone() for name, each in dense.state_dict().items()}
    batches = [DATA.train.take(torch.arange(0, 300))]
    for name, criterion in (("magnitude", magnitude), ("signal", signal)):
        net = network()
        net.load_state_dict(weights)
        boxwood.prune_(net, 0.9, criterion=criterion, allocation=denser_ends, batches=batches)
        found[f"{name}, not retrained"] = accuracy(net, DATA.test).fraction

    for name, policy in (("stairs", Gradual(stairs, every=50)), ("halving", Halving(final=0.9))):
        net = network()
        train(net, steps, policy)
        found[name] = accuracy(net, DATA.test).fraction

    net = network()
    net.insert(2, Gate(100))
    train(net, steps)
    small = boxwood.shrink(net, DATA.train.inputs[:2], keep=0.5, data=[batches[0][0]], rules=RULES)
    found["with an operator"] = accuracy(net, DATA.test).fraction
    found["with half of its units"] = accuracy(small, DATA.test).fraction

    for name, value in found.items():
        print(f"{name:26} {value:.1%}")
    return found


if __name__ == "__main__":
    main()
