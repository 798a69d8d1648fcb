"""Warnings: problems in a store that weaken its conclusions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from boxwood._internal.report.page.document import Note
from boxwood._internal.report.page.facts import layers_of
from boxwood._internal.report.page.fairness import fairness
from boxwood._internal.report.page.grids import on_edges
from boxwood._internal.report.page.metrics import KEPT, percent
from boxwood._internal.report.page.networks import Network, against, better, merit, yardstick
from boxwood._internal.report.page.store_reader import Study
from boxwood._internal.report.verdicts import disagree

_FEW = 3
_NEAR_COLLAPSE = 0.005
_SAME_LEVEL = 0.1
"""Two networks are of one sparsity when the weights they kept differ by less than this part."""


def warnings_of(study: Study, found: Sequence[Network], dense: Network | None) -> list[Note]:
    """List everything that limits what may be concluded, the gravest first."""
    notes = [
        *_test_used(study, found),
        *_collapsed(found),
        *_few_seeds(found),
        *_baseline(found, dense),
        *_contradicted(found, dense),
        *fairness(study, found, dense),
        *_unfinished(study),
        *_overlapping(found),
        *on_edges(study, found),
        *_machines(study),
    ]
    return sorted(notes, key=lambda note: note.severity != "serious")


def _test_used(study: Study, found: Sequence[Network]) -> Iterator[Note]:
    """Whether a phase chooses by test examples, or nothing but those could have been chosen by."""
    chosen = sorted(
        {
            f"{step.kind}: {path} = test"
            for run in study.runs
            for step in run.steps
            if not step.measures
            for path in _chooses_by_test(step.spec)
        }
    )
    if chosen:
        yield Note(
            "serious",
            "Test examples were used to select: their accuracy is no longer that of unseen data.",
            chosen,
        )
    by = yardstick(found)
    blind = [each.name for each in found if each.values(by.test) and not each.values(by.validation)]
    if blind:
        yield Note(
            "serious",
            f"No {by.validation.title}: whatever is chosen among these networks is chosen by test.",
            blind,
        )


def _chooses_by_test(spec: Any, path: str = "") -> Iterator[str]:
    if isinstance(spec, Mapping):
        for name, value in spec.items():
            if name != "label":
                yield from _chooses_by_test(value, f"{path}.{name}".strip("."))
    elif isinstance(spec, list):
        for value in spec:
            yield from _chooses_by_test(value, path)
    elif spec == "test":
        yield path


def _collapsed(found: Sequence[Network]) -> Iterator[Note]:
    gone, nearly = [], []
    for each in found:
        for member in each.members:
            for layer in layers_of(member.facts):
                kept = layer.kept / layer.weights
                said = f"{layer.name} of {each.name}, seed {member.seed} ({member.key[:8]})"
                if layer.kept == 0:
                    gone.append(said)
                elif kept < _NEAR_COLLAPSE:
                    nearly.append(f"{said}: {percent(kept)}")
    if gone:
        yield Note("serious", "Collapsed layers: no weight is left in them.", gone)
    if nearly:
        text = (
            f"Layers near collapse: less than {percent(_NEAR_COLLAPSE)} of their weights are left."
        )
        yield Note("mild", text, nearly)


def _few_seeds(found: Sequence[Network]) -> Iterator[Note]:
    few = [f"{each.name} ({each.seeds})" for each in found if each.seeds < _FEW]
    if few:
        yield Note(
            "serious",
            f"Too few seeds: {len(few)} of {len(found)} networks have fewer than {_FEW}, so their "
            f"spread is unknown.",
            few,
        )


def _baseline(found: Sequence[Network], dense: Network | None) -> Iterator[Note]:
    if found and dense is None:
        text = "No dense network was measured: what pruning cost cannot be said."
        yield Note("serious", text, ("Add a branch that trains and measures without pruning.",))


def _contradicted(found: Sequence[Network], dense: Network | None) -> Iterator[Note]:
    """Networks that gain on test what they lose on validation, or the other way round."""
    by, named = yardstick(found), []
    for each in found:
        if dense is None or each is dense or each.seeds < _FEW:
            continue
        test, validation = (against(each, dense, metric) for metric in (by.test, by.validation))
        if test and validation and disagree(test.difference, validation.difference):
            there = by.validation.change(validation.difference.estimate)
            here = by.test.change(test.difference.estimate)
            named.append(f"{each.name}: {here} on test, {there} on validation")
    if named:
        text = (
            "Test and validation disagree about the difference to the dense network, in sign or beyond "
            "their intervals: a claim about it needs more examples."
        )
        yield Note("mild", text, named)


def _unfinished(study: Study) -> Iterator[Note]:
    open_ = [
        f"{run.name} ({run.done} of {len(run.steps)} phases)"
        for run in study.runs
        if run.done < len(run.steps)
    ]
    if open_:
        text = f"{len(open_)} of {len(study.runs)} runs are not finished; this page shows what is."
        yield Note("mild", text, open_)
    if study.replaced:
        text = f"{len(study.replaced)} runs were asked for again with another recipe under the same name; the last one is shown."
        yield Note("mild", text, sorted(set(study.replaced)))


def _overlapping(found: Sequence[Network]) -> Iterator[Note]:
    """At each sparsity, whether the best can be distinguished from the next best."""
    test = yardstick(found).test
    pruned = [each for each in found if not each.dense and each.values(test) and each.mean(KEPT)]
    pruned.sort(key=lambda each: each.mean(KEPT) or 0.0, reverse=True)
    levels: list[list[Network]] = []
    for each in pruned:
        kept = each.mean(KEPT) or 0.0
        if levels and (levels[-1][0].mean(KEPT) or 0.0) * (1 - _SAME_LEVEL) <= kept:
            levels[-1].append(each)
        else:
            levels.append([each])
    said = []
    for level in levels:
        ranked = sorted(level, key=lambda each: -merit(each, test))[:2]
        compared = against(ranked[0], ranked[1], test) if len(ranked) == 2 else None
        if compared is None or better(compared, test) > 0:
            continue
        difference = compared.difference
        low, high = difference.low, difference.high
        if low is None or high is None:
            continue
        said.append(
            f"at {percent(ranked[0].mean(KEPT) or 0.0)} kept, {ranked[0].name} over {ranked[1].name} "
            f"by {test.change(difference.estimate)} {test.unit}".rstrip()
            + f" [{test.change(low)}, {test.change(high)}]"
        )
    if said:
        yield Note(
            "mild",
            f"Intervals that overlap: at {len(said)} of {len(levels)} sparsities the best network "
            f"cannot be distinguished from the next best.",
            said,
        )


def _machines(study: Study) -> Iterator[Note]:
    kinds = {
        (
            step.record["provenance"].get("processor"),
            step.record["provenance"].get("torch"),
            step.record["provenance"].get("threads"),
            step.record["provenance"].get("device", "cpu"),
        )
        for run in study.runs
        for step in run.steps
        if step.record is not None
    }
    if len(kinds) > 1:
        text = f"Made on {len(kinds)} different machines, devices, versions of PyTorch or numbers of threads: times do not compare."
        said = [", ".join(map(str, kind)) for kind in sorted(kinds, key=str)]
        yield Note("mild", text, said)
