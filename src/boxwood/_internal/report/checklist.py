"""The rules of ShrinkBench for reporting a pruning result, checked on what a store holds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_POINTS = 5
_PAIRS = 3
_SEEDS = 3
_SMALL = ("mnist", "digits")
_FEW_CLASSES = 10
_CLASSES = {"digits": 10, "mnist": 10, "cifar10": 10, "cifar100": 100, "imagenet": 1000}
"""By words in the names of data sets; a store holds no number of classes."""


@dataclass(frozen=True)
class Item:
    """One rule, whether it is met (None where a store cannot say), and what shows it."""

    rule: str
    met: bool | None
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What the rules look at.

    Args:
        model: the network in short.
        data: the data set in short.
        pairs: (model, data) of all that is reported together.
        checkpoint: SHA-256 of the checkpoint it all started from, None where it was trained here.
        dense: accuracy of the unpruned network as text, empty where it was not measured.
        sizes: whether parameters and multiply-adds are there in absolute numbers, dense and pruned.
        index_bytes: whether bytes on disk are there, with their index.
        points: operating points of each curve.
        seeds: number of seeds of each network.
        criteria: names of the criteria used, such as ``magnitude``.
        scopes: names of the scopes used, such as ``global_``.
        validation: whether every network has a validation accuracy as well as one on test.
        judged_by: what the accuracies are, if they are none, such as perplexity.
        classes: how many there are; None where it is not known.
        top5: whether every network has its top-5 accuracy.
        latency: whether measured times are there, apart from the predicted ones.
        one_budget: whether all pruned networks were trained for as many steps.
    """

    model: str
    data: str
    pairs: Sequence[tuple[str, str]]
    checkpoint: str | None
    dense: str
    sizes: bool
    index_bytes: bool
    points: Mapping[str, int]
    seeds: Mapping[str, int]
    criteria: frozenset[str]
    scopes: frozenset[str]
    validation: bool
    judged_by: str
    classes: int | None
    top5: bool
    latency: bool
    one_budget: bool = True


def checklist(report: Reported) -> tuple[Item, ...]:
    """Hold a report to the rules.

    Example:
        >>> facts = Reported(model="lenet_5", data="mnist", pairs=[("lenet_5", "mnist")],
        ...     checkpoint=None, dense="98.9 %", sizes=True, index_bytes=True, points={"a": 6},
        ...     seeds={"a": 5}, criteria=frozenset({"magnitude"}), scopes=frozenset({"global_"}),
        ...     validation=True, judged_by="accuracy", classes=10, top5=False, latency=False)
        >>> [item.met for item in checklist(facts)]
        [True, True, True, False, True, False, True, True, False]

    Source: Blalock et al. (2020), "What is the state of neural network pruning?", section 6 and
    appendix B.
    """
    short = [f"{name} ({n})" for name, n in report.points.items() if n < _POINTS]
    few = [f"{name} ({n})" for name, n in report.seeds.items() if n < _SEEDS]
    pairs = sorted(set(report.pairs))
    large = [pair for pair in pairs if not _small(pair[1])]
    missing = _missing_baselines(report)
    return (
        Item(
            "Network, data and starting point are named, with the accuracy of the dense network",
            bool(report.dense),
            f"{report.model} on {report.data}, "
            + (f"from checkpoint {report.checkpoint[:12]}" if report.checkpoint else "trained from scratch")
            + (f", dense {report.dense}" if report.dense else ", dense network not measured"),
        ),
        Item(
            "Compression and theoretical speed-up are both given, with absolute numbers",
            report.sizes,
            "parameters, non-zero parameters and multiply-adds (one multiply-add is two FLOPs)"
            if report.sizes
            else "some networks lack counts; add a Measure phase",
        ),
        Item(
            f"Every curve has {_POINTS} or more operating points",
            not short and bool(report.points),
            _listed(short, f"{len(report.points)} curves"),
        ),
        Item(
            f"{_PAIRS} or more pairs of network and data set, not small ones alone",
            len(pairs) >= _PAIRS and bool(large),
            "; ".join(f"{model} on {data}" for model, data in pairs),
        ),
        Item(
            f"Mean and standard deviation over {_SEEDS} or more seeds",
            not few and bool(report.seeds),
            _listed(few, f"{min(report.seeds.values(), default=0)} or more seeds everywhere"),
        ),
        Item(
            "Random, global-magnitude and layer-magnitude baselines under the same budget",
            not missing and report.one_budget,
            (f"missing: {', '.join(missing)}" if missing else "all three are there")
            + ("" if report.one_budget else "; recipes train for different numbers of steps"),
        ),
        _top5(report),
        Item(
            "Chosen on validation, reported on test",
            report.validation,
            "every network has both; this page marks its Pareto front by validation"
            if report.validation
            else "some networks have no validation accuracy",
        ),
        Item(
            "Measured speed apart from predicted speed; bytes with their index",
            report.latency and report.index_bytes,
            ("measured latency is there" if report.latency else "no measured latency: speed-ups here are theoretical")
            + (", bytes include the index" if report.index_bytes else ", bytes on disk are missing"),
        ),
    )  # fmt: skip


def _top5(report: Reported) -> Item:
    if report.judged_by != "accuracy":
        met, evidence = True, f"does not apply: networks are judged by {report.judged_by}"
    elif report.top5:
        met, evidence = True, "both are there"
    elif report.classes is None:
        met, evidence = None, "top-1 only; the number of classes is not in the store"
    elif report.classes <= _FEW_CLASSES:
        met, evidence = True, f"too few classes for top-5: {report.classes}"
    else:
        met, evidence = False, f"top-1 only, of {report.classes} classes; measure again for top-5"
    return Item("Top-1, and top-5 where the classes allow it", met, evidence)


def classes_of(data: str, facts: Iterable[Mapping[str, Any]]) -> int | None:
    """Find how many classes there are: in accuracies by class, or by the name of the data set.

    Example:
        >>> classes_of("mine", [{"test_by_class": [1.0, 0.5]}]), classes_of("fashion_mnist", [])
        (2, 10)
        >>> classes_of("mine", [])
    """
    for each in facts:
        if isinstance(by_class := each.get("test_by_class"), list):
            return len(by_class)
    return next((classes for name, classes in _CLASSES.items() if name in data.lower()), None)


def _missing_baselines(report: Reported) -> list[str]:
    magnitude = any(name.startswith("magnitude") for name in report.criteria)
    wanted = {
        "random": any(name.startswith("random") for name in report.criteria),
        "global magnitude": magnitude and "global_" in report.scopes,
        "layer magnitude": magnitude and bool(report.scopes - {"global_"}),
    }
    return [name for name, there in wanted.items() if not there]


def _small(data: str) -> bool:
    return any(name in data.lower() for name in _SMALL)


def _listed(failing: Sequence[str], fine: str) -> str:
    return (
        fine
        if not failing
        else "fewer: "
        + ", ".join(failing[:6])
        + (f" and {len(failing) - 6} more" if len(failing) > 6 else "")
    )


def named(spec: Any, field: str) -> frozenset[str]:
    """Collect the last names of functions and classes that a spec holds under ``field``.

    Example:
        >>> sorted(named([{"allocation": {"function": "a.b:global_"}}, {"is": "x"}], "allocation"))
        ['global_']
    """
    found: set[str] = set()
    if isinstance(spec, Mapping):
        for key, value in spec.items():
            if key == field and isinstance(value, Mapping):
                found.add(_last(value))
            found |= named(value, field)
    elif isinstance(spec, list | tuple):
        for value in spec:
            found |= named(value, field)
    return frozenset(found)


def _last(value: Mapping[str, Any]) -> str:
    inner = value.get("function", value.get("is", "?"))
    while isinstance(inner, Mapping):
        inner = inner.get("function", "?")
    return str(inner).rpartition(":")[2]
