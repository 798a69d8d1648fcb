"""Add a constant to the biases of some classes, chosen by validation accuracy."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from boxwood._internal.core import spec
from boxwood._internal.distill.ensembles import forward_of
from boxwood._internal.model.output import output_layer
from boxwood._internal.recipes.phase import State, World
from boxwood.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class ShiftBias:
    """Shift the output biases of some classes by the amount with the best validation accuracy.

    A student whose transfer set lacks a class underestimates that class. A student whose transfer
    set has only few classes overestimates them.

    Args:
        classes: those whose biases are shifted, all by the same amount.
        shifts: amounts to try, in logits; if several are equally good, the smallest in size is
            used.
        label: a name for later phases.

    Raises:
        InvalidInput: there are no classes or no shifts.

    Source: Hinton, Vinyals and Dean (2015), section 3.
    Differs from the paper: it chose by test accuracy.
    """

    revision: ClassVar[int] = 0

    classes: tuple[int, ...]
    shifts: tuple[float, ...]
    label: str = spec.field("", identity=False)

    def __post_init__(self) -> None:
        if not self.classes or not self.shifts:
            raise InvalidInput(
                f"Expected classes and shifts to try, got classes={self.classes}, "
                f"shifts={self.shifts}; give at least one of each."
            )

    def run(self, state: State, world: World) -> State:
        """Try the shifts; the facts hold the validation accuracy of each."""
        model, part = world.network(state), world.data.validation
        name = f"{output_layer(model, world.data.classes)}.bias"
        if name not in state.weights:
            raise InvalidInput(
                f"Expected an output layer with biases to shift, got none named {name!r}; build "
                f"the network with them."
            )
        inputs, labels = part.take(torch.arange(len(part)))
        ask = forward_of(model)
        logits = torch.cat([ask(each) for each in inputs.split(1000)])
        shifted = torch.zeros(world.data.classes)
        shifted[list(self.classes)] = 1.0
        right = {
            shift: int(((logits + shift * shifted).argmax(1) == labels).sum())
            for shift in self.shifts
        }
        best = max(right, key=lambda shift: (right[shift], -abs(shift)))
        weights = dict(state.weights)
        weights[name] = weights[name] + best * shifted
        tried = [{"shift": s, "validation": n / len(labels)} for s, n in right.items()]
        return State(weights, state.masks, {"shift": best, "tried": tried})
