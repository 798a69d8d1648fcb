"""The result of a search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from boxwood._internal.compress.scores import Drop
from boxwood._internal.compress.search import Attempt


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed network and its measurements.

    Args:
        network: the smaller one.
        held: whether its score is within the limit, by the interval on validation.
        attempt: the candidate, how long it was trained, and its drop on validation.
        test: against the dense network on the test examples; None without any.
        score: description of the score.
        dense_score: mean score of the dense network on validation.
        unit: of the costs.
        cost: of the network.
        dense_cost: of the dense one.
        folder: with all files.
        tried: every candidate at every stage.
        seconds: medians of the last race, by engine and network.
        advice: further advice, one sentence each.
        hours: that were spent.
    """

    network: nn.Module
    held: bool
    attempt: Attempt
    test: Drop | None
    score: str
    dense_score: float
    unit: str
    cost: float
    dense_cost: float
    folder: Path
    tried: Sequence[Attempt]
    seconds: Mapping[str, float]
    advice: Sequence[str]
    hours: float

    def __str__(self) -> str:
        """Say it in a few sentences."""
        ratio = self.dense_cost / self.cost if self.cost else 1.0
        dense = f"the dense network's {self.dense_cost:.4g}"
        found = self.attempt.drop
        upper = "" if found.examples == 1 else f", at most {100 * found.most:.2f} (95 %)"
        over = "" if self.held else ": this is more than was allowed"
        lines = [
            f"{self.attempt.name}: {self.cost:.4g} {self.unit}, {ratio:.2f} times less than {dense}.",
            f"On validation its {self.score} falls by {100 * found.mean:.2f} points{upper}{over}.",
        ]
        if self.test is not None:
            lines.append(f"On the test examples it falls by {100 * self.test.mean:.2f} points.")
        return "\n".join([*lines, *self.advice])
