"""Measure a teacher: its accuracy, alone or as an ensemble."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from boxwood._internal.core import spec
from boxwood._internal.core.examples import Examples
from boxwood._internal.distill.ensembles import Forward
from boxwood._internal.recipes.phase import Genesis, Run, State, World
from boxwood._internal.recipes.teachers import Teacher
from boxwood._internal.train.answers import Answers
from boxwood._internal.train.metrics import Accuracy


@dataclass(frozen=True, kw_only=True)
class MeasureTeacher:
    """Measure a teacher's accuracy on validation and test examples.

    Args:
        teacher: what is measured.
        label: a name for reports.
    """

    revision: ClassVar[int] = 0

    teacher: Teacher
    label: str = spec.field("", identity=False)

    def needs(self, genesis: Genesis) -> tuple[Run, ...]:
        """Return the runs that the teacher comes from."""
        return self.teacher.needs(genesis)

    def run(self, state: State, world: World) -> State:
        """Measure; the state passes through unchanged except for its facts."""
        forward, _ = self.teacher.source.forward(world)
        facts: dict[str, Any] = {}
        for part in ("test", "validation"):
            answers = _answers(forward, getattr(world.data, part))
            facts[part] = asdict(Accuracy(int(answers.right.sum()), len(answers.right)))
            facts[f"{part}_answers"] = answers.facts()
        return State(state.weights, state.masks, facts)


def _answers(forward: Forward, examples: Examples) -> Answers:
    right: list[Tensor] = []
    for indices in torch.arange(len(examples)).split(1000):
        inputs, labels = examples.take(indices)
        right.append(forward(inputs).argmax(1) == labels)
    return Answers.of_classes(torch.cat(right))
