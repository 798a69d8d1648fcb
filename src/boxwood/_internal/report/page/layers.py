"""Where the weights went: what each layer kept, and how sensitive each is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from boxwood._internal.report.charts.curves import sensitivity_chart
from boxwood._internal.report.charts.looks import numbered, tooltip
from boxwood._internal.report.charts.marks import base
from boxwood._internal.report.page.document import Column, Figure, Series, Table
from boxwood._internal.report.page.facts import layers_of, number
from boxwood._internal.report.page.metrics import TEST, percent
from boxwood._internal.report.page.networks import Network
from boxwood._internal.report.page.store_reader import Study
from boxwood._internal.report.tables import human

NETWORK = "network"
"""Name of the pick that chooses a network in this section."""


def layered(found: Sequence[Network]) -> list[Network]:
    """Networks whose layers were counted."""
    return [each for each in found if all(layers_of(m.facts) for m in each.members)]


def scanned(facts: Mapping[str, Any]) -> bool:
    """Say whether facts are those of a sensitivity scan: a curve for each layer."""
    curves = facts.get("curves")
    return (
        number(facts.get("dense")) is not None
        and isinstance(curves, Mapping)
        and all(
            isinstance(line, list)
            and all(
                isinstance(p, list) and len(p) == 2 and None not in map(number, p) for p in line
            )
            for line in curves.values()
        )
    )


@dataclass(frozen=True)
class Sensitivity:
    """What the network loses when one layer alone is pruned, and not retrained.

    Args:
        sparsity: of that layer; the highest that was scanned of all layers.
        lost: accuracy lost by layer, as a fraction, the mean over scans.
    """

    sparsity: float
    lost: Mapping[str, float]


def sensitivity(study: Study) -> Sensitivity | None:
    """Read the scans of a study; None where there is none, or none that fits together."""
    lost: dict[tuple[str, float], list[float]] = {}
    for facts in scans(study).values():
        for layer, line in facts["curves"].items():
            for sparsity, accuracy in line:
                place = (layer.removesuffix(".weight"), sparsity)
                lost.setdefault(place, []).append(facts["dense"] - accuracy)
    layers = {layer for layer, _ in lost}
    everywhere = [s for s in {s for _, s in lost} if all((layer, s) in lost for layer in layers)]
    if not everywhere:
        return None
    at = max(everywhere)
    return Sensitivity(at, {layer: fmean(v) for (layer, s), v in lost.items() if s == at})


def scans(study: Study) -> dict[str, Mapping[str, Any]]:
    """Facts of every scan, by its key."""
    steps = {step.key: step.facts for run in study.runs for step in run.steps}
    return {key: facts for key, facts in steps.items() if scanned(facts)}


def layer_rows(network: Network, alone: Sensitivity | None = None) -> list[dict[str, Any]]:
    """What each layer of a network kept, as means over its seeds."""
    rows = []
    by_seed = [[asdict(layer) for layer in layers_of(m.facts)] for m in network.members]
    for position, first in enumerate(by_seed[0]):
        same = [layers[position] for layers in by_seed if len(layers) == len(by_seed[0])]

        def mean(name: str, same: list[dict[str, Any]] = same) -> float:
            return fmean(layer[name] for layer in same)

        kept = [layer["kept"] / layer["weights"] for layer in same]
        work = first["multiply_adds"]  # looking up a row of an embedding is none
        rows.append({
            "network": network.name,
            "layer": first["name"],
            "kind": first["kind"],
            "weights": first["weights"],
            "kept": mean("kept"),
            "kept_fraction": fmean(kept),
            "kept_lowest": min(kept),
            "kept_highest": max(kept),
            "multiply_adds": first["multiply_adds"],
            "effective_multiply_adds": mean("effective_multiply_adds"),
            "multiply_adds_fraction": mean("effective_multiply_adds") / work if work else None,
            "output_activity": mean("output_activity"),
            "han_flops_kept": mean("han_flops_kept"),
            "lost": None if alone is None else alone.lost.get(first["name"]),
            "keys": network.keys,
        })  # fmt: skip
    return rows


def layer_figure(found: Sequence[Network], alone: Sensitivity | None = None) -> Figure | None:
    """Draw what each layer of the picked network kept of its weights and of its work."""
    networks = layered(found)
    rows = [row for network in networks for row in layer_rows(network, alone)]
    if not rows:
        return None
    columns = (("kept_fraction", "weights"), ("han_flops_kept", "work, zero inputs skipped too"))
    bars = [
        {
            "network": row["network"], "layer": row["layer"], "part": title, "value": row[name],
            "low": row["kept_lowest"] if name == "kept_fraction" else None,
            "high": row["kept_highest"] if name == "kept_fraction" else None,
            "said": percent(row[name]), "keys": row["keys"],
        }
        for row in rows for name, title in columns
    ]  # fmt: skip
    order = list(dict.fromkeys(row["layer"] for row in rows))
    titles = [title for _, title in columns]
    encoding = {
        "y": {"field": "layer", "type": "nominal", "sort": order, "axis": {"title": None}},
        "yOffset": {"field": "part", "sort": titles},
        "x": {
            "field": "value",
            "type": "quantitative",
            "axis": {"title": "left of the layer", "format": "~%"},
            "scale": {"domainMin": 0},
        },
    }
    spec = {
        **base(bars, field=NETWORK),
        "height": (32 if len(order) > 10 else 48) * len(order),
        "encoding": encoding,
        "layer": [
            {
                "mark": {"type": "bar", "cornerRadiusEnd": 2},
                "encoding": {
                    "color": {
                        "field": "part",
                        "type": "nominal",
                        "scale": {"domain": titles, "range": ["var(--c0)", "var(--c4)"]},
                        "legend": {"orient": "top", "title": None},
                    },
                    "tooltip": tooltip(
                        ("layer", "layer"), ("part", "of its"), ("said", "left"), ("keys", "keys")
                    ),
                },
            },
            {
                "transform": [{"filter": "isValid(datum.low) && datum.low < datum.high"}],
                "mark": {"type": "tick", "color": "var(--ink)", "height": 7, "thickness": 1.5},
                "encoding": {"x": {"field": "high", "type": "quantitative"}},
            },
            {
                "transform": [{"filter": "isValid(datum.low) && datum.low < datum.high"}],
                "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1.5},
                "encoding": {
                    "x": {"field": "low", "type": "quantitative"},
                    "x2": {"field": "high"},
                },
            },
        ],
    }
    return Figure(
        name="layers",
        title="What each layer kept",
        text=(
            "Bars are means over seeds; thin lines reach from the seed that kept least to the one "
            "that kept most. Work is the share of multiply-adds whose weight and input are both "
            "not zero, as Han et al. (2015) count it."
        ),
        alternative=(
            f"Bars for {len(order)} layers of the chosen network: the fraction of weights kept, and "
            f"the fraction of multiply-adds left. The table has the numbers of all networks."
        ),
        spec=spec,
        table=Table(
            "layers",
            "Layers of the chosen network, means over its seeds",
            (
                Column("network", "network"),
                Column("layer", "layer"),
                Column("kind", "kind"),
                Column("weights", "weights", human, number=True),
                Column("kept", "kept", lambda v: human(round(v)), number=True),
                Column("kept_fraction", "kept", percent, number=True),
                Column("multiply_adds", "multiply-adds", human, number=True),
                Column("multiply_adds_fraction", "left", percent, number=True),
                Column("output_activity", "active outputs", percent, number=True),
                Column("han_flops_kept", "work left", percent, number=True),
                *(() if alone is None else (_lost(alone),)),
                Column("keys", "keys"),
            ),
            rows,
            picked_by=NETWORK,
        ),
        picked_by=NETWORK,
    )


def _lost(alone: Sensitivity) -> Column:
    title = f"points lost, alone at {100 * alone.sparsity:g} % sparsity"
    return Column("lost", title, TEST.spread, number=True)


def sensitivity_figure(study: Study) -> Figure | None:
    """Draw accuracy against the sparsity of one layer at a time, where a phase scanned that."""
    found: dict[tuple[str, float], list[float]] = {}
    keys: dict[str, None] = {}
    dense = []
    for key, facts in scans(study).items():
        keys[key[:8]] = None
        dense.append(facts["dense"])
        for layer, line in facts["curves"].items():
            for sparsity, accuracy in line:
                found.setdefault((layer, sparsity), []).append(accuracy)
    if not found:
        return None
    names = list(dict.fromkeys(layer for layer, _ in found))
    rows = [
        {
            "series": layer, "sparsity": sparsity, "accuracy": fmean(values), "low": min(values),
            "high": max(values), "seeds": len(values), "said": percent(fmean(values)),
            "keys": " ".join(keys),
        }
        for (layer, sparsity), values in found.items()
    ]  # fmt: skip
    said = tooltip(
        ("series", "layer"), ("sparsity", "sparsity"), ("said", "accuracy"), ("seeds", "seeds"), ("keys", "keys")
    )  # fmt: skip
    spec = sensitivity_chart(rows, fmean(dense), "validation accuracy", said)
    return Figure(
        name="sensitivity",
        title="Sensitivity: one layer pruned at a time, not retrained",
        text="Means over seeds, bands from the worst seed to the best; dashed, the dense network.",
        alternative=(
            "Lines of validation accuracy against sparsity, one for each layer. "
            + " ".join(
                f"{layer} falls to {percent(min(fmean(v) for (n, _), v in found.items() if n == layer))}."
                for layer in names
            )
        ),
        spec=spec,
        table=Table(
            "sensitivity",
            "Validation accuracy with one layer pruned",
            (
                Column("series", "layer"),
                Column("sparsity", "sparsity", percent, number=True),
                Column("accuracy", "mean", percent, number=True),
                Column("low", "worst seed", percent, number=True),
                Column("high", "best seed", percent, number=True),
                Column("seeds", "seeds", number=True),
                Column("keys", "keys"),
            ),
            rows,
        ),
        series=[Series(layer, i) for layer, i in numbered(names).items()],
    )
