"""Turn a comparison into its league table: run it, choose learning rates, and combine the seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from boxwood._internal.recipes.comparison import Comparison, Entry, Place
from boxwood._internal.recipes.training_cost import PASSES
from boxwood._internal.report.contrasts import BySeed, contrast, value_of
from boxwood._internal.report.estimates import Estimate, interval
from boxwood._internal.report.experiments import run_jobs
from boxwood._internal.report.grids import edge
from boxwood._internal.report.ranks import Ranking, ranked_over_tasks
from boxwood._internal.runs.runner import Job, RunSettings
from boxwood._internal.runs.store import Store
from boxwood.errors import InvalidInput

Run = Callable[[Sequence[Job]], None]
"""Runs jobs to their end on the store."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A row of a league table, over its seeds.

    Args:
        place: task, method and sparsity.
        score: on test: accuracy as a fraction, or the mean loss.
        validation: the same on validation, by which the rate was chosen.
        rate: learning rate.
        edge: the end of the grid of rates at which it lies, ``"low"`` or ``"high"``; empty inside
            the grid, and if there was only one rate.
        sparsity: measured fraction of zeros among the prunable weights.
        nonzero: number of remaining parameters.
        multiply_adds: of one example, counting kept weights only.
        steps: of the optimizer.
        training_multiply_adds: three times those of the weights kept at the time, for every example
            of every step.
        hours: hours that one seed took, including shared first phases.
        diverged: number of runs with a training whose loss was no longer finite.
        keys: of the measurements.
        front: whether no other network of the task is as good on validation for fewer multiply-adds.
    """

    place: Place
    score: Estimate
    validation: float
    rate: float
    edge: str
    sparsity: float
    nonzero: float
    multiply_adds: float
    steps: int
    training_multiply_adds: float
    hours: float
    diverged: int = 0
    keys: tuple[str, ...] = field(repr=False, default=())
    front: bool = False


@dataclass(frozen=True)
class League:
    """The result of a comparison.

    Args:
        standings: all rows, by task, sparsity and score, best first.
        seeds: number of seeds of every row.
        by_loss: names of the tasks that are judged by their loss.
    """

    standings: tuple[Standing, ...]
    seeds: tuple[int, ...]
    by_loss: frozenset[str] = frozenset()

    def of(self, task: str) -> tuple[Standing, ...]:
        """The rows of one task."""
        return tuple(each for each in self.standings if each.place.task == task)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return tuple(dict.fromkeys(each.place.task for each in self.standings))

    def ranking(self) -> Ranking | None:
        """Rank the methods over all tasks and sparsities; None for fewer than two of either.

        Each task at each sparsity is one block. Dense networks, and methods that are missing
        somewhere, are left out.
        """
        blocks: dict[tuple[str, float], dict[str, float]] = {}
        for each in self.standings:
            if each.place.sparsity is not None:
                sign = -1 if each.place.task in self.by_loss else 1
                block = blocks.setdefault((each.place.task, each.place.sparsity), {})
                block[each.place.method] = sign * each.score.value
        names = [
            name
            for name in dict.fromkeys(n for block in blocks.values() for n in block)
            if all(name in block for block in blocks.values())
        ]
        if len(blocks) < 2 or len(names) < 2:
            return None
        return ranked_over_tasks(
            [[block[name] for name in names] for block in blocks.values()], names
        )

    def rows(self) -> list[dict[str, Any]]:
        """All rows as plain values, for JSON."""
        return [
            {
                **asdict(each.place),
                "score": each.score.value,
                "low": interval(each.score).low,
                "high": interval(each.score).high,
                "by_seed": list(each.score.by_seed),
                **{
                    name: value
                    for name, value in asdict(each).items()
                    if name not in ("place", "score", "sparsity")
                },
                "reached_sparsity": each.sparsity,
            }
            for each in self.standings
        ]


def compare(
    comparison: Comparison,
    *,
    store: Store | str | Path = "runs",
    seeds: int | Sequence[int] = 3,
    workers: int = 1,
    device: str | torch.device = "cpu",
    snapshot_every: float = 30.0,
    run: Run | None = None,
) -> League:
    """Run a comparison to its end: every method, sparsity and task, at rates chosen on validation.

    First every recipe runs at every rate on the first ``tuning_seeds``. For each row, the rate with
    the best mean on validation is chosen. Then the chosen ones run on the other seeds. With
    ``tuned_at``, only the rows at this sparsity run at every rate, and the others take theirs. Finished
    phases are read from the store, recipes share equal first phases, and several processes may run
    the same call.

    Args:
        comparison: what to compare.
        store: the folder where finished phases are kept.
        seeds: the number of seeds, at least 1, or the seeds themselves.
        workers: the number of processes that share the work, at least 1.
        device: where to train.
        snapshot_every: seconds between snapshots inside a long phase, above 0.
        run: a function that runs jobs in another way, such as on a cluster; by default they run
            here, in ``workers`` processes.

    Returns:
        The league table.

    Raises:
        InvalidInput: there are fewer seeds than tuning seeds, or a method breaks the budget.
        CheckpointError: the store cannot be read or written.

    Example:
        >>> import tempfile
        >>> from boxwood.comparison import METHODS, ComparisonTask
        >>> from boxwood.data import digits
        >>> from boxwood.networks import lenet_300_100
        >>> from boxwood.optim import SGD
        >>> from boxwood.recipes import Call
        >>> from boxwood.training import Training
        >>> task = ComparisonTask(
        ...     name="digits", model=Call.of(lenet_300_100, inputs=64), data=digits,
        ...     train=Training(steps=40, batch=60, optimizer=SGD(lr=0.1)),
        ... )
        >>> study = Comparison(
        ...     tasks=(task,), methods={"SNIP": METHODS["SNIP"]}, sparsities=(0.9,), controls={}
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     league = compare(study, store=folder, seeds=1)
        >>> sorted(each.place.method for each in league.standings)
        ['SNIP', 'dense', 'dense trained on']
    """
    chosen_seeds = tuple(range(seeds) if isinstance(seeds, int) else seeds)
    if len(chosen_seeds) < comparison.tuning_seeds or workers < 1:
        raise InvalidInput(
            f"Expected at least {comparison.tuning_seeds} seeds, of which rates are chosen, and one "
            f"worker, got seeds={seeds!r} and workers={workers}; give more."
        )
    opened = store if isinstance(store, Store) else Store(store)
    settings = RunSettings(snapshot_every=snapshot_every, device=torch.device(device))
    doing = run or (lambda jobs: run_jobs(jobs, opened, settings, workers=workers))
    tuning = chosen_seeds[: comparison.tuning_seeds]
    entries = comparison.entries()
    groups = _by_place(entries)
    asked = {comparison.tuned(place) for place in groups}
    doing([_job(entry, seed) for entry in entries if entry.place in asked for seed in tuning])
    rates = {place: _best(groups[place], tuning, opened) for place in asked}
    kept = [
        _Choice(tuple(e for e in group if e.task.rate == rate), edge)
        for place, group in groups.items()
        for rate, edge in [rates[comparison.tuned(place)]]
    ]
    doing(
        [_job(entry, seed) for choice in kept for entry in choice.entries for seed in chosen_seeds]
    )
    standings = [_standing(choice, chosen_seeds, opened) for choice in kept]
    by_loss = frozenset(task.name for task in comparison.tasks if task.by_loss)
    return League(_ordered(_with_fronts(standings, by_loss), by_loss), chosen_seeds, by_loss)


@dataclass(frozen=True)
class _Choice:
    """The draws of a row at the rate that was chosen."""

    entries: tuple[Entry, ...]
    edge: str


def _job(entry: Entry, seed: int) -> Job:
    return Job(entry.task.genesis(seed), entry.recipe, f"{entry.name} / seed {seed}")


def _by_place(entries: Iterable[Entry]) -> dict[Place, list[Entry]]:
    groups: dict[Place, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.place, []).append(entry)
    return groups


def _best(group: Sequence[Entry], seeds: Sequence[int], store: Store) -> tuple[float, str]:
    """Return the rate of the best mean on validation, over seeds and draws, and its end of the grid."""
    what, sign = ("loss", -1) if group[0].task.by_loss else ("right", 1)
    by_rate: dict[float, list[Entry]] = {}
    for entry in group:
        by_rate.setdefault(entry.task.rate, []).append(entry)
    scores = {
        rate: sign * fmean(
            value_of(_facts(entry, seed, store), "validation", what)
            for entry in entries
            for seed in seeds
        )
        for rate, entries in by_rate.items()
    }  # fmt: skip
    best = min(scores, key=lambda rate: (-scores[rate], rate))
    return best, edge(scores) if len(scores) > 1 else ""


def _facts(entry: Entry, seed: int, store: Store) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = store.record(_job(entry, seed).chain[-1])["facts"]
    return facts


def _standing(choice: _Choice, seeds: Sequence[int], store: Store) -> Standing:
    first = choice.entries[0]
    what = "loss" if first.task.by_loss else "right"
    draws: list[BySeed] = [
        {seed: _facts(entry, seed, store) for seed in seeds} for entry in choice.entries
    ]
    terms = [(1 / len(draws), draw) for draw in draws]
    score = contrast(terms, what=what, scale=1.0)
    assert score is not None  # noqa: S101 - every draw has every seed
    facts = [each for draw in draws for each in draw.values()]
    jobs = [_job(entry, seed) for entry in choice.entries for seed in seeds]
    spent = [_spent(job, first.task.train.batch, store) for job in jobs]
    diverged = [any(_diverged(store, key) for key in job.chain[1:]) for job in jobs]
    return Standing(
        place=first.place,
        score=score,
        validation=fmean(value_of(each, "validation", what) for each in facts),
        rate=first.task.rate,
        edge=choice.edge,
        sparsity=fmean(1 - each["kept"] / each["weights"] for each in facts),
        nonzero=fmean(each["nonzero"] for each in facts),
        multiply_adds=fmean(each["multiply_adds"] for each in facts),
        steps=first.task.steps,
        training_multiply_adds=fmean(cost for cost, _ in spent),
        hours=fmean(seconds for _, seconds in spent) / 3600,
        diverged=sum(diverged),
        keys=tuple(job.chain[-1] for job in jobs),
    )


def _spent(job: Job, batch: int, store: Store) -> tuple[float, float]:
    """What the trainings of a run took: multiply-adds of the kept weights, and seconds."""
    records = [store.record(key) for key in job.chain[1:]]
    last = records[-1]["facts"]
    cost, pruned = 0.0, False
    for record in records:
        facts, before = record["facts"], 0
        for row in facts.get("history", ()):
            plain = last["multiply_adds"] if pruned else last["dense_multiply_adds"]
            cost += (row["step"] - before) * batch * PASSES * row.get("multiply_adds", plain)
            before = row["step"]
        pruned |= "history" not in facts
    return cost, sum(float(each["provenance"].get("seconds", 0.0)) for each in records)


def _diverged(store: Store, key: str) -> bool:
    return bool(store.record(key)["facts"].get("diverged", False))


def _with_fronts(standings: Sequence[Standing], by_loss: frozenset[str]) -> list[Standing]:
    found = []
    for each in standings:
        sign = -1 if each.place.task in by_loss else 1
        beaten = any(
            other.place.task == each.place.task
            and sign * other.validation >= sign * each.validation
            and other.multiply_adds <= each.multiply_adds
            and (sign * other.validation, -other.multiply_adds)
            != (sign * each.validation, -each.multiply_adds)
            for other in standings
        )
        found.append(replace(each, front=not beaten))
    return found


def _ordered(standings: Iterable[Standing], by_loss: frozenset[str]) -> tuple[Standing, ...]:
    tasks = list(dict.fromkeys(each.place.task for each in standings))

    def place(each: Standing) -> tuple[Any, ...]:
        sparsity = -1.0 if each.place.sparsity is None else each.place.sparsity
        sign = 1 if each.place.task in by_loss else -1
        return tasks.index(each.place.task), sparsity, sign * each.score.value, each.place.method

    return tuple(sorted(standings, key=place))
