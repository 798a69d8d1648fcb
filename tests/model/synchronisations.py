"""How often the host waits for the device, and what goes to the host: a table.

    PYTHONPATH=src python tests/model/synchronisations.py

Counted on the pretend device, which knows the calls for which CUDA lets the host wait.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from policy_table import policies
from pretend_device import GPU, LOG, Pretending
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

import boxwood
from boxwood.criteria import TrackMovement
from boxwood.data import InMemory
from boxwood.distill import Distillation
from boxwood.layers import linear
from boxwood.optim import SGD
from boxwood.training import Training, train_

EVERY = 5  # steps from one update of masks to the next
MANY = 1_200_000  # weights: more than are ranked without a histogram, and more than a chunk


@dataclass(frozen=True)
class Row:
    """Waits of one kind of training.

    Args:
        what: its name.
        per_step: waits of most steps between updates of masks.
        at_update: waits of a step with an update; None where there is none.
        to_host: bytes that such a step, or the whole call, copies to the host.
    """

    what: str
    per_step: float | None
    at_update: int | None
    to_host: int


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).to(GPU)


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.1)


def masked(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    boxwood.MaskBinding(net, optimizer, boxwood.find_masks(net, 0.5))


def tracked(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    masked(net, optimizer)
    TrackMovement(optimizer, linear(net))


def in_a_loop(
    what: str,
    hold: Callable[[nn.Module, torch.optim.Optimizer], Any],
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
    *,
    passes: int = 1,
) -> Row:
    """Train two spans of updates by a loop of one's own, and count in the second."""
    net = network()
    trains = optimizer(net)
    holder = hold(net, trains)
    inputs, targets = torch.randn(4, 12).to(GPU), torch.tensor([0, 1, 2, 0]).to(GPU)
    counts, to_host = [], 0
    for number in range(1, 2 * EVERY + 1):
        LOG.clear()
        trains.zero_grad()
        for _ in range(passes):
            cross_entropy(net(inputs), targets).backward()
        clip_grad_norm_(net.parameters(), 1.0)
        trains.step()
        if number > EVERY:
            counts.append(sum(LOG.waits.values()))
        to_host = LOG.to_host
    *between, last = counts
    updates = holder is not None and holder.next_update() is not None
    return Row(what, median(between), last if updates else None, to_host)


def by_policy(policy: Any) -> Callable[[nn.Module, torch.optim.Optimizer], Any]:
    inputs, targets = torch.randn(4, 12).to(GPU), torch.tensor([0, 1, 2, 0]).to(GPU)

    def hold(net: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        return boxwood.SparseTraining(
            net, optimizer, policy, loss=cross_entropy, batches=[(inputs, targets)]
        )

    return hold


def by_train_(what: str, **settings: Any) -> Row:
    """Train with `boxwood.training.train_`: the waits of a step are those of twice as many, less."""

    def waits(steps: int) -> int:
        data = InMemory(torch.randn(40, 12), torch.arange(40) % 3)
        make = settings.get("make_targets")
        loss = {"loss": Distillation()} if make else {}
        training = Training(steps=steps, batch=4, optimizer=SGD(lr=0.1), watch_every=1000, **loss)
        net = network()
        LOG.clear()
        train_(net, data, training, seed=0, **settings)
        return sum(LOG.waits.values())

    return Row(what, (waits(16) - waits(8)) / 8, None, 0)


def selected(what: str, weights: int, **settings: Any) -> Row:
    """Find masks of one large layer."""
    net = nn.Linear(1000, weights // 1000, bias=False)
    net.to(GPU)
    LOG.clear()
    boxwood.find_masks(net, 0.9, **settings)
    return Row(what, None, sum(LOG.waits.values()), LOG.to_host)


def table() -> list[Row]:
    """Count everything."""
    with Pretending():
        return [
            in_a_loop("`MaskBinding`, SGD", masked),
            in_a_loop("`MaskBinding`, AdamW", masked, adamw),
            in_a_loop("`MaskBinding`, three backward passes a step", masked, passes=3),
            in_a_loop("`MaskBinding` and `TrackMovement`", tracked),
            *(
                in_a_loop(f"`SparseTraining`, {_titled(name)}", by_policy(policy))
                for name, policy in policies(end=1000, every=EVERY).items()
            ),
            by_train_("`train_`, data on the host"),
            selected("`find_masks`, 30,000 weights", 30_000),
            selected(f"`find_masks`, {MANY:,} weights", MANY),
        ]


def _titled(policy: str) -> str:
    return f"{policy}: every step" if policy == "STR" else policy


def markdown(rows: list[Row]) -> str:
    """Lay out the table, of which ``docs/guides/gpus_and_clusters.md`` has two columns."""
    lines = [
        "| | waits of a step | waits of an update | bytes to the host at one |",
        "|---|--:|--:|--:|",
    ]
    for row in rows:
        step = "" if row.per_step is None else f"{row.per_step:g}"
        update = "" if row.at_update is None else f"{row.at_update}"
        lines.append(f"| {row.what} | {step} | {update} | {row.to_host if update else 0:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(table()))  # noqa: T201 - what it is for
