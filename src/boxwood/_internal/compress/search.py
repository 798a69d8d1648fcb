"""The search: every candidate is repaired, and those that may win are trained longer and longer."""

import itertools
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from boxwood._internal.compress.candidates import Candidate, Made, Maker, state_of
from boxwood._internal.compress.costs import Costs
from boxwood._internal.compress.journal import Journal
from boxwood._internal.compress.scores import Drop, Scorer, Scores, drop
from boxwood._internal.compress.task import Task
from boxwood._internal.compress.teaching import Lesson, teach_
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
        cost: in the unit of the target: measured once it was trained, forecast before.
    """

    candidate: Candidate
    rung: int
    steps: int
    drop: Drop
    cost: float

    @property
    def key(self) -> str:
        """Its name among the kept tensors."""
        return key_of(self.candidate, self.rung)


def key_of(candidate: Candidate, rung: int) -> str:
    """Name the tensors of a candidate after a rung, as a file may be called.

    Example:
        >>> key_of(Candidate("units 70%, weights 20%", {}, {}, 0.0), 1)
        'units-70-weights-20.1'
    """
    return f"{'-'.join(re.findall('[a-z0-9]+', candidate.name))}.{rung}"


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
    seed: int
    watch: Callable[[str, float, Attempt | None], None]

    def scores(self, name: str, network: nn.Module) -> Scores:
        """Score a network, or remember how it scored."""
        return np.array(
            self.journal.fact(f"scores of {name}", lambda: self.scorer(network).tolist())
        )

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
            attempts.append(self._tried(candidate, 0, 0, 0, dense))
        first = self.journal.fact(
            "steps of the first rung",
            lambda: max(FEWEST, steps // (RUNGS * max(1, len(self._open(attempts))))),
        )
        rate = self._rate(candidates, dense, first) if self.task.optimizer is None else 0.0
        used, length, places = 0, first, len(attempts)
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
                attempts.append(
                    self._tried(attempt.candidate, rung, length, attempt.steps, dense, rate)
                )
                used += length
            length *= 2
        return attempts

    def network(self, attempt: Attempt) -> Made:
        """Make the network of a attempt."""
        return self.maker.loaded(attempt.candidate, self.journal.kept(attempt.key))

    def _open(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """List the last attempts of candidates that would beat the best if they held, nearest first."""
        last = {each.candidate.name: each for each in attempts}
        best = self.wanted.best(attempts)
        if best is not None and self.wanted.met(best):
            return []
        bound = math.inf if best is None else best.cost
        held = {each.candidate.name for each in attempts if self.wanted.held(each)}
        found = [e for n, e in last.items() if n not in held and e.cost < bound]
        return sorted(found, key=lambda each: (each.drop.mean, each.cost))

    def _tried(
        self,
        candidate: Candidate,
        rung: int,
        length: int,
        before: int,
        dense: Scores,
        rate: float = 0.0,
    ) -> Attempt:
        attempt = Attempt(candidate, rung, before + length, Drop(0.0, 0.0, 0), candidate.forecast)

        def find() -> list[float]:
            if rung == 0:
                made = self.maker.make(candidate)
            else:
                made = self.maker.loaded(candidate, self.journal.kept(key_of(candidate, rung - 1)))
                lesson = Lesson(steps=length, rate=rate, seed=self.seed + rung)
                teach_(made.network, self.maker.dense, self.task, lesson, made.masks)
            found = drop(dense, self.scorer(made.network))
            self.journal.keep(attempt.key, state_of(made))
            return [found.mean, found.most, found.examples]

        mean, most, examples = self.journal.fact(f"drop of {attempt.key}", find)
        if rung > 1:  # that of rung 0 is what the learning rate is chosen on
            self.journal.drop(key_of(candidate, rung - 1))
        attempt = replace(attempt, drop=Drop(mean, most, int(examples)))
        cost = candidate.forecast
        if rung or self.wanted.held(attempt):
            cost = self.journal.fact(
                f"cost of {candidate.name}",
                lambda: self.costs.measure(self.network(attempt).network),
            )
        return replace(attempt, cost=cost)

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
