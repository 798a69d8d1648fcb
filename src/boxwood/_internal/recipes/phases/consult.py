"""Measure a generalist together with its specialists."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from boxwood._internal.core import spec
from boxwood._internal.core.examples import Examples
from boxwood._internal.distill.consensus import (
    SpecialistPrediction,
    consensus,
    relevant_specialists,
)
from boxwood._internal.distill.ensembles import forward_of
from boxwood._internal.recipes.phase import Genesis, Recipe, Run, State, World, load_weights_
from boxwood._internal.recipes.phases.specialise import specialist_network
from boxwood._internal.train.answers import Answers
from boxwood._internal.train.metrics import Accuracy


@dataclass(frozen=True, kw_only=True)
class Consult:
    """Measure the generalist alone and with its specialists, on validation and test examples.

    Each image is given to the specialists whose classes include the generalist's answer, and
    `consensus` combines all predictions. Each specialist is a run, so several processes can train
    them at once.

    Args:
        members: the recipes of the specialists, each ending with `Specialise`.
        tolerance: as for `consensus`, in nats.
        label: a name for reports.

    Source: Hinton, Vinyals and Dean (2015), sections 5.4 and 5.5.
    """

    revision: ClassVar[int] = 0

    members: tuple[Recipe, ...]
    tolerance: float = 1e-6
    label: str = spec.field("", identity=False)

    def needs(self, genesis: Genesis) -> tuple[Run, ...]:
        """The specialists' runs."""
        return tuple((genesis, member) for member in self.members)

    def run(self, state: State, world: World) -> State:
        """Measure; the state passes through, and the facts hold accuracies by coverage."""
        ends = [world.finished(genesis, recipe) for genesis, recipe in self.needs(world.genesis)]
        specialists = [end for end in ends if end.facts["classes"]]
        facts: dict[str, Any] = {"groups": [end.facts["classes"] for end in specialists]}
        for part in ("test", "validation"):
            facts |= self._measured(part, state, specialists, world)
        return State(state.weights, state.masks, facts)

    def _measured(
        self, part: str, state: State, specialists: list[State], world: World
    ) -> dict[str, Any]:
        examples: Examples = getattr(world.data, part)
        inputs, labels = examples.take(torch.arange(len(examples)))
        alone = _probabilities(world.network(state), inputs)
        groups = [tuple(each.facts["classes"]) for each in specialists]
        consulted = relevant_specialists(alone, groups)
        predictions = []
        for number, (classes, specialist) in enumerate(zip(groups, specialists, strict=True)):
            network, _ = specialist_network(world, classes)
            load_weights_(network, specialist.weights)
            predictions.append(
                SpecialistPrediction(classes, _probabilities(network, inputs), consulted[:, number])
            )
        joint = consensus(alone, predictions, tolerance=self.tolerance)
        right = {"generalist": alone.argmax(1) == labels, "joint": joint.argmax(1) == labels}
        number_of = consulted.sum(1)
        rows = [
            {"specialists": count, "total": int((number_of == count).sum())}
            | {name: int(each[number_of == count].sum()) for name, each in right.items()}
            for count in range(int(number_of.max()) + 1)
        ]
        generalist = Accuracy(int(right["generalist"].sum()), len(labels))
        together = Accuracy(int(right["joint"].sum()), len(labels))
        end = "" if part == "test" else f"_{part}"
        return {
            part: asdict(together),
            f"{part}_answers": Answers.of_classes(right["joint"]).facts(),
            f"generalist{end}_answers": Answers.of_classes(right["generalist"]).facts(),
            f"covered{end}_examples": Answers.of_classes(number_of > 0).facts(),
            f"generalist{end}": asdict(generalist),
            f"covered{end}": rows,
        }


def _probabilities(network: torch.nn.Module, inputs: Tensor) -> Tensor:
    forward = forward_of(network)
    return torch.cat([forward(part).double().softmax(1) for part in inputs.split(1000)])
