"""Whether the comparison in a study is fair: equal training, a good baseline, equal counts."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boxwood._internal.recipes.training_budget import Amount, accumulated_training
from boxwood._internal.report.page.document import Note
from boxwood._internal.report.page.facts import number
from boxwood._internal.report.page.metrics import KEPT, percent
from boxwood._internal.report.page.networks import Network, against, better, merit, yardstick
from boxwood._internal.report.page.store_reader import Study
from boxwood._internal.report.study import Step

_UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Made:
    """How a measured network came about.

    Args:
        steps: optimizer steps that made its weights; None where they are not known.
        asked: which sparsity, of which parameters, was asked for last; empty for none.
        dead_removed: whether dead units were removed afterwards.
    """

    steps: int | None
    asked: str
    dead_removed: bool


def fairness(study: Study, found: Sequence[Network], dense: Network | None) -> Iterator[Note]:
    """Note what made the comparison of some networks unequal."""
    made = _made(study)
    yield from _training(study, found, dense, made)
    yield from _weak_baseline(found, dense)
    yield from _counts(found, made)


def _training(
    study: Study, found: Sequence[Network], dense: Network | None, made: Mapping[str, _Made]
) -> Iterator[Note]:
    base = None if dense is None else made[dense.members[0].key].steps
    if dense is not None and base is not None:
        pruned = [each for each in found if not each.dense]
        counts = {each.name: made[each.members[0].key].steps or 0 for each in pruned}
        longer = {name: steps for name, steps in counts.items() if steps > base}
        if longer:
            yield Note(
                "serious",
                f"The dense network ({dense.name}) was trained for {base:,} optimizer steps, fewer "
                f"than {len(longer)} of the pruned networks: some of their accuracy may come from "
                f"that. Train it as long: dense(train, as_long_as=recipe).",
                [f"{name}: {steps:,} steps" for name, steps in longer.items()],
            )
    lengths = _lengths(study, found, made)
    if dense is not None and base is not None and base > max(lengths, default=base):
        lengths[base] = [dense.name]
    if len(lengths) > 1:
        yield Note(
            "mild",
            f"Unequal training: from {min(lengths):,} to {max(lengths):,} optimizer steps are "
            f"before the last networks of the recipes.",
            [f"{steps:,} steps: {', '.join(lengths[steps])}" for steps in sorted(lengths)],
        )


def one_budget(study: Study, found: Sequence[Network]) -> bool:
    """Say whether the last networks of all recipes that prune had as many steps.

    Example:
        >>> one_budget(Study("", "", ()), [])
        True
    """
    return len(_lengths(study, found, _made(study))) < 2


def _lengths(
    study: Study, found: Sequence[Network], made: Mapping[str, _Made]
) -> dict[int, list[str]]:
    """Group the recipes that prune by the optimizer steps before their last networks."""
    lengths: dict[int, list[str]] = {}
    keys = {member.key for each in found if not each.dense for member in each.members}
    for branch, runs in study.branches.items():
        last = runs[0].measurements[-1:]
        steps = made[last[0].key].steps if last and last[0].key in keys else None
        if steps is not None:
            lengths.setdefault(steps, []).append(branch)
    return lengths


def _weak_baseline(found: Sequence[Network], dense: Network | None) -> Iterator[Note]:
    """Pruned networks that are better than the dense one, by the interval or by more than a margin."""
    by = yardstick(found)
    if dense is None or (base := dense.mean(by.test)) is None:
        return
    above, clearly = [], False
    for each in found:
        mean = each.mean(by.test)
        if each.dense or mean is None or merit(each, by.test) <= merit(dense, by.test):
            continue
        compared = against(each, dense, by.test)
        beyond = not by.near(base, mean)
        if beyond or (compared is not None and better(compared, by.test) > 0):
            above.append(f"{each.name}: {by.test.show(mean)}, dense {by.test.show(base)}")
            clearly |= beyond
    if above:
        yield Note(
            "serious" if clearly else "mild",
            f"The dense network ({dense.name}) is below {len(above)} of the networks that were "
            f"pruned: it may be trained too little or tuned badly, and then what pruning costs is "
            f"more than is shown.",
            above,
        )


def _counts(found: Sequence[Network], made: Mapping[str, _Made]) -> Iterator[Note]:
    """Networks asked for one sparsity that have other counts, as only some lost their dead units."""
    levels: dict[str, list[Network]] = {}
    for each in found:
        if asked := made[each.members[0].key].asked:
            levels.setdefault(asked, []).append(each)
    said = []
    for level in levels.values():
        without = [each for each in level if not made[each.members[0].key].dead_removed]
        for each in level:
            kept = each.mean(KEPT)
            other = [
                o for o in without if None not in (o.mean(KEPT), kept) and o.mean(KEPT) != kept
            ]
            if made[each.members[0].key].dead_removed and other and kept is not None:
                said.append(
                    f"{each.name} without dead units keeps {percent(kept)}, "
                    + ", ".join(f"{o.name} {percent(o.mean(KEPT) or 0.0)}" for o in other)
                )
    if said:
        yield Note(
            "mild",
            "Unequal counts: dead units were removed in some recipes only, so networks that were "
            "pruned to one sparsity differ in what is left. Compare them by what they keep, or "
            "remove dead units in all.",
            said,
        )


def _made(study: Study) -> dict[str, _Made]:
    found: dict[str, _Made] = {}
    for run in study.runs:
        amounts = accumulated_training(
            [step.spec for step in run.steps], [_taken(step) for step in run.steps]
        )
        asked, dead = "", False
        for step, amount in zip(run.steps, amounts, strict=True):
            if wanted := _asked(step.spec):
                asked, dead = wanted, False
            dead |= step.kind == "RemoveDead"
            if step.measures:
                steps = None if amount[_UNKNOWN] else amount["steps"]
                found.setdefault(step.key, _Made(steps, asked, dead))
    return found


def _taken(step: Step) -> Amount:
    """Read how many optimizer steps a phase took off the history that it wrote."""
    training, history = step.spec.get("training"), step.facts.get("history")
    if not isinstance(training, Mapping):
        return Counter()
    last = history[-1] if isinstance(history, list) and history else None
    end = number(last.get("step")) if isinstance(last, Mapping) else None
    if end is None:
        return Counter({_UNKNOWN: 0 if step.facts.get("epochs") == 0 else 1})
    first = number(training.get("start_at")) or 0.0
    if first and training.get("steps") is None:
        # The end was written down in steps, the settings count epochs.
        until = number(training.get("stop_at")) or number(training.get("epochs")) or 1.0
        first *= end / until
    return Counter(steps=round(end - first))


def _asked(spec: Mapping[str, Any]) -> str:
    """Name the sparsity that a phase prunes to, and of which parameters."""
    training = spec.get("training")
    inside = training.get("pruning") if isinstance(training, Mapping) else None
    policy = inside.get("policy") if isinstance(inside, Mapping) else None
    schedule = policy.get("schedule") if isinstance(policy, Mapping) else None
    final = schedule.get("final") if isinstance(schedule, Mapping) else None
    layers = inside.get("layers") if isinstance(inside, Mapping) else spec.get("layers")
    sparsity = final if number(final) is not None else spec.get("sparsity")
    if number(sparsity) is None:
        return ""
    return json.dumps([number(sparsity), layers], sort_keys=True)
