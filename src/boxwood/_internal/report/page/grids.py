"""Grids of a setting in a study: networks whose trainings differ in one number."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from boxwood._internal.report.grids import edge
from boxwood._internal.report.page.document import Note
from boxwood._internal.report.page.networks import Network, merit, yardstick
from boxwood._internal.report.page.store_reader import Study

_LEAST = 3  # values that make a grid
_LENGTHS = ("epochs", "steps", "batch", "shuffle_index", "start_at", "stop_at")
"""Numbers of a training that are no settings to choose from, or have no end to lie on."""

Leaves = dict[str, float]


def on_edges(study: Study, found: Sequence[Network]) -> Iterator[Note]:
    """Name settings of training whose best value is the lowest or highest that was tried."""
    by = yardstick(found).validation
    settings = _settings(study)
    known = [each for each in found if each.members[0].key in settings and each.values(by)]
    said: dict[str, list[str]] = defaultdict(list)
    names = dict.fromkeys(
        _name(path) for each in known for path in settings[each.members[0].key][1]
    )
    for name in names:
        groups: dict[str, dict[float, Network]] = defaultdict(dict)
        for each in known:
            rest, leaves = settings[each.members[0].key]
            mine = [value for path, value in leaves.items() if _name(path) == name]
            others = {path: value for path, value in leaves.items() if _name(path) != name}
            if mine:
                groups[f"{rest} {sorted(others.items())}"][mine[0]] = each
        for group in groups.values():
            scores = {value: merit(each, by) for value, each in group.items()}
            if len(scores) >= _LEAST and (end := edge(scores)):
                best = group[max(scores) if end == "high" else min(scores)]
                tried = ", ".join(f"{value:g}" for value in sorted(scores))
                said[f"{name}: the {end}est of {tried}"].append(best.name)
    if said:
        yield Note(
            "mild",
            "Best at the edge of its grid: a better value of these settings may lie beyond what was "
            "tried.",
            [f"{setting} ({', '.join(names)})" for setting, names in said.items()],
        )


def _settings(study: Study) -> dict[str, tuple[str, Leaves]]:
    """For each measurement, what else its recipe says, and the numbers of its trainings."""
    found: dict[str, tuple[str, Leaves]] = {}
    for run in study.runs:
        rest: list[str] = []
        leaves: Leaves = {}
        for place, step in enumerate(run.steps):
            others: list[str] = []
            for path, value in _flat(step.spec):
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if number and path.startswith("training.") and _name(path) not in _LENGTHS:
                    leaves[f"{place}.{path}"] = float(value)
                else:
                    others.append(f"{path}={value}")
            rest.append(" ".join(others))
            if step.measures:
                found.setdefault(step.key, ("; ".join(rest), dict(leaves)))
    return found


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name != "label":
                yield from _flat(each, f"{path}.{name}".strip("."))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _flat(each, f"{path}[{place}]")
    else:
        yield path, value


def _name(path: str) -> str:
    return path.rpartition(".")[2]
