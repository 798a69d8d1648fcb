"""The conformance table of criteria: one row each, the networks, and how their evidence is gathered.

To add a criterion, add a row: the criterion, what its scores promise, and the networks it is for.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwood import criteria
from boxwood._internal.core.call import Call
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.core.masks import Masks
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.gathering import gather
from boxwood._internal.model.evidence.movement import TrackMovement
from boxwood._internal.model.oneshot import find_masks
from boxwood._internal.model.prunable import linear_and_conv
from boxwood._internal.model.scoring import Criterion, score


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1).mean()


def chain() -> nn.Module:
    """A plain chain: convolution, pooling, linear layers."""
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 4),
    )  # fmt: skip


class Residual(nn.Module):
    """Grouped, strided and dilated convolutions with norms, and a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.norm2 = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)
        self.norm3 = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm1(self.first(x)))
        x = x + torch.relu(self.norm2(self.second(x)))
        return self.drop(self.norm3(self.last(x))).mean((2, 3))


@dataclass(frozen=True)
class Row:
    """A criterion and what it promises.

    Args:
        signed: scores may be negative.
        networks: those that can give its evidence.
        degree: scores grow as scale**degree if the weight alone grows.
    """

    criterion: Criterion
    signed: bool = False
    per_filter: bool = False
    networks: tuple[Callable[[], nn.Module], ...] = (chain, Residual)
    degree: int = 1

    def __str__(self) -> str:
        return getattr(self.criterion, "function", self.criterion).__name__


ROWS = (
    Row(criteria.magnitude),
    Row(Call.of(criteria.magnitude, p=2), degree=2),
    Row(criteria.squared_activations, degree=0),
    Row(criteria.random, degree=0),
    Row(criteria.magnitude_over_std, degree=0),
    Row(criteria.magnitude_over_survivor_std, degree=0),
    Row(criteria.snip),
    Row(criteria.grasp, signed=True),
    Row(criteria.synflow),
    Row(criteria.taylor, degree=2),
    Row(criteria.movement, signed=True, degree=0),
    Row(criteria.gradient_magnitude, degree=0),
    Row(criteria.obd, networks=(chain,), degree=2),
    Row(criteria.obd_full, signed=True, networks=(chain,), degree=2),
    Row(criteria.fisher, degree=2),
    Row(criteria.hutchinson, signed=True, degree=2),
    Row(criteria.obs, degree=2),
    Row(criteria.woodfisher, degree=2),
    Row(criteria.cap, degree=0),
    Row(criteria.wanda),
    Row(criteria.ria, degree=0),
    Row(criteria.geometric_median, per_filter=True),
    Row(criteria.network_slimming, per_filter=True, networks=(Residual,), degree=0),
    Row(criteria.rank_of_features, per_filter=True, networks=(Residual,), degree=0),
    Row(criteria.taylor_gate, per_filter=True, degree=0),
)
CASES = [pytest.param(row, net, id=f"{row}-{net.__name__}") for row in ROWS for net in row.networks]


def make(net: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = net()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, -1, 1)
                nn.init.normal_(module.running_mean)
    return model


def batches(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 4, 4, 4, generator=generator).to(dtype),
            torch.randn(n, 4, generator=generator).to(dtype),
        )
        for n in (5, 3)
    ]


def tracked(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Movement of two steps, taken on a copy."""
    trained = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)
    track = TrackMovement(optimizer, linear_and_conv(trained))
    for inputs, targets in batches(next(model.parameters()).dtype):
        optimizer.zero_grad()
        squared(trained(inputs), targets).backward()
        optimizer.step()
    return track.evidence()


def scores_of(row: Row, model: nn.Module, masks: Masks | None = None) -> dict[str, Tensor]:
    weights = linear_and_conv(model)
    dtype = next(model.parameters()).dtype
    seen = Calibration(model, weights, batches(dtype), squared, masks)
    given = tracked(model) if "weight_movement" in evidence_of(row.criterion) else None
    found = gather(evidence_of(row.criterion), seen, given)
    detached = {name: weight.detach() for name, weight in weights.items()}
    return score(detached, row.criterion, masks=masks, evidence=found)


def pruned(row: Row, model: nn.Module, sparsity: float | None, **settings: Any) -> Masks:
    if "weight_movement" in evidence_of(row.criterion):
        settings["evidence"] = tracked(model)
    return find_masks(
        model, sparsity, criterion=row.criterion, loss=squared, batches=batches(), **settings
    )
