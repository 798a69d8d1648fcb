"""Interpolate between two trained networks, to test whether training is stable to its noise."""

from dataclasses import asdict, dataclass
from typing import ClassVar

from torch import Tensor

from boxwood._internal.core import spec
from boxwood._internal.recipes.phase import State, World
from boxwood._internal.train.metrics import accuracy
from boxwood.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Interpolate:
    """Measure networks ``α W₁ + (1 - α) W₂`` on the straight line from an earlier network to this.

    Statistics of norms are averaged like weights. Integers, such as counts of batches, are those of
    this network.

    Args:
        other: label of the phase that left W₁; this state is W₂.
        points: evenly spaced α from 0 to 1, both included.
        label: a name for later phases.

    Source: Frankle, Dziugaite, Roy and Carbin (2020), section 2: 30 points.
    """

    revision: ClassVar[int] = 0

    other: str
    points: int = 30
    label: str = spec.field("", identity=False)

    def __post_init__(self) -> None:
        if self.points < 2:
            raise InvalidInput(
                f"Expected at least 2 points on the line, got {self.points}; 2 are its ends."
            )

    def run(self, state: State, world: World) -> State:
        """Measure; the state passes through, and the facts hold a row per α."""
        first = world.earlier(self.other)
        rows = []
        for index in range(self.points):
            alpha = index / (self.points - 1)
            model = world.network(State(_between(first, state, alpha), state.masks))
            validation = accuracy(model, world.data.validation)
            test = accuracy(model, world.data.test)
            rows.append({"alpha": alpha, "validation": asdict(validation), "test": asdict(test)})
            if world.progress is not None:
                world.progress(index + 1, self.points)
        return State(state.weights, state.masks, {"line": rows})


def _between(first: State, second: State, alpha: float) -> dict[str, Tensor]:
    return {
        name: alpha * first.weights[name] + (1 - alpha) * weight
        if weight.is_floating_point()
        else weight
        for name, weight in second.weights.items()
    }
