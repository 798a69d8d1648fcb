"""Turn a store of runs into a row per network, and verdicts."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.report import statistics
from boxwood._internal.report.contrasts import average
from boxwood._internal.report.estimates import Estimate, interval
from boxwood._internal.report.page.facts import counted, describes_a_network, number
from boxwood._internal.report.summary_rows import SummaryRow
from boxwood._internal.runs.records import damaged
from boxwood._internal.runs.runner import Job
from boxwood._internal.runs.store import Store
from boxwood._internal.train.answers import Answers

_NUMBERS = (
    "parameters", "nonzero", "weights", "kept", "multiply_adds", "dense_multiply_adds", "bytes",
    "dense_bytes",
)  # fmt: skip
"""Facts of a measured network other than its accuracies."""


@dataclass(frozen=True)
class Measurement:
    """One `Measure` phase of one run.

    Args:
        branch: name of the recipe.
        label: label of the phase; empty for the only one.
        seed: root seed of the run.
        key: key of the phase in the store.
        facts: what it measured.
        epochs: passes over the training examples up to there.
        seconds: time that the phases up to there took.
        history: rows of the training before it, if there was one.
        stopped: which test examples were answered correctly at the lowest validation loss of that
            training, if it was recorded.
    """

    branch: str
    label: str
    seed: int
    key: str
    facts: dict[str, Any]
    epochs: float
    seconds: float
    history: tuple[dict[str, float], ...] = ()
    stopped: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Branch and label together."""
        return f"{self.branch} {self.label}".strip()

    @property
    def kept_fraction(self) -> float:
        """Kept weights as a fraction of the prunable ones."""
        return float(self.facts["kept"]) / float(self.facts["weights"])

    @property
    def test(self) -> float:
        """Test accuracy, a fraction."""
        return float(self.facts["test"]["correct"]) / float(self.facts["test"]["total"])

    @property
    def validation(self) -> float:
        """Validation accuracy, a fraction."""
        return float(self.facts["validation"]["correct"]) / float(self.facts["validation"]["total"])


@dataclass(frozen=True)
class Step:
    """One phase of one run: what was asked for, and what came out once it is done.

    Args:
        key: its key in the store.
        spec: the phase, encoded.
        record: facts and provenance; None while it is not done.
    """

    key: str
    spec: Mapping[str, Any]
    record: Mapping[str, Any] | None

    @property
    def kind(self) -> str:
        """Name of the phase's class, wherever that is defined."""
        return str(self.spec.get("is", "?")).rpartition(":")[2]

    @property
    def label(self) -> str:
        """Label of the phase."""
        return str(self.spec.get("label", ""))

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the phase measured; empty while it is not done."""
        return {} if self.record is None else self.record["facts"]

    @property
    def seconds(self) -> float:
        """Time that it took when it was made; 0 while it is not done."""
        return 0.0 if self.record is None else float(self.record["provenance"].get("seconds", 0.0))

    @property
    def measures(self) -> bool:
        """Whether its facts say how good a network is."""
        return describes_a_network(self.facts)


def measured_along(
    steps: Iterable[Step], *, branch: str, seed: int, wanted: Collection[str]
) -> Iterator[Measurement]:
    """Read the measured networks of one run, each with the training before it.

    Args:
        steps: its phases, in order; those that are not done are passed over.
        branch: name of the recipe.
        seed: root seed.
        wanted: keys of the phases that measure a network.
    """
    epochs, seconds = 0.0, 0.0
    history: tuple[dict[str, float], ...] = ()
    stopped = None
    for step in steps:
        facts = dict(step.facts)
        epochs += number(facts.get("epochs")) or 0.0
        seconds += step.seconds
        if "history" in facts:
            stopped = facts.get("stopped_answers")
            history = tuple(facts["history"]) if isinstance(facts["history"], list) else history
        if step.record is not None and step.key in wanted:
            yield Measurement(
                branch=branch,
                label=step.label,
                seed=seed,
                key=step.key,
                facts=facts,
                epochs=epochs,
                seconds=seconds,
                history=history,
                stopped=stopped,
            )


@dataclass(frozen=True)
class Finding:
    """A claim, whether it held, and the figures that decide it; ``held`` None means undecided.

    Args:
        claim: in words.
        held: True, False, or None for undecided.
        evidence: the figures.
        p: two-sided p-value of the side that the figures are on; None if nothing is random.
        seeds: number of seeds that it rests on; None if nothing is random.
        needed: number of seeds that would probably decide it; None if it is decided, or if a
            thousand would not.
        estimate: what was compared with ``limit``, if it is a mean.
        limit: in the unit of the estimate.
    """

    claim: str
    held: bool | None
    evidence: str
    p: float | None = None
    seeds: int | None = None
    needed: int | None = None
    estimate: Estimate | None = None
    limit: float = 0.0

    @property
    def word(self) -> str:
        """``"holds"``, ``"fails"`` or ``"undecided"``."""
        return {True: "holds", False: "fails", None: "undecided"}[self.held]

    @property
    def said(self) -> str:
        """The evidence, and for an undecided mean how many seeds would likely decide it.

        Example:
            >>> from boxwood.statistics import over_seeds
            >>> mean = over_seeds([0.2, 0.3])
            >>> Finding("a > b", None, "0.2 [-0.1, 0.5]", needed=8, estimate=mean).said
            '0.2 [-0.1, 0.5]; 8 seeds would likely decide it'
        """
        if self.held is not None or self.estimate is None:
            return self.evidence
        if self.needed is None:
            return f"{self.evidence}; more seeds alone would not decide it"
        return f"{self.evidence}; {self.needed} seeds would likely decide it"


def collect(
    jobs: Iterable[Job], store: Store, *, phases: tuple[type, ...] = (Measure,)
) -> tuple[Measurement, ...]:
    """Read the measurements of finished jobs; one that several branches share belongs to the first.

    Args:
        jobs: what was run.
        store: where it is.
        phases: classes of phases that measure test and validation accuracy; `summarise` uses
            `Measure` only.
    """
    found: dict[str, Measurement] = {}
    for job in jobs:
        chain = list(zip(job.recipe, job.chain[1:], strict=True))
        records = {key: store.record(key) for _, key in chain}
        for phase, key in chain:
            if type(phase) is Measure:
                _check_facts(records[key]["facts"], store.root / "phases" / key / "phase.json")
        wanted = {key for phase, key in chain if isinstance(phase, phases)}
        for each in measured_along(
            [Step(key, record["spec"], record) for key, record in records.items()],
            branch=job.name.rpartition(" / seed ")[0],
            seed=job.genesis.seed,
            wanted=wanted,
        ):
            found.setdefault(each.key, each)
    return tuple(found.values())


def _check_facts(facts: Mapping[str, Any], path: Path) -> None:
    """Refuse what no `Measure` wrote, as in a damaged record of an older Boxwood."""
    counts = [name for name in ("test", "validation") if not counted(facts.get(name))]
    numbers = [name for name in _NUMBERS if number(facts.get(name)) is None]
    if wrong := counts + numbers:
        raise damaged(path, f"no {wrong[0]} of a measured network")


def summarise(measurements: Sequence[Measurement]) -> list[SummaryRow]:
    """Put the seeds of each network together.

    One seed gets the Wilson interval of its test examples; several get an interval over seeds, and
    over examples where answers were kept.
    """
    groups: dict[str, list[Measurement]] = {}
    for each in measurements:
        groups.setdefault(each.name, []).append(each)
    rows = []
    for name, group in groups.items():
        first = group[0].facts
        if len(group) == 1:
            accuracy = statistics.proportion(first["test"]["correct"], first["test"]["total"])
        else:
            accuracy = interval(average({each.seed: each.facts for each in group}))

        def typical(key: str, group: list[Measurement] = group) -> int:
            return round(fmean(each.facts[key] for each in group))

        rows.append(
            SummaryRow(
                name=name,
                seeds=len(group),
                accuracy=accuracy,
                sparsity=1 - fmean(each.kept_fraction for each in group),
                parameters=first["parameters"],
                nonzero=typical("nonzero"),
                multiply_adds=typical("multiply_adds"),
                dense_multiply_adds=first["dense_multiply_adds"],
                bytes=typical("bytes"),
                dense_bytes=first["dense_bytes"],
                epochs=group[0].epochs,
                seconds=fmean(each.seconds for each in group),
            )
        )
    return rows


def facts_by_seed(measurements: Sequence[Measurement], name: str) -> dict[int, dict[str, Any]]:
    """Pick what was measured of the network of one name, by seed: what `contrast` compares.

    Example:
        >>> facts_by_seed([], "dense")
        {}
    """
    return {seed: each.facts for seed, each in by_seed(measurements, name).items()}


def kept_answers(measured: Measurement) -> dict[str, Any]:
    """Pick the answers to each example, for a row of a results file; empty of older stores.

    Losses of examples of several targets are rounded to half precision: a file has those of all
    networks, and the store still has them in full.
    """
    return {
        name: _rounded(value) if "targets" in value and "loss" in value else value
        for name, value in measured.facts.items()
        if name.endswith("_answers")
    }


def _rounded(facts: Mapping[str, Any]) -> dict[str, Any]:
    answers = Answers.read(facts)
    losses = answers.of("loss")
    # What half precision cannot hold would be infinite, and a difference of two such is no number.
    if not (np.abs(losses) <= np.finfo(np.float16).max).all():
        return answers.facts()
    return replace(answers, loss=losses.astype(np.float16)).facts()


def by_seed(measurements: Sequence[Measurement], name: str) -> dict[int, Measurement]:
    """Pick the network of one name, by seed.

    Example:
        >>> by_seed([], "dense")
        {}
    """
    return {each.seed: each for each in measurements if each.name == name}
