"""Where every number comes from: recipes, runs with their keys, machines and versions."""

from collections.abc import Mapping, Sequence
from typing import Any

from boxwood._internal.report.page.document import Column, Table
from boxwood._internal.report.page.store_reader import Run, Study, short
from boxwood._internal.report.study import Step
from boxwood._internal.report.tables import human_seconds


def phase_words(step: Step) -> str:
    """Say what a phase is in a few words, from its spec alone.

    Example:
        >>> phase_words(Step("", {"is": "a:Prune", "sparsity": 0.9}, None))
        'Prune to 90 %'
    """
    training, sparsity = step.spec.get("training"), step.spec.get("sparsity")
    if isinstance(training, Mapping):
        length = (
            f"{training['steps']} steps"
            if training.get("steps") is not None
            else f"{training.get('epochs')} epochs"
        )
        return f"{step.kind} {length}"
    if isinstance(sparsity, float):
        return f"{step.kind} to {100 * sparsity:.4g} %"
    return step.kind


def recipe_table(study: Study) -> Table:
    """Every phase of every recipe, with its settings and its key for the first seed."""
    rows = [
        {
            "branch": branch,
            "step": index,
            "phase": phase_words(step),
            "label": step.label,
            "settings": _settings(step),
            "key": step.key[:8],
            "done": "yes" if step.record is not None else "no",
        }
        for branch, runs in study.branches.items()
        for index, step in enumerate(runs[0].steps, 1)
    ]
    return Table(
        "recipes",
        f"What was asked for: every phase of every recipe, keys of seed {study.runs[0].seed}",
        (
            Column("branch", "branch"),
            Column("step", "#", number=True),
            Column("phase", "phase"),
            Column("label", "label"),
            Column("settings", "settings"),
            Column("done", "done"),
            Column("key", "key"),
        ),
        rows,
    )


def run_table(study: Study) -> Table:
    """Every run, how much of it is done, and its last key."""
    rows = [
        {
            "run": run.name,
            "seed": run.seed,
            "phases": len(run.steps),
            "done": run.done,
            "seconds": run.seconds,
            "key": run.key,
            "data": _data(run)[:8],
            "store": run.store.root.name,
        }
        for run in study.runs
    ]
    return Table(
        "runs",
        "Every run; “boxwood runs show KEY” prints all that is written about a phase",
        (
            Column("run", "run"),
            Column("seed", "seed", number=True),
            Column("done", "phases done", number=True),
            Column("phases", "of", number=True),
            Column("seconds", "time", human_seconds, number=True),
            Column("data", "data"),
            Column("store", "store"),
            Column("key", "key of the last phase"),
        ),
        rows,
    )


def environment_table(study: Study) -> Table:
    """Each machine and set of versions that made phases, and how many."""
    counted: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for record in _records(study.runs).values():
        about = {k: str(v) for k, v in record["provenance"].items() if k != "seconds"}
        entry = counted.setdefault(tuple(sorted(about.items())), [0, 0.0])
        entry[0] += 1
        entry[1] += record["provenance"].get("seconds", 0.0)
    names = list(dict.fromkeys(name for about in counted for name, _ in about))
    rows = [
        {**dict(about), "phases": int(entry[0]), "seconds": entry[1]}
        for about, entry in counted.items()
    ]
    return Table(
        "environment",
        "Machines and versions that made the phases",
        (
            Column("phases", "phases", number=True),
            Column("seconds", "time", human_seconds, number=True),
            *(Column(name, name) for name in names),
        ),
        rows,
    )


def _records(runs: Sequence[Run]) -> dict[str, Mapping[str, Any]]:
    steps = [step for run in runs for step in (run.start, *run.steps)]
    return {step.key: step.record for step in steps if step.record is not None}


def _data(run: Run) -> str:
    for step in (run.start, *run.steps):
        if step.record is not None:
            return str(step.record.get("data", ""))
    return ""


def _settings(step: Step) -> str:
    parts = []
    for name, value in step.spec.items():
        if name in ("is", "label", "sparsity") or value in (None, False, 0, "", []):
            continue
        if name == "training" and isinstance(value, Mapping):
            inner = short(value)
            parts.append(inner[inner.find("(") + 1 : -1])
        else:
            parts.append(f"{name}={short(value)}")
    return ", ".join(parts)
