"""`compress`: the one call that turns a network and an accuracy limit into a folder with a smaller network."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from boxwood._internal.compress.candidates import Candidate, Made, Maker, candidates
from boxwood._internal.compress.costs import (
    Costs,
    cost_of,
    latency_costs,
    multiply_add_costs,
    size_costs,
)
from boxwood._internal.compress.folder import check_files, write_files, write_record
from boxwood._internal.compress.journal import Journal
from boxwood._internal.compress.layer_times import layer_uses
from boxwood._internal.compress.race import advice, race
from boxwood._internal.compress.result import Compressed
from boxwood._internal.compress.scores import Drop, Scorer, Scores, drop, examples_needed, shuffled
from boxwood._internal.compress.search import AsModule, Attempt, Search, Wanted
from boxwood._internal.compress.task import Task, Validate, first_rows
from boxwood._internal.core.arguments import check_kind
from boxwood._internal.core.tensor_files import checksum_of
from boxwood._internal.engine.compiling import Precision
from boxwood._internal.graph.rebuild import named_tensors
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.runs.provenance import provenance
from boxwood.errors import InvalidInput, MissingDependency, TooFewExamples

Target = Literal["latency", "size", "macs"]
COSTS: dict[str, Callable[..., Costs]] = {
    "latency": latency_costs,
    "size": size_costs,
    "macs": multiply_add_costs,
}
REPAIR = 512
"""Examples of ``train`` that rank and repair."""
TRAINING = 0.6
"""Share of the hours that is planned for training; the rest is repair, validation and measuring."""
Watch = Callable[[str, float, Attempt | None], None]


@dataclass(frozen=True)
class Asked:
    """What was asked for, in range."""

    max_drop: float
    target: Target
    at_most: str | float | None
    hours: float | None
    steps: int | None
    seed: int

    def __post_init__(self) -> None:
        do = "give the most that the score may fall, such as 0.005"
        check_kind(self.max_drop, (int, float), "max_drop above 0", do)
        if not 0 < self.max_drop < math.inf:
            raise InvalidInput(f"Expected max_drop above 0, got {self.max_drop}; {do}.")
        if self.target not in COSTS:
            raise InvalidInput(
                f"Expected a target out of {', '.join(COSTS)}, got {self.target!r}; give one of them."
            )
        if self.hours is not None and self.steps is not None:
            raise InvalidInput("Expected hours or steps, got both; give one of them.")
        for name, given in (("hours", self.hours), ("steps", self.steps)):
            if given is not None and not given > 0:
                raise InvalidInput(f"Expected {name} above 0, got {given}; give a budget.")

    def limit(self, whole: float, unit: str) -> float:
        """Return the cost at which the search may stop, 0 for none."""
        if self.at_most is None:
            return 0.0
        limit = cost_of(self.at_most, whole, unit)
        if limit >= whole:
            raise InvalidInput(
                f"Expected a target that the network does not meet yet, got at most {self.at_most} "
                f"where it has {whole:.4g} {unit} already; there is nothing to do, or lower it."
            )
        return limit


def compress(
    model: nn.Module | Task,
    out: str | Path,
    *,
    train: Iterable[Any] | None = None,
    validate: Validate | None = None,
    test: Validate | None = None,
    max_drop: float = 0.005,
    target: Target = "latency",
    at_most: str | float | None = None,
    hours: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    watch: Watch = lambda what, done, best: None,  # noqa: ARG005
    **of_task: Any,
) -> Compressed:
    """Find the smallest or fastest network whose score stays within a limit, and write it to a folder.

    Networks with fewer units, with fewer weights, and with both are repaired by least squares and
    retrained by what the dense network returns. Those that may win train longer, half as many
    twice as long each time, as far as the budget goes. The limit is held by the interval on
    validation, and the test examples are read once, at the end.

    A search that was stopped goes on where it was when it is called again with the same folder;
    with a longer budget it goes further.

    Args:
        model: a trained network, or a `boxwood.compression.Task` with everything about it.
        out: folder of the result and of the search.
        train: batches: inputs alone, ``(inputs, targets)``, or dicts; something that can be read
            repeatedly. Without targets the dense network replaces them.
        validate: batches, or a function that returns a network's score: a number, or one for each
            example. With one for each example the limit is held by an interval.
        test: the same, read once.
        max_drop: the most that the score may fall, such as 0.005 for half a point of accuracy.
        target: what is to be small: ``"latency"`` on this machine, one thread and one call of the
            example; ``"size"`` of the compiled file; or ``"macs"``, multiply-adds.
        at_most: where the search may stop: ``"8ms"``, ``"5MB"``, or a fraction of the dense
            network's, in (0, 1). Without it the budget is used up.
        hours: the budget; one by default.
        steps: the budget in optimizer steps instead, of all candidates together; then the result
            does not depend on how fast the machine is.
        seed: of everything random.
        watch: called with what is done, the share of the budget that is used, and the best so far.
        of_task: more fields of a `boxwood.compression.Task`: example, metric, loss, train_step,
            optimizer.

    Raises:
        InvalidInput: the network is on a GPU, the data cannot be read, the score is no finite
            number, the network is no better than chance, ``max_drop`` is less than one validation
            example, or the network meets ``at_most`` already.
        CheckpointError: the folder holds another search, or cannot be written.

    Example:
        >>> import tempfile, torch
        >>> x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
        >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        >>> with tempfile.TemporaryDirectory() as out:
        ...     found = compress(net, out, train=[x], target="macs", max_drop=0.1, steps=60)
        >>> found.cost < found.dense_cost
        True
    """
    if isinstance(model, Task):
        task = model
    else:
        if train is None:
            raise InvalidInput(
                "Expected data to train on, got none; give train=, such as a DataLoader."
            )
        task = Task(model=model, train=train, validate=validate, test=test, **of_task)
    return compress_task(
        task, Path(out), Asked(max_drop, target, at_most, hours, steps, seed), watch
    )


def compress_task(task: Task, out: Path, asked: Asked, watch: Watch) -> Compressed:
    """Do what `compress` does, for what was asked for; the network is put back as it was."""
    modes = [(module, module.training) for module in task.model.modules()]
    try:
        task.model.eval()
        with warnings.catch_warnings():
            # Of every candidate's repair; a network whose repair went wrong is not chosen.
            warnings.simplefilter("ignore", TooFewExamples)
            return _compressed(task, out, asked, watch)
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True, eq=False)
class Prepared:
    """A search that is ready to run.

    Args:
        search: with its journal.
        candidates: that it tries.
        dense: scores of the dense network.
        steps: of all trainings together.
        example: that is served.
    """

    search: Search
    candidates: Sequence[Candidate]
    dense: Scores
    steps: int
    example: Any


def prepared(task: Task, out: Path, asked: Asked, watch: Watch) -> Prepared:
    """Read the data, find what can go and what that costs, and lay out the budget."""
    dense = task.model
    about = {
        "network": checksum_of({names[0]: each for names, each in named_tensors(dense)})[:16],
        "max_drop": asked.max_drop,
        "target": asked.target,
        "seed": asked.seed,
    }
    journal = Journal(out / "search", about)
    watch("reading data", 0.0, None)
    repair = task.first(REPAIR)
    given = task.example is not None
    example = task.example if given else first_rows(repair[0], 1)
    maker = Maker.of(dense, example if given else first_rows(repair[0], 2), repair)
    validate, labelled = (task.validate, True) if task.validate is not None else (task.train, False)
    scorer = Scorer(task, validate, dense, labelled)
    scores = np.array(journal.fact("scores of the dense network", lambda: scorer(dense).tolist()))
    _check_scores(journal, scorer, scores, dense, asked.max_drop)
    watch(f"measuring {asked.target}", 0.0, None)
    costs = COSTS[asked.target](dense, maker.units, example, repair, journal.fact)
    wanted = Wanted(asked.max_drop, asked.limit(costs.whole, costs.unit))
    search = Search(task, maker, costs, scorer, wanted, journal, example, asked.seed, watch)
    found = candidates(
        maker, costs, journal.fact,
        lambda done, whole: watch(f"measuring what can go, {done} of {whole}", 0.0, None),
    )  # fmt: skip
    if not found:
        raise InvalidInput(
            "Expected a network with something to remove, got one without removable units and "
            "without matrices; find_units(model, example).reasons() says why."
        )
    seconds = 3600 * (1.0 if asked.hours is None else asked.hours)
    steps = asked.steps or int(seconds * TRAINING / search.step_seconds())
    return Prepared(search, found, scores, steps, example)


def _compressed(task: Task, out: Path, asked: Asked, watch: Watch) -> Compressed:
    ready = prepared(task, out, asked, watch)
    search, journal, costs = ready.search, ready.search.journal, ready.search.costs
    tried = search.run(ready.candidates, ready.dense, ready.steps)
    best = search.wanted.best(tried) or min(tried, key=lambda e: (e.drop.most, e.cost))
    made = search.network(best)
    watch(f"checking {best.name}", 1.0, best)
    notes = [_checked(task.model, made.selection)]
    name = f"cost of {best.candidate.name}, {best.precision}"
    cost = journal.fact(name, lambda: costs.measure(made.network, best.precision))
    session = _session(search, made, best.precision)
    test = None
    if task.test is not None:
        served = made.network if best.precision == "float32" else AsModule(session)
        test = _tested(task, journal, best, served)
    watch("racing against dense engines", 1.0, best)
    seconds = journal.fact(
        f"race of {best.key}, {best.precision}",
        lambda: race(task.model, made.network, session, ready.example),
    )
    absent = write_files(out, made, session, ready.example)
    if "model.bxw" not in absent:
        notes.append(check_files(out, made.network, ready.example))
    notes += [f"There is no {name}: {why}." for name, why in absent.items()]
    uses = layer_uses(task.model, ready.example)
    result = Compressed(
        network=made.network,
        held=search.wanted.held(best),
        attempt=best,
        test=test,
        score=search.scorer.name,
        dense_score=float(ready.dense.mean()),
        unit=costs.unit,
        cost=cost,
        dense_cost=costs.whole,
        folder=out,
        tried=tried,
        seconds=seconds,
        advice=[*_said_of_scores(ready.dense), *advice(seconds, uses, search.scorer.name)],
        hours=sum(journal.seconds.values()) / 3600,
    )
    from boxwood._internal.compress.page import write_page  # its packages are slow to import

    try:
        write_page(result, made, asked.max_drop, notes)
    except MissingDependency as error:
        notes.append(f"There is no report.html: {error}")
    write_record(out, record_of_result(result, asked.max_drop, notes))
    return result


def record_of_result(result: Compressed, max_drop: float, notes: Sequence[str]) -> dict[str, Any]:
    """Return what ``compress.json`` says: every number of the report."""
    return {
        "held": result.held,
        "max_drop": max_drop,
        "score": result.score,
        "dense_score": result.dense_score,
        "unit": result.unit,
        "cost": result.cost,
        "dense_cost": result.dense_cost,
        "chosen": asdict(result.attempt),
        "test": None if result.test is None else asdict(result.test),
        "seconds": dict(result.seconds),
        "advice": list(result.advice),
        "notes": list(notes),
        "hours": result.hours,
        "tried": [asdict(each) for each in result.tried],
        "machine": provenance(),
    }


def _check_scores(
    journal: Journal, scorer: Scorer, scores: Scores, dense: nn.Module, max_drop: float
) -> None:
    """Refuse a network that has learnt nothing, and a limit that no examples could show."""
    if len(scores) > 1 and max_drop * len(scores) < 1:
        raise InvalidInput(
            f"Expected max_drop of at least one of the {len(scores):,} validation examples, got "
            f"{max_drop:g}; give at least {examples_needed(max_drop):,} examples, or a larger max_drop."
        )

    def by_chance() -> list[float]:
        put_back = shuffled(dense)
        try:
            return _listed(scorer, dense)
        finally:
            put_back()

    if not scorer.labelled and not callable(scorer.given):
        return  # agreement with itself
    chance = np.array(journal.fact("scores by chance", by_chance))
    above = drop(scores, chance)
    least = above.mean - (above.most - above.mean)
    if least <= 0:
        raise InvalidInput(
            f"Expected a trained network, got one that scores {scores.mean():.4g}, where the same "
            f"weights in a random order score {chance.mean():.4g}; train it first, or check that "
            f"validate returns higher scores for better networks."
        )


def _said_of_scores(scores: Scores) -> list[str]:
    if len(scores) > 1:
        return []
    said = (
        "The score is one number, so the limit is held by that number alone; let validate return a "
        "score for each example to have it held by an interval."
    )
    return [said]


def _checked(dense: nn.Module, selection: UnitSelection) -> str:
    """Check the surgery of the network that was chosen, before any training."""
    if not selection.removed:
        return "No unit was removed, so there was no surgery to check."
    shrink(dense, selection, check=True)
    return "The removal of units was checked against the masked network."


def _session(search: Search, made: Made, precision: Precision) -> Any:
    """Compile the network that was chosen; without the engine's extra it stays torch's."""
    try:
        return search.compiled(made, precision)
    except MissingDependency as error:
        return str(error)


def _tested(task: Task, journal: Journal, best: Attempt, served: nn.Module) -> Drop:
    """Read the test examples, once for each network that was ever chosen."""
    scorer = Scorer(task, task.test, task.model)  # type: ignore[arg-type]
    pair: dict[str, nn.Module] = {
        "the dense network": task.model,
        f"{best.key}, {best.precision}": served,
    }
    found = [
        np.array(journal.fact(f"test scores of {name}", partial(_listed, scorer, network)))
        for name, network in pair.items()
    ]
    return drop(*found)


def _listed(scorer: Scorer, network: nn.Module) -> list[float]:
    found: list[float] = scorer(network).tolist()
    return found
