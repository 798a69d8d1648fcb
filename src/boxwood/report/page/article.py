"""Put the parts of one study together: what was asked, what came out, and how sure that is."""

from collections.abc import Callable, Sequence

from boxwood.core.errors import BoxwoodError
from boxwood.report.checklist import Item, Reported, checklist, named
from boxwood.report.citation import bibtex, papers, sources
from boxwood.report.page.cautions import cautions
from boxwood.report.page.comparison import Comparison, comparison_figure
from boxwood.report.page.layers import NETWORK, layer_figure, layered, sensitivity_figure
from boxwood.report.page.metrics import (
    COSTS,
    KEPT,
    TEST,
    VALIDATION,
    Latencies,
    Metric,
    Network,
    against,
    baseline,
    further,
    latency,
    networks,
    percent,
    points,
    times_fewer,
)
from boxwood.report.page.network_tables import accuracy_table, cost_table
from boxwood.report.page.parts import (
    Article,
    Card,
    Cards,
    Column,
    Note,
    Notes,
    Part,
    Pick,
    Section,
    Table,
    Verbatim,
)
from boxwood.report.page.pictures import PRUNED, histogram_figure, mask_gallery, pairs
from boxwood.report.page.provenance import environment_table, recipe_table, run_table
from boxwood.report.page.reading import Study, number
from boxwood.report.page.trade_off import chosen, trade_off
from boxwood.report.page.training import BRANCH, fact_table, other_figures, training_figure
from boxwood.report.study import Finding, Measurement

Judge = Callable[[tuple[Measurement, ...]], Sequence[Finding]]
_MARGIN = 0.005
"""How much validation accuracy the highlighted network may lose against the dense one."""


def article(
    study: Study,
    *,
    name: str,
    together: Sequence[Study],
    judge: Judge | None = None,
    measured: Latencies | None = None,
    compared: Comparison | None = None,
) -> Article:
    """Describe one study.

    Args:
        study: its runs.
        name: unique within the page.
        together: all studies of the page, which one of ShrinkBench's rules counts.
        judge: turns measurements into verdicts, as that of an `Experiment` does.
        measured: latencies by key of a measurement.
        compared: two recipes of the study side by side.
    """
    found = networks(study)
    dense = baseline(found)
    spent = [*COSTS, latency(measured or {})]
    costs = [metric for metric in spent if any(each.values(metric) for each in found)]
    worths = [TEST, VALIDATION, *further(study.measurements)]
    worths = [metric for metric in worths if any(each.values(metric) for each in found)]
    sections = [
        _summary(study, found, dense, judge),
        _compared(compared),
        _results(found, dense, costs, worths),
        _inside(study, found),
        _weights(study),
        _course(study),
        _rules(study, found, dense, together, measured or {}),
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


def _summary(
    study: Study, found: Sequence[Network], dense: Network | None, judge: Judge | None
) -> Section:
    best = chosen(found, dense, _MARGIN)
    parts: list[Part] = []
    cards = _cards(dense, best)
    if cards:
        parts.append(Cards(cards))
    notes = cautions(study, found, dense)
    parts.append(
        Notes("Before you believe it", notes or [Note("fine", "Nothing was found to warn of.")])
    )
    if judge is not None:
        parts.append(_verdicts(study, judge))
    text = (
        "No network has been measured yet."
        if not found
        else _sentence(dense, best, pruned=any(not each.dense for each in found))
    )
    return Section("summary", "Summary", text, parts)


def _compared(compared: Comparison | None) -> Section:
    if compared is None:
        return Section("comparison", "", "", ())
    title = f"{compared.a} against {compared.b}"
    return Section("comparison", title, compared.summary, [comparison_figure(compared)])


def _sentence(dense: Network | None, best: Network | None, *, pruned: bool) -> str:
    if dense is None:
        return "No dense network was measured, so there is nothing to compare with."
    if best is None and not pruned:
        return "Nothing is pruned here: all networks have their full size."
    if best is None:
        return (
            f"No pruned network came within {100 * _MARGIN:g} points of the dense network's "
            f"validation accuracy."
        )
    compared = against(best, dense, TEST)
    kept = best.mean(KEPT)
    if compared is None or kept is None:
        return ""
    difference = compared.difference
    sure = (
        f" (95 % interval {points(difference.low)} to {points(difference.high)}, {difference.n} seeds)"
        if difference.low is not None and difference.high is not None
        else " (one seed, no interval)"
    )
    return (
        f"{best.name} is the smallest network within {100 * _MARGIN:g} points of the dense one on "
        f"validation. It has {times_fewer(1 / kept)} weights, and on test it differs from the dense "
        f"network by {points(difference.estimate)} points{sure}."
    )


def _cards(dense: Network | None, best: Network | None) -> list[Card]:
    cards = []
    for network, label in ((dense, "dense"), (best, best.name if best else "")):
        interval = network.interval(TEST) if network else None
        if network is None or interval is None:
            continue
        ends = (
            f"95 %: {percent(interval.low)} to {percent(interval.high)}"
            if interval.low is not None and interval.high is not None
            else "no interval"
        )
        seeds = f"{network.seeds} seed{'s' if network.seeds != 1 else ''}"
        cards.append(
            Card(percent(interval.estimate), f"test accuracy, {label}", f"{ends}, {seeds}")
        )
    if best is None:
        return cards
    for whole, part, label in (
        ("weights", "kept", "weights"),
        ("dense_multiply_adds", "multiply_adds", "multiply-adds (theoretical)"),
        ("dense_bytes", "bytes", "bytes on disk"),
    ):
        pairs_ = [(number(m.facts.get(whole)), number(m.facts.get(part))) for m in best.members]
        ratios = [dense_ / left for dense_, left in pairs_ if dense_ and left]
        if ratios:
            ratio = sum(ratios) / len(ratios)
            cards.append(Card(f"{ratio:.1f}×", f"fewer {label}", best.name))
    return cards


def _verdicts(study: Study, judge: Judge) -> Table | Notes:
    """Judge the seeds that are complete: an unfinished seed would be compared with nothing."""
    unfinished = {run.seed for run in study.runs if run.done < len(run.steps)}
    whole = tuple(each for each in study.measurements if each.seed not in unfinished)
    try:
        findings = judge(whole)
    except (KeyError, BoxwoodError) as error:
        text = "The verdicts need networks that are not measured here."
        return Notes("Verdicts", [Note("mild", text, (str(error),))])
    words = {True: "holds", False: "fails", None: "undecided"}
    held, failed = (sum(f.held is word for f in findings) for word in (True, False))
    return Table(
        "verdicts",
        f"Verdicts: {held} of {len(findings)} hold, {failed} fail",
        (
            Column("status", "verdict"),
            Column("claim", "claim"),
            Column("evidence", "evidence"),
        ),
        [{"status": words[f.held], "claim": f.claim, "evidence": f.evidence} for f in findings],
    )


def _results(
    found: Sequence[Network],
    dense: Network | None,
    costs: Sequence[Metric],
    worths: Sequence[Metric],
) -> Section:
    parts: list[Part] = []
    if costs and worths:
        parts.append(trade_off(found, dense, costs, worths))
    elif found:
        parts.append(accuracy_table(found, dense))
    if found:
        extra = [m for m in costs if m.name in ("energy", "latency")]
        parts.append(
            cost_table(found, [*extra, *(m for m in worths if m not in (TEST, VALIDATION))])
        )
    return Section("results", "What was gained, and what it cost", "", parts)


def _inside(study: Study, found: Sequence[Network]) -> Section:
    parts: list[Part] = []
    figure = layer_figure(found)
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


def _course(study: Study) -> Section:
    parts: list[Part] = []
    trained, facts = training_figure(study), fact_table(study)
    ordered = _longest_first(study)
    if trained is not None or facts is not None:
        parts.append(Pick(BRANCH, "Recipe", ordered))
    parts += [part for part in (trained, facts) if part is not None]
    for figure in other_figures(study):
        rows = figure.table.rows
        names = list(dict.fromkeys(str(row[figure.picked_by]) for row in rows))
        parts += [Pick(figure.picked_by, "Recipe", names), figure]
    return Section("training", "Training", "", parts)


def _rules(
    study: Study,
    found: Sequence[Network],
    dense: Network | None,
    together: Sequence[Study],
    measured: Latencies,
) -> Section:
    if not found:
        return Section("rules", "", "", ())
    recipes = [dict(step.spec) for run in study.runs for step in run.steps]
    curves: dict[str, int] = {}
    for each in found:
        if not each.dense:
            curves[each.curve] = curves.get(each.curve, 0) + 1
    said = dense and dense.interval(TEST)
    wanted = {"parameters", "nonzero", "multiply_adds", "dense_multiply_adds"}
    facts = [m.facts for m in study.measurements]
    items = checklist(
        Reported(
            model=study.model,
            data=study.data,
            pairs=[(each.model, each.data) for each in together],
            checkpoint=study.runs[0].genesis.get("checkpoint_sha256"),
            dense=f"{said:.2%}" if said else "",
            sizes=all(wanted <= set(each) for each in facts),
            index_bytes=all("bytes" in each for each in facts),
            points=curves,
            seeds={each.name: each.seeds for each in found},
            criteria=named(recipes, "criterion"),
            scopes=named(recipes, "scope"),
            validation=all(each.values(VALIDATION) for each in found),
            classes_allow_top5=None,
            top5=any("top5" in name for each in facts for name in each),
            latency=any(m.key in measured for m in study.measurements),
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
    words = {True: "met", False: "not met", None: "cannot tell"}
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
        "the keys stand beside every number on this page.",
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
