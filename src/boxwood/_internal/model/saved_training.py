"""The state of a sparse training, as it is saved next to the network and its optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood._internal.core.shards import is_distributed, placed_like

_PARTS = ("memory", "hidden", "explored")


@dataclass(frozen=True)
class SavedTraining:
    """Steps and masks, and what else a policy goes by, each by the names of the weights.

    No parameter has a slash in its name, so what comes before one says which part it is.

    Args:
        steps: optimizer steps taken.
        masks: True keeps.
        memory: what the policy remembers.
        hidden: what the forward pass does not see of weights that go on learning.
        explored: which weights some mask has kept; a single True means all of them, and none
            for those that the mask keeps.

    Example:
        >>> masks = {"w": torch.tensor([True, False])}
        >>> saved = SavedTraining(3, masks, {}, {}, {"w": torch.tensor([True, True])})
        >>> saved.tensors()
        {'steps': tensor(3), 'w': tensor([ True, False]), 'explored/w': tensor(True)}
        >>> SavedTraining.of(saved.tensors()).explored_by(masks)
        {'w': tensor([True, True])}
    """

    steps: int
    masks: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    hidden: Mapping[str, Tensor]
    explored: Mapping[str, Tensor]

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "SavedTraining":
        """Take a state apart: what `tensors` returned, or masks alone."""
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
        masks = {}
        for name, tensor in state.items():
            part, _, rest = name.partition("/")
            if rest and part in parts:
                parts[part][rest] = tensor.clone()
            elif name != "steps":
                masks[name] = tensor
        return cls(steps=int(state.get("steps", 0)), masks=masks, **parts)

    def tensors(self) -> dict[str, Tensor]:
        """Put everything into one mapping."""
        explored = {
            name: each.new_ones(()) if not is_distributed(each) and bool(each.all()) else each
            for name, each in self.explored.items()
            # A checkpoint of shards is read into the names of a training that begins.
            if is_distributed(each) or not torch.equal(each, self.masks[name])
        }
        found = {"steps": torch.tensor(self.steps), **self.masks}
        for part, tensors in zip(_PARTS, (self.memory, self.hidden, explored), strict=True):
            found |= {f"{part}/{name}": tensor for name, tensor in tensors.items()}
        return found

    def explored_by(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was kept at some time: what the masks keep now, unless more is listed."""
        found = {}
        for name, mask in masks.items():
            each = self.explored.get(name, mask)
            all_of_it = each.dim() < mask.dim()
            found[name] = torch.ones_like(mask) if all_of_it else placed_like(each, mask).clone()
        return found
