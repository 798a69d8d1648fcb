"""The sections of one study: what was asked, what came out, and how certain that is."""

from collections.abc import Sequence

from boxwood._internal.report.checklist import Item, Reported, checklist, classes_of, named
from boxwood._internal.report.citation import bibtex, papers, sources
from boxwood._internal.report.page.comparison import Comparison, comparison_figure
from boxwood._internal.report.page.document import (
    Article,
    Column,
    Note,
    Notes,
    Part,
    Pick,
    Section,
    Table,
    Verbatim,
)
from boxwood._internal.report.page.episodes import episode_figure
from boxwood._internal.report.page.fairness import one_budget
from boxwood._internal.report.page.layers import (
    NETWORK,
    layer_figure,
    layered,
    sensitivity,
    sensitivity_figure,
)
from boxwood._internal.report.page.metrics import (
    COSTS,
    KEPT,
    TOP5,
    VALIDATION_TOP5,
    Metric,
    latencies,
    qualities,
)
from boxwood._internal.report.page.network_tables import accuracy_table, cost_table, latency_table
from boxwood._internal.report.page.networks import Network, baseline, networks, yardstick
from boxwood._internal.report.page.pictures import PRUNED, histogram_figure, mask_gallery, pairs
from boxwood._internal.report.page.provenance import environment_table, recipe_table, run_table
from boxwood._internal.report.page.store_reader import Study
from boxwood._internal.report.page.summary import Judge, summary
from boxwood._internal.report.page.trade_off import trade_off
from boxwood._internal.report.page.training import (
    BRANCH,
    fact_table,
    other_figures,
    training_figure,
)
from boxwood._internal.runs.latency import Timings


def article(
    study: Study,
    *,
    name: str,
    together: Sequence[Study],
    judge: Judge | None = None,
    timings: Timings | None = None,
    compared: Comparison | None = None,
) -> Article:
    """Describe one study.

    Args:
        study: its runs.
        name: unique within the page.
        together: all studies of the page, which one of ShrinkBench's rules counts.
        judge: turns measurements into verdicts, as that of an `Experiment` does.
        timings: measured times by key of a measurement.
        compared: two recipes of the study side by side.
    """
    found = networks(study)
    dense = baseline(found)
    timings = timings or Timings()
    spent = [*COSTS, *latencies(timings)]
    costs = [metric for metric in spent if any(each.values(metric) for each in found)]
    sections = [
        summary(study, found, dense, judge),
        _compared(compared),
        _results(found, dense, costs, qualities(study.measurements), timings),
        _inside(study, found),
        _weights(study),
        _training(study),
        _rules(study, found, dense, together, timings),
        _origin(study),
        _citations(study),
    ]
    branches, seeds = len(study.branches), len(study.seeds)
    return Article(
        name=name,
        title=f"{study.model} on {study.data}",
        subtitle=(
            f"{branches} {'recipes' if branches != 1 else 'recipe'}, "
            f"{len(study.runs)} {'runs' if len(study.runs) != 1 else 'run'}, "
            f"seed{'s' if seeds != 1 else ''} {', '.join(map(str, study.seeds))}"
        ),
        sections=[section for section in sections if section.parts],
    )


def _compared(compared: Comparison | None) -> Section:
    if compared is None:
        return Section("comparison", "", "", ())
    title = f"{compared.a} against {compared.b}"
    return Section("comparison", title, compared.summary, [comparison_figure(compared)])


def _results(
    found: Sequence[Network],
    dense: Network | None,
    costs: Sequence[Metric],
    said: Sequence[Metric],
    timings: Timings,
) -> Section:
    parts: list[Part] = []
    if costs and said:
        parts.append(trade_off(found, dense, costs, said))
    elif found:
        parts.append(accuracy_table(found, dense))
    if found:
        by = yardstick(found)
        elsewhere = (by.test, by.validation, TOP5, VALIDATION_TOP5)
        extra = [m for m in costs if m.name == "energy"]
        parts.append(cost_table(found, [*extra, *(m for m in said if m not in elsewhere)]))
    timed = latency_table(found, timings)
    if timed is not None:
        parts.append(timed)
    text = "" if timed is None else _measured_with(timings)
    return Section("results", "What was gained, and what it cost", text, parts)


def _measured_with(timings: Timings) -> str:
    about = timings.about
    if not about:
        return ""
    return (
        f"Latency was measured with batch {about.get('batch')} on {about.get('threads')} "
        f"thread{'s' if about.get('threads') != 1 else ''} of {about.get('processor')}, "
        f"PyTorch {about.get('torch')}, each network in turn with the dense one."
    )


def _inside(study: Study, found: Sequence[Network]) -> Section:
    parts: list[Part] = []
    figure = layer_figure(found, sensitivity(study))
    if figure is not None:
        names = [each.name for each in layered(found)]
        smallest = min(layered(found), key=lambda each: each.mean(KEPT) or 1.0).name
        ordered = [smallest, *(name for name in names if name != smallest)]
        parts += [Pick(NETWORK, "Network", ordered), figure]
    scanned = sensitivity_figure(study)
    if scanned is not None:
        parts.append(scanned)
    return Section("layers", "Layer by layer", "", parts)


def _weights(study: Study) -> Section:
    found, damaged = pairs(study)
    parts: list[Part] = []
    figure, gallery = histogram_figure(found), mask_gallery(found)
    if found:
        order = _longest_first(study)
        ordered = sorted(found, key=lambda pair: order.index(pair.branch))
        parts.append(Pick(PRUNED, "Network", [pair.name for pair in ordered]))
    parts += [part for part in (figure, gallery) if part is not None]
    if damaged:
        parts.append(
            Notes("Not shown", [Note("serious", "A state cannot be read.", (d,)) for d in damaged])
        )
    text = "The last network of each recipe, for the first seed." if found else ""
    return Section("weights", "Weights and masks", text, parts)


def _longest_first(study: Study) -> list[str]:
    """The branches, the one with most phases in front: it is shown before anything is picked."""
    longest = max(study.branches, key=lambda branch: len(study.branches[branch][0].steps))
    return [longest, *(branch for branch in study.branches if branch != longest)]


def _training(study: Study) -> Section:
    parts: list[Part] = []
    trained, facts = training_figure(study), fact_table(study)
    ordered = _longest_first(study)
    if trained is not None or facts is not None:
        parts.append(Pick(BRANCH, "Recipe", ordered))
    parts += [part for part in (trained, facts) if part is not None]
    searched = episode_figure(study)
    for figure in (*(() if searched is None else (searched,)), *other_figures(study)):
        rows = figure.table.rows
        names = list(dict.fromkeys(str(row[figure.picked_by]) for row in rows))
        parts += [Pick(figure.picked_by, "Recipe", names), figure]
    return Section("training", "Training", "", parts)


def _rules(
    study: Study,
    found: Sequence[Network],
    dense: Network | None,
    together: Sequence[Study],
    timings: Timings,
) -> Section:
    if not found:
        return Section("rules", "", "", ())
    recipes = [dict(step.spec) for run in study.runs for step in run.steps]
    curves: dict[str, int] = {}
    for each in found:
        if not each.dense:
            curves[each.curve] = curves.get(each.curve, 0) + 1
    by = yardstick(found)
    said = dense and dense.interval(by.test)
    wanted = {"parameters", "nonzero", "multiply_adds", "dense_multiply_adds"}
    facts = [m.facts for m in study.measurements]
    items = checklist(
        Reported(
            model=study.model,
            data=study.data,
            pairs=[(each.model, each.data) for each in together],
            checkpoint=study.runs[0].genesis.get("checkpoint_sha256"),
            dense=f"{by.test.title} {said:{'.2%' if by.test.unit else '.2f'}}" if said else "",
            sizes=all(wanted <= set(each) for each in facts),
            index_bytes=all("bytes" in each for each in facts),
            points=curves,
            seeds={each.name: each.seeds for each in found},
            criteria=named(recipes, "criterion"),
            one_budget=one_budget(study, found),
            scopes=named(recipes, "allocation"),
            validation=all(each.values(by.validation) for each in found),
            judged_by=by.name,
            classes=classes_of(study.data, facts),
            top5=all(each.values(TOP5) for each in found),
            latency=any(m.key in timings.networks for m in study.measurements),
        )
    )
    return Section(
        "rules",
        "ShrinkBench's rules for reporting",
        "Blalock et al. (2020) found that pruning papers seldom compare. These are their rules, held "
        "to this study.",
        [_rule_table(items)],
    )


def _rule_table(items: Sequence[Item]) -> Table:
    words = {True: "met", False: "not met", None: "not known"}
    return Table(
        "rules",
        "Checklist",
        (
            Column("status", "status"),
            Column("rule", "rule"),
            Column("evidence", "what shows it"),
        ),
        [
            {"status": words[item.met], "rule": item.rule, "evidence": item.evidence}
            for item in items
        ],
    )


def _origin(study: Study) -> Section:
    return Section(
        "origin",
        "Where the numbers come from",
        "A key names a phase by what it is and by everything before it. The first eight digits of "
        "the keys are next to every number on this page.",
        [recipe_table(study), run_table(study), environment_table(study)],
    )


def _citations(study: Study) -> Section:
    specs = [[dict(run.genesis), *(dict(step.spec) for step in run.steps)] for run in study.runs]
    found = sources(specs)
    if not found:
        return Section("citation", "", "", ())
    rows = [
        {"used": each.used, "source": each.text, "papers": ", ".join(p.key for p in each.papers)}
        for each in found
    ]
    table = Table(
        "sources",
        "What this study uses, and where it comes from",
        (
            Column("used", "used"),
            Column("source", "source"),
            Column("papers", "entry"),
        ),
        rows,
    )
    count = len(papers(found))
    return Section(
        "citation",
        "Citation",
        f"Exactly what was used: {count} {'papers' if count != 1 else 'paper'}.",
        [table, Verbatim("BibTeX", bibtex(found))],
    )
