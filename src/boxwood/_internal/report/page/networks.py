"""The networks of a study, each over its seeds, and the difference of two of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

from boxwood._internal.report import statistics
from boxwood._internal.report.contrasts import contrast
from boxwood._internal.report.estimates import Estimate, interval
from boxwood._internal.report.page.facts import counted
from boxwood._internal.report.page.metrics import KEPT, Metric, Yardstick, judged_by
from boxwood._internal.report.page.store_reader import Study
from boxwood._internal.report.significance import above, mcnemar
from boxwood._internal.report.statistics import Interval, PairedComparison
from boxwood._internal.report.study import Measurement
from boxwood._internal.train.answers import Answers


@dataclass(frozen=True)
class Network:
    """One network of a study, over its seeds.

    Args:
        name: branch and label.
        curve: name of the line that it is a point of.
        members: one measurement per seed, by seed.
    """

    name: str
    curve: str
    members: tuple[Measurement, ...] = field(repr=False)

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.members)

    @property
    def keys(self) -> str:
        """Keys of its measurements, eight digits of each."""
        return " ".join(each.key[:8] for each in self.members)

    def values(self, metric: Metric) -> list[float]:
        """The metric for each seed that has it."""
        found = (metric.of(each) for each in self.members)
        return [value for value in found if value is not None]

    def mean(self, metric: Metric) -> float | None:
        """Mean over seeds, to place a point; the interval belongs next to it."""
        values = self.values(metric)
        return fmean(values) if values else None

    def sd(self, metric: Metric) -> float | None:
        """Standard deviation over seeds; None for less than two."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None

    def interval(self, metric: Metric) -> Interval | None:
        """Over seeds, and over examples too where answers were kept; Wilson's for a single seed."""
        values = self.values(metric)
        if not values:
            return None
        answers = self.members[0].facts.get(metric.name)
        if len(values) == 1 and counted(answers):
            return statistics.proportion(answers["correct"], answers["total"])
        over_both = _over_both(metric, [(1.0, self.members)])
        return statistics.mean(values) if over_both is None else interval(over_both)

    @property
    def dense(self) -> bool:
        """Whether nothing is pruned."""
        return all(KEPT.of(each) == 1 for each in self.members)


def networks(study: Study) -> list[Network]:
    """Put the seeds of each measured network together, in the order of the study, each once."""
    groups: dict[str, list[Measurement]] = {}
    seen: set[str] = set()
    for each in study.measurements:
        # Recipes that begin alike share their first networks, which are shown once.
        if each.key not in seen:
            groups.setdefault(each.name, []).append(each)
        seen.add(each.key)
    curves = _curves(study)
    return [
        Network(name, curves[group[0].branch], tuple(sorted(group, key=lambda m: m.seed)))
        for name, group in groups.items()
    ]


def _curves(study: Study) -> dict[str, str]:
    """Name the line of each branch: its own, or one for branches that differ by a number alone.

    A recipe that makes one network for each sparsity is a curve of one-point branches.
    """
    names = {branch: branch for branch in study.branches}
    stems: dict[str, list[str]] = {}
    for branch, runs in study.branches.items():
        if max(len(run.measurements) for run in runs) == 1:
            words = [word for word in branch.split() if not _is_number(word)]
            stems.setdefault(" ".join(words), []).append(branch)
    for stem, branches in stems.items():
        if len(branches) > 1 and stem:
            names |= dict.fromkeys(branches, stem)
    return names


def _is_number(word: str) -> bool:
    try:
        float(word.rstrip("%x×"))
    except ValueError:
        return False
    return True


def yardstick(found: Sequence[Network]) -> Yardstick:
    """Find by what networks are judged."""
    return judged_by(member for each in found for member in each.members)


def baseline(found: Sequence[Network]) -> Network | None:
    """The network that all are compared with: the unpruned one of most seeds, best on validation.

    A study may train dense networks badly on purpose; pruned ones must not look good next to those.
    """
    validation = yardstick(found).validation
    dense = [network for network in found if network.dense]
    return max(dense, key=lambda each: (each.seeds, merit(each, validation)), default=None)


def merit(network: Network, metric: Metric) -> float:
    """Order networks: more is better whatever the metric; one without comes last."""
    mean = network.mean(metric)
    if mean is None:
        return float("-inf")
    return -mean if metric.lower else mean


def chosen(found: Sequence[Network], dense: Network | None) -> Network | None:
    """Pick the smallest network that is near the dense one on validation."""
    by = yardstick(found)
    if dense is None or (anchor := dense.mean(by.validation)) is None:
        return None
    near = [
        each
        for each in found
        if not each.dense
        and each.mean(KEPT) is not None
        and (checked := each.mean(by.validation)) is not None
        and by.near(checked, anchor)
    ]
    return min(near, key=lambda each: each.mean(KEPT) or 0.0, default=None)


def front(found: Sequence[Network], cost: Metric) -> set[str]:
    """Name the networks that no other beats on validation at no higher cost.

    Validation decides, because whoever picks from the front by test has used the test examples to
    choose.
    """
    by = yardstick(found).validation
    placed = [
        (c, -merit(each, by), each.name)
        for each in found
        if (c := each.mean(cost)) is not None and each.values(by)
    ]
    best, names = float("inf"), set()
    for _, negative, name in sorted(placed):
        if negative < best:
            best = negative
            names.add(name)
    return names


def against(network: Network, other: Network, metric: Metric) -> PairedComparison | None:
    """Compare two networks on the seeds that both have; None without any.

    Differences are ``network - other``; wins are seeds on which ``network`` is better, and the
    sign test asks whether it is, whichever direction that is.
    """
    mine = {m.seed: metric.of(m) for m in network.members}
    theirs = {m.seed: metric.of(m) for m in other.members}
    pairs = [(mine[s], theirs[s]) for s in mine if s in theirs]
    whole = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not whole:
        return None
    sign = -1 if metric.lower else 1
    found = statistics.paired_difference([sign * a for a, _ in whole], [sign * b for _, b in whole])
    shared = mine.keys() & theirs.keys()
    both = [[m for m in each.members if m.seed in shared] for each in (network, other)]
    over_both = _over_both(metric, list(zip((sign, -sign), both, strict=True)))
    if len(shared) == 1 and metric.name in _OF_EXAMPLES:
        found = replace(found, t_p=_of_single_networks(*both, part=_OF_EXAMPLES[metric.name][0]))
    if over_both is not None:
        p = above(over_both)
        found = replace(found, difference=interval(over_both), t_p=2 * min(p, 1 - p))
    return _reversed(found) if metric.lower else found


def _of_single_networks(
    a: Sequence[Measurement], b: Sequence[Measurement], *, part: str
) -> float | None:
    """McNemar's test for two networks of one seed, where answers were kept."""
    facts = [each[0].facts.get(f"{part}_answers") for each in (a, b)]
    if None in facts:
        return None
    ours, theirs = (Answers.read(each) for each in facts if each is not None)
    if (ours.targets != 1).any() or len(ours.right) != len(theirs.right):
        return None
    return mcnemar(ours.right.astype(bool), theirs.right.astype(bool))


_OF_EXAMPLES = {
    f"{part}{end}": (part, what)
    for part in ("test", "validation")
    for end, what in (("", "right"), ("_loss", "loss"))
}


def _over_both(
    metric: Metric, terms: Sequence[tuple[float, Sequence[Measurement]]]
) -> Estimate | None:
    """Estimate over seeds and examples; None where answers were not kept, or there is one seed."""
    part, what = _OF_EXAMPLES.get(metric.name, ("", ""))
    facts = [(float(sign), {m.seed: m.facts for m in members}) for sign, members in terms]
    if not part or any(f"{part}_answers" not in f for _, group in facts for f in group.values()):
        return None
    found = contrast(facts, part=part, what=what, scale=1.0)
    return found if found is not None and found.examples and found.seeds > 1 else None


def _reversed(found: PairedComparison) -> PairedComparison:
    gain = found.difference
    low, high = gain.low, gain.high
    difference = replace(
        gain,
        estimate=-gain.estimate,
        low=None if high is None else -high,
        high=None if low is None else -low,
    )
    return replace(
        found, difference=difference, differences=tuple(-each for each in found.differences)
    )


def better(found: PairedComparison, metric: Metric) -> int:
    """Say which of two is better by the interval: 1 the first, -1 the second, 0 neither."""
    low, high = found.difference.low, found.difference.high
    if low is None or high is None:
        return 0
    sign = (low > 0) - (high < 0)
    return -sign if metric.lower else sign
