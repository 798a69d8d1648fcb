"""Run the study of the filter agent, write its figures and draw its curves.

python experiments/run_filter_agent.py conv_net --data fashion-mnist --seeds 5
python experiments/run_filter_agent.py residual_net --data fashion-mnist --seeds 5
python experiments/run_filter_agent.py segmentation --seeds 3
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
from boxwood._internal.recipes.phases.search_filters import SearchFilters
from boxwood._internal.report.curves import trade_off
from boxwood._internal.report.figures import house_style, write_figure
from boxwood._internal.report.study import Finding, Measurement
from boxwood._internal.report.verdicts import in_every_seed
from boxwood._internal.runs.runner import jobs_of
from boxwood._internal.runs.store import Store

HERE = Path(__file__).parent
TICKS = (-100, -10, -1, -0.1, 0, 0.1, 1)  # of rewards
FIRST = 10  # updates that the pass rule compares the last ones with


def study(
    net: str, data: str | None, seeds: int, workers: int, store: Path, settings: list[str]
) -> None:
    """Run to the end and leave NAME.json, NAME-trade-off.* and NAME-rewards.* beside each other."""
    name = "_".join(["filter_agent", net, *([data] if data else [])]).replace("-", "_")
    experiment = resolve(f"{HERE / 'filter_agent.py'}:{net}", data, settings)
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
        | {"rewards": [fmean(e["reward"]) for e in each["episodes"]]}
        for each in searches
    ]
    report["overlap"] = overlap(measured)
    out.write_text(json.dumps(report, indent=1) + "\n")
    title = f"{net} on {experiment.data().name}, {seeds} seeds"
    trade_off(curves(measured), title=title, path=out.with_name(f"{name}-trade-off"))
    rewards(searches, title, out.with_name(f"{name}-rewards"))
    for finding in findings:
        print(finding)


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


def curves(
    measured: Sequence[Measurement],
) -> dict[str, list[tuple[float, tuple[float, ...]]]]:
    """Gather test accuracies by method and mean fraction of weights kept."""
    groups: dict[str, dict[str, list[Measurement]]] = defaultdict(lambda: defaultdict(list))
    for each in measured:
        method, _, bound = each.branch.partition(" b=")
        if bound:
            groups[method][bound].append(each)
    dense = [each.test for each in measured if each.branch == "dense"]
    return {
        method: [(1.0, tuple(dense))]
        + [(fmean(m.kept_fraction for m in group), tuple(m.test for m in group))
           for group in by_bound.values()]
        for method, by_bound in groups.items()
    }  # fmt: skip


def rewards(searches: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw mean reward and kept filters against the update: a panel pair for each layer."""
    layers = list(dict.fromkeys(each["layer"] for each in searches))
    bounds = sorted({each["bound"] for each in searches})
    with house_style():
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullLocator

        figure = Figure(figsize=(1 + 2 * len(layers), 4.6), layout="constrained")
        panels = figure.subplots(2, len(layers), sharex=True, squeeze=False)
        for column, layer in enumerate(layers):
            panels[0, column].set_title(layer.removesuffix(".weight"), fontsize="medium")
            for bound in bounds:
                episodes = [
                    each["episodes"]
                    for each in searches
                    if (each["layer"], each["bound"]) == (layer, bound)
                ]
                length = max(map(len, episodes))
                for row, key in enumerate(("reward", "kept")):
                    means = [
                        fmean(fmean(run[min(update, len(run) - 1)][key]) for run in episodes)
                        for update in range(length)
                    ]
                    panels[row, column].plot(range(1, length + 1), means, label=f"b = {bound:g}")
            # Beyond the bound rewards are not limited below; the first would hide all others.
            panels[0, column].set_yscale("symlog", linthresh=0.1)
            panels[0, column].set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
            panels[0, column].yaxis.set_minor_locator(NullLocator())
            panels[1, column].set_xlabel("update")
        panels[0, 0].set_ylabel("mean reward")
        panels[1, 0].set_ylabel("filters kept by a try")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
        figure.suptitle(title)
        write_figure(figure, path)


def main() -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", help="conv_net, residual_net or segmentation")
    parser.add_argument("--data", help="such as fashion-mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--store", type=Path, default=Path("runs/filter_agent"))
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    study(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
