"""Save a training at a step, and resume it bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from boxwood._internal.core.generators import devices_of, put_back, random_states
from boxwood._internal.core.placement import on_device_of

Row = dict[str, float]
"""Of a history: ``epoch`` and ``step`` reached, and the mean training ``loss`` since the row before."""


@dataclass(frozen=True)
class Snapshot:
    """A training, or another long phase, written down: enough to continue as if it had not stopped."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Checkpoints(Protocol):
    """Where snapshots are kept; a runner keeps them on disk."""

    def load(self) -> Snapshot | None:
        """Return the last snapshot, if there is one."""
        ...

    def due(self) -> bool:
        """Say whether it is time for the next one."""
        ...

    def save(self, snapshot: Snapshot) -> None:
        """Keep a snapshot in place of the last."""
        ...


@dataclass
class TrainingState:
    """How far a training is: what changes at every step, apart from the network and the optimizer.

    Args:
        step: steps done, counted from the beginning of the whole training.
        loss_sum: sum of the losses since the last row of the history.
        history: rows so far.
        memory: tensors that the training's watch keeps between rows.
        masks: the state of a policy that changes masks: the masks, and what belongs to them.
        network_state: what a stateful network carries from one batch to the next.
        average: of the weights over the steps so far; see `WeightAverage`.
    """

    step: int
    loss_sum: float = 0.0
    history: list[Row] = field(default_factory=list)
    memory: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    network_state: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors by what they are."""
        return {
            "memory": self.memory,
            "masks": self.masks,
            "network_state": self.network_state,
            "average": self.average,
        }


def take_snapshot(model: nn.Module, optimizer: Optimizer, state: TrainingState) -> Snapshot:
    """Write down a training, torch's random numbers included.

    Args:
        model: in training.
        optimizer: that trains it.
        state: all that is neither in the network nor in the optimizer.
    """
    tensors = {f"model/{name}": t for name, t in model.state_dict().items()}
    for kind, part in state.tensors().items():
        tensors |= {f"{kind}/{name}": t for name, t in part.items()}
    numbers: dict[str, dict[str, Any]] = {}
    for index, moments in optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                numbers.setdefault(str(index), {})[key] = value
    for device, random in random_states(_devices(model)).items():
        tensors["random" if device == "cpu" else f"random/{device}"] = random
    facts = {
        "step": state.step,
        "loss_sum": state.loss_sum,
        "numbers": numbers,
        "history": list(state.history),
    }
    return Snapshot(tensors, facts)


def resume_(
    model: nn.Module, optimizer: Optimizer, state: TrainingState, snapshot: Snapshot
) -> None:
    """Put everything where a snapshot left it, torch's random numbers included.

    Args:
        model: with the parameters and buffers of the one that the snapshot was taken of.
        optimizer: of the same kind.
        state: of a training that has not begun.
        snapshot: made by `take_snapshot`.
    """
    model.load_state_dict(_part(snapshot, "model"))
    for kind, part in state.tensors().items():
        part.update(_part(snapshot, kind))
    weights = list(model.parameters())
    for part in (state.network_state, state.average):
        part.update({name: on_device_of(tensor, weights) for name, tensor in part.items()})
    moments: dict[int, dict[str, Any]] = {
        int(index): dict(numbers) for index, numbers in snapshot.facts["numbers"].items()
    }
    for name, tensor in _part(snapshot, "optimizer").items():
        index, _, key = name.partition("/")
        moments.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    _lay_out_alike_(optimizer)
    put_back({"cpu": snapshot.tensors["random"], **_part(snapshot, "random")}, _devices(model))
    state.history.extend(snapshot.facts["history"])
    state.step, state.loss_sum = snapshot.facts["step"], snapshot.facts["loss_sum"]


def _part(snapshot: Snapshot, kind: str) -> dict[str, Tensor]:
    start = f"{kind}/"
    return {n.removeprefix(start): t for n, t in snapshot.tensors.items() if n.startswith(start)}


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
