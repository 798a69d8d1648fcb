"""The search: repair every candidate, and train those that may win for longer and longer."""

import itertools
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from boxwood._internal.compress.candidates import WHOLE, Candidate, Made, Maker, state_of
from boxwood._internal.compress.costs import Costs, compiled
from boxwood._internal.compress.journal import Journal
from boxwood._internal.compress.scores import Drop, Scorer, Scores, drop
from boxwood._internal.compress.task import Task
from boxwood._internal.compress.teaching import Lesson, teach_
from boxwood._internal.engine.compiling import Precision
from boxwood._internal.graph.rebuild import rebuilt
from boxwood.errors import TrainingDiverged

RATES = (3e-4, 1e-3, 3e-3)
RUNGS = 4
"""Rungs that a budget is laid out for; each costs the same, for half as many train twice as long."""
FEWEST = 20
"""Optimizer steps of the shortest training."""


@dataclass(frozen=True)
class Attempt:
    """A candidate after one rung of the search.

    Args:
        candidate: what was tried.
        rung: 0 for repaired alone.
        steps: optimizer steps so far.
        drop: against the dense network, on validation.
        cost: in the unit of the target: measured once it is trained or within the limit, predicted
            before.
        precision: of the compiled network.
    """

    candidate: Candidate
    rung: int
    steps: int
    drop: Drop
    cost: float
    precision: Precision = "float32"

    @property
    def key(self) -> str:
        """Its name among the kept tensors."""
        return key_of(self.candidate, self.rung)

    @property
    def name(self) -> str:
        """The candidate, and int8 where it runs in that."""
        return f"{self.candidate.name}{', int8' * (self.precision == 'int8')}"


def key_of(candidate: Candidate, rung: int) -> str:
    """Name the tensors of a candidate after a rung, as a file may be called.

    Example:
        >>> key_of(Candidate("units 70%, weights 20%", {}, {}, False, 0.0), 1)
        'units-70-weights-20.1'
    """
    return f"{'-'.join(re.findall('[a-z0-9]+', candidate.name))}.{rung}"


class AsModule(nn.Module):
    """A compiled network as a module, for functions that take one.

    Args:
        session: what it calls.

    Example:
        >>> AsModule(abs)(-1)
        1
    """

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the compiled network."""
        return self.session(*args, **kwargs)


@dataclass(frozen=True)
class Wanted:
    """What is asked of the result.

    Args:
        max_drop: the most that the score may fall.
        at_most: the cost at which the search may stop; 0 looks for the least cost.
    """

    max_drop: float
    at_most: float = 0.0

    def held(self, attempt: Attempt) -> bool:
        """Say whether the score is held."""
        return attempt.drop.held(self.max_drop)

    def met(self, attempt: Attempt) -> bool:
        """Say whether score and cost are held."""
        return self.held(attempt) and attempt.cost <= self.at_most

    def best(self, attempts: Sequence[Attempt]) -> Attempt | None:
        """Choose the cheapest that holds the score; of those at the wanted cost the best one."""
        met = [each for each in attempts if self.met(each)]
        if met:
            return min(met, key=lambda each: (each.drop.most, each.cost))
        held = [each for each in attempts if self.held(each)]
        return min(held, key=lambda each: (each.cost, each.drop.most)) if held else None


@dataclass(frozen=True, eq=False)
class Search:
    """All that a search needs to know.

    Args:
        task: the user's.
        maker: of candidates.
        costs: of networks.
        scorer: on validation.
        wanted: of the result.
        journal: of what was found.
        example: that is served.
        seed: of the batches' order.
        watch: called with a line about what is done, how much of the budget is used in [0, 1], and
            the best so far.
    """

    task: Task
    maker: Maker
    costs: Costs
    scorer: Scorer
    wanted: Wanted
    journal: Journal
    example: Any
    seed: int
    watch: Callable[[str, float, Attempt | None], None]

    def step_seconds(self) -> float:
        """Measure a step of retraining the whole network, the most that one can take."""

        def find() -> float:
            network = rebuilt(self.maker.dense, lambda _, tensor: tensor.clone())
            lesson = Lesson(steps=3, rate=0.0, seed=self.seed)
            task = replace(self.task, optimizer=None)
            teach_(network, self.maker.dense, task, lesson)
            begun = time.perf_counter()
            teach_(network, self.maker.dense, task, lesson)
            return (time.perf_counter() - begun) / lesson.steps

        return self.journal.fact("seconds of a step", find)

    def run(self, candidates: Sequence[Candidate], dense: Scores, steps: int) -> list[Attempt]:
        """Try all candidates, and train those that may still win until the steps are used up.

        Args:
            candidates: what to try.
            dense: scores of the dense network.
            steps: of all candidates together.

        Returns:
            Every attempt, in the order in which they came.
        """
        attempts: list[Attempt] = []
        for candidate in candidates:
            self.watch(f"repairing {candidate.name}", 0.0, self.wanted.best(attempts))
            attempts += self._tried(candidate, 0, 0, 0, dense)
        first = self.journal.fact(
            "steps of the first rung",
            lambda: max(FEWEST, steps // (RUNGS * max(1, len(self._open(attempts))))),
        )
        rate = self._rate(candidates, dense, first) if self.task.optimizer is None else 0.0
        used, length, places = 0, first, len(candidates)
        for rung in itertools.count(1):
            affordable = max(0, (steps - used) // length)
            chosen = self._open(attempts)[: min(places, affordable)]
            if not chosen:
                break
            places = math.ceil(len(chosen) / 2)
            for attempt in chosen:
                done = used / max(1, steps)
                self.watch(
                    f"training {attempt.candidate.name}, {length} steps",
                    done,
                    self.wanted.best(attempts),
                )
                attempts += self._tried(attempt.candidate, rung, length, attempt.steps, dense, rate)
                used += length
            length *= 2
        return attempts

    def network(self, attempt: Attempt) -> Made:
        """Make the network of an attempt."""
        return self.maker.loaded(attempt.candidate, self.journal.kept(attempt.key))

    def compiled(self, made: Made, precision: Precision) -> Any:
        """Compile the network of an attempt, calibrated on the inputs that repaired it."""
        return compiled(made.network, self.example, precision, self.maker.repair)

    def _open(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """List the last attempts of candidates that would beat the best if they held, nearest first."""
        best = self.wanted.best(attempts)
        if best is not None and self.wanted.met(best):
            return []
        bound = math.inf if best is None else best.cost
        last = {e.candidate.name: e for e in attempts if e.precision == "float32"}
        held = {(e.candidate.name, e.precision) for e in attempts if self.wanted.held(e)}
        found = [
            each
            for name, each in last.items()
            if any(
                (name, precision) not in held and self._cost(each.candidate, precision) < bound
                for precision in self.costs.precisions
            )
        ]
        return sorted(found, key=lambda each: (each.drop.mean, each.cost))

    def _tried(
        self,
        candidate: Candidate,
        rung: int,
        length: int,
        before: int,
        dense: Scores,
        rate: float = 0.0,
    ) -> list[Attempt]:
        """Make or train a candidate, and score it; in int8 as well where it holds in float32."""
        key = key_of(candidate, rung)

        def find() -> list[float]:
            if rung == 0:
                made = self.maker.make(candidate)
            else:
                made = self.maker.loaded(candidate, self.journal.kept(key_of(candidate, rung - 1)))
                lesson = Lesson(steps=length, rate=rate, seed=self.seed + rung)
                teach_(made.network, self.maker.dense, self.task, lesson, made.masks)
            found = drop(dense, self.scorer(made.network))
            self.journal.keep(key, state_of(made))
            return [found.mean, found.most, found.examples]

        def find_in_int8() -> list[float]:
            made = self.maker.loaded(candidate, self.journal.kept(key))
            found = drop(dense, self.scorer(AsModule(self.compiled(made, "int8"))))
            return [found.mean, found.most, found.examples]

        def attempt(precision: Precision, found: Sequence[float]) -> Attempt:
            made = Attempt(
                candidate,
                rung,
                before + length,
                Drop(found[0], found[1], int(found[2])),
                0.0,
                precision,
            )
            if rung or self.wanted.held(made):
                self._measure(candidate, key)
            return replace(made, cost=self._cost(candidate, precision))

        attempts = [attempt("float32", self.journal.fact(f"drop of {key}", find))]
        if "int8" in self.costs.precisions and self.wanted.held(attempts[0]):
            attempts.append(
                attempt("int8", self.journal.fact(f"drop of {key}, int8", find_in_int8))
            )
        if rung > 1:  # that of rung 0 is what the learning rate is chosen on
            self.journal.drop(key_of(candidate, rung - 1))
        # The whole network is there to say what int8 alone gives.
        return attempts[candidate.name == WHOLE :]

    def _measure(self, candidate: Candidate, key: str) -> None:
        """Measure a candidate in each precision, once: its cost does not depend on its weights."""

        def find(precision: Precision) -> float:
            made = self.maker.loaded(candidate, self.journal.kept(key))
            return self.costs.measure(made.network, precision)

        for precision in self.costs.precisions:
            name = f"cost of {candidate.name}, {precision}"
            self.journal.fact(name, partial(find, precision))

    def _cost(self, candidate: Candidate, precision: Precision) -> float:
        """Return the measured cost, or the forecast before there is one."""
        name = f"cost of {candidate.name}, {precision}"
        forecast = candidate.forecast * self.costs.precisions[precision]
        return self.journal.fact(name, lambda: forecast) if self.journal.known(name) else forecast

    def _rate(self, candidates: Sequence[Candidate], dense: Scores, steps: int) -> float:
        """Choose the learning rate with which a candidate of middle size recovers most."""

        def find() -> float:
            middle = candidates[len(candidates) // 4]
            found: dict[float, float] = {}
            for rate in RATES:
                made = self.maker.loaded(middle, self.journal.kept(key_of(middle, 0)))
                lesson = Lesson(steps=steps, rate=rate, seed=self.seed)
                self.watch(f"learning rate {rate:g} on {middle.name}", 0.0, None)
                try:
                    teach_(made.network, self.maker.dense, self.task, lesson, made.masks)
                except TrainingDiverged:
                    continue
                found[rate] = drop(dense, self.scorer(made.network)).mean
            return min(found, key=lambda rate: found[rate]) if found else RATES[0]

        return self.journal.fact("learning rate", find)
