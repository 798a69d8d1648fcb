"""Run the study of the filter agent, write its figures and draw its curves.

python experiments/run_filter_agent.py conv_net --data fashion-mnist --seeds 5
python experiments/run_filter_agent.py residual_net --data fashion-mnist --seeds 5
python experiments/run_filter_agent.py segmentation --seeds 5
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from filter_agent import trend

from boxwood._internal.cli.execute import execute
from boxwood._internal.cli.target import resolve
from boxwood._internal.report.charts.curves import OVER_SEEDS, Curves, against_remaining, curve_rows
from boxwood._internal.report.charts.export import grid, still, write_chart
from boxwood._internal.report.charts.looks import Spec, numbered
from boxwood._internal.report.charts.marks import channel, unmarked_lines
from boxwood._internal.report.verdicts import in_every_seed
from boxwood.phases import SearchFilters
from boxwood.runs import Finding, Measurement, Store, jobs_of

HERE = Path(__file__).parent
TICKS = (-100, -10, -1, -0.1, 0, 0.1, 1)  # of rewards
FIRST = 10  # updates that the pass rule compares the last ones with


def study(
    net: str, data: str | None, seeds: int, workers: int, store: Path, settings: list[str]
) -> None:
    """Run to the end and leave NAME.json, NAME-trade-off.* and NAME-rewards.* in one folder."""
    experiment = resolve(f"{HERE / 'filter_agent.py'}:{net}", data, settings)
    name = "_".join(["filter_agent", net, *([data] if data else [])]).replace("-", "_")
    out = HERE / "results" / f"{name}.json"
    measured = execute(
        experiment, store=store, seeds=range(seeds), threads=1, workers=workers, out=out
    )
    searches = searched(experiment, range(seeds), Store(store))
    report = json.loads(out.read_text())
    findings = judged(searches)
    report["findings"] += [asdict(finding) for finding in findings]
    report["searches"] = [
        {key: value for key, value in each.items() if key != "episodes"}
        | {
            "rewards": [fmean(e["reward"]) for e in each["episodes"]],
            "tried": [fmean(e["kept"]) for e in each["episodes"]],
        }
        for each in searches
    ]
    report["overlap"] = overlap(measured)
    out.write_text(json.dumps(report, indent=1) + "\n")
    draw(out)
    for finding in findings:
        print(f"{finding.word}: {finding.claim} ({finding.said})")


def searched(experiment: Any, seeds: Sequence[int], store: Store) -> list[dict[str, Any]]:
    """Read what every search of every agent found."""
    return [
        {
            "bound": phase.search.bound,
            "seed": job.genesis.seed,
            "layer": phase.layer,
            "filters": len(facts["episodes"][0]["now"]),
            "kept": facts["kept"][phase.layer],
            "drop": facts["drop"],
            "equivalent": facts["equivalent"],
            "multiply_adds": facts["multiply_adds"],
            "episodes": facts["episodes"],
        }
        for job in jobs_of(experiment, seeds)
        if job.name.startswith("agent")
        for phase, key in zip(job.recipe, job.chain[1:], strict=True)
        if isinstance(phase, SearchFilters) and (facts := store.record(key)["facts"])
    ]


def judged(searches: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Hold the searches to the pass rule: filters against the bound, and rewards that rise."""
    bounds = sorted({each["bound"] for each in searches})
    seeds = sorted({each["seed"] for each in searches})
    kept = [
        [sum(e["kept"] for e in searches if (e["bound"], e["seed"]) == (b, s)) for b in bounds]
        for s in seeds
    ]
    findings = [trend("filters kept fall as the bound rises", kept)] if len(bounds) > 2 else []
    rises: dict[int, list[float]] = defaultdict(list)
    for each in searches:
        means = [fmean(episode["reward"]) for episode in each["episodes"]]
        rises[each["seed"]].append(fmean(means[-FIRST:]) - fmean(means[:FIRST]))
    risen = sum(rise > 0 for group in rises.values() for rise in group)
    findings.append(
        in_every_seed(
            f"mean reward of the last {FIRST} updates is above that of the first {FIRST}",
            [min(group) for group in rises.values()],
            f"{risen} of {len(searches)} searches",
        )
    )
    return findings


def overlap(measured: Sequence[Measurement]) -> dict[str, list[float]]:
    """Mean intersection over union on test scenes by branch, where it was measured."""
    found: dict[str, list[float]] = defaultdict(list)
    for each in measured:
        if "mean_iou" in each.facts:
            found[each.branch].append(each.facts["mean_iou"])
    return dict(found)


def draw(path: Path) -> None:
    """Draw the trade-off, and the rewards of every search with what its tries kept."""
    report = json.loads(path.read_text())
    title = f"{path.stem.replace('_', ' ')}, {len(report['seeds'])} seeds"
    chart = still(against_remaining(curves(report["runs"])), title, text=OVER_SEEDS)
    write_chart(chart, path.with_name(f"{path.stem}-trade-off"))
    if "tried" not in report["searches"][0]:
        print(f"{path.name} does not hold what tries kept; its rewards are not drawn again")
        return
    panels, columns = rewards(report["searches"])
    chart = grid(panels, title, text="Means over seeds.", columns=columns)
    write_chart(chart, path.with_name(f"{path.stem}-rewards"))


def curves(runs: Sequence[Mapping[str, Any]]) -> Curves:
    """Gather test accuracies by method and mean fraction of weights kept."""
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        method, _, bound = run["name"].partition(" b=")
        if bound:
            groups[method][bound].append(run)
    dense = [run["test"] for run in runs if run["name"] == "dense"]
    return {
        method: [(1.0, dense)]
        + [(fmean(r["kept"] for r in group), [r["test"] for r in group])
           for group in by_bound.values()]
        for method, by_bound in groups.items()
    }  # fmt: skip


def rewards(searches: Sequence[Mapping[str, Any]]) -> tuple[list[Spec], int]:
    """Draw mean reward, and filters kept by a try, against the update: a column for each layer."""
    layers = list(dict.fromkeys(each["layer"] for each in searches))
    rows = {
        # Beyond the bound rewards are not limited below; the first would hide all others.
        "rewards": channel("value", "mean reward", ticks=TICKS, type="symlog", constant=0.1),
        "tried": channel("value", "filters kept by a try"),
    }
    panels = [
        still(
            unmarked_lines(
                _by_bound([each for each in searches if each["layer"] == layer], what),
                x=channel("at", "update of the policy"),
                y=axis,
                looks=numbered([f"b = {b:g}" for b in sorted({s["bound"] for s in searches})]),
            ),
            layer.removesuffix(".weight"),
            width=190,
            height=170,
        )
        for what, axis in rows.items() for layer in layers
    ]  # fmt: skip
    return panels, len(layers)


def _by_bound(searches: Sequence[Mapping[str, Any]], what: str) -> list[dict[str, Any]]:
    curves: dict[str, list[tuple[float, list[float]]]] = {}
    for bound in sorted({each["bound"] for each in searches}):
        runs = [each[what] for each in searches if each["bound"] == bound]
        curves[f"b = {bound:g}"] = [
            (update + 1, [run[min(update, len(run) - 1)] for run in runs])
            for update in range(max(map(len, runs)))
        ]
    return curve_rows(curves)


def main() -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", nargs="?", help="conv_net, residual_net or segmentation")
    parser.add_argument("--data", help="such as fashion-mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--store", type=Path, default=Path("runs/filter_agent"))
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--figures-only", action="store_true", help="draw the results of all")
    given = vars(parser.parse_args())
    if given.pop("figures_only"):
        for path in sorted((HERE / "results").glob("filter_agent_*.json")):
            draw(path)
        return
    study(**given)


if __name__ == "__main__":
    main()
