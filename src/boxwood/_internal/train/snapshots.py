"""Where a training stands, written down and taken up again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from boxwood._internal.core.generators import devices_of, put_back, random_states
from boxwood._internal.core.placement import beside


@dataclass(frozen=True)
class Snapshot:
    """Where a training stands: enough to go on as if it had never stopped."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Checkpoints(Protocol):
    """Where snapshots go; a runner keeps them on disk."""

    def load(self) -> Snapshot | None:
        """Return the last snapshot, if there is one."""
        ...

    def due(self) -> bool:
        """Say whether it is time for the next one."""
        ...

    def save(self, snapshot: Snapshot) -> None:
        """Keep a snapshot in place of the last."""
        ...


def take(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    step: int,
    summed: float,
    history: Sequence[Mapping[str, float]],
    memory: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    carried: Mapping[str, Tensor],
) -> Snapshot:
    """Write down a training, torch's random numbers included.

    Args:
        model: in training.
        optimizer: that trains it.
        step: steps done.
        summed: losses since the last row of the history.
        history: rows so far.
        memory: tensors that whoever watches keeps between rows.
        held: masks that change while it trains, and what belongs to them.
        carried: what a network that reads in order keeps from one batch to the next.
    """
    tensors = {f"model/{name}": t for name, t in model.state_dict().items()}
    tensors |= {f"memory/{name}": t for name, t in memory.items()}
    tensors |= {f"held/{name}": t for name, t in held.items()}
    tensors |= {f"carried/{name}": t for name, t in carried.items()}
    numbers: dict[str, dict[str, Any]] = {}
    for index, moments in optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                numbers.setdefault(str(index), {})[key] = value
    for device, random in random_states(_devices(model)).items():
        tensors["random" if device == "cpu" else f"random/{device}"] = random
    facts = {"step": step, "summed": summed, "numbers": numbers, "history": list(history)}
    return Snapshot(tensors, facts)


def resume_(
    model: nn.Module,
    optimizer: Optimizer,
    history: list[dict[str, float]],
    memory: dict[str, Tensor],
    held: dict[str, Tensor],
    carried: dict[str, Tensor],
    checkpoints: Checkpoints | None,
) -> tuple[int, float] | None:
    """Put everything where the last snapshot left it, torch's random numbers included.

    ``history``, ``memory``, ``held`` and ``carried`` are filled in place.

    Returns:
        Steps done, and the losses since the last row; None where there is no snapshot.
    """
    snapshot = None if checkpoints is None else checkpoints.load()
    if snapshot is None:
        return None
    kinds = ("model/", "optimizer/", "memory/", "held/", "carried/")
    parts = {
        kind: {n.removeprefix(kind): t for n, t in snapshot.tensors.items() if n.startswith(kind)}
        for kind in kinds
    }
    model.load_state_dict(parts["model/"])
    memory.update(parts["memory/"])
    held.update(parts["held/"])
    weights = list(model.parameters())
    carried.update({name: beside(tensor, weights) for name, tensor in parts["carried/"].items()})
    moments: dict[int, dict[str, Any]] = {
        int(index): dict(numbers) for index, numbers in snapshot.facts["numbers"].items()
    }
    for name, tensor in parts["optimizer/"].items():
        index, _, key = name.partition("/")
        moments.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    _lay_out_alike_(optimizer)
    states = {
        n.removeprefix("random/"): t for n, t in snapshot.tensors.items() if n[:7] == "random/"
    }
    put_back({"cpu": snapshot.tensors["random"], **states}, _devices(model))
    history.extend(snapshot.facts["history"])
    return snapshot.facts["step"], snapshot.facts["summed"]


def _devices(model: nn.Module) -> tuple[torch.device, ...]:
    return devices_of((*model.parameters(), *model.buffers()))


def _lay_out_alike_(optimizer: Optimizer) -> None:
    """Lay moments out in memory as their parameters are, such as channels last.

    Files hold them in the order of their indices, and fused optimizers read both as they lie.
    """
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[key] = torch.empty_like(parameter.detach(), dtype=value.dtype).copy_(value)
