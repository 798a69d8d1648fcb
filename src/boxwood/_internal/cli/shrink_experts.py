"""``boxwood shrink --drop-experts`` on a Hugging Face folder: a mixture with fewer experts."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from boxwood._internal.adapters.expert_layers import expert_layers, expert_scores, experts_of
from boxwood._internal.adapters.experts import (
    check_experts,
    drop_experts_pretrained,
    least_experts,
)
from boxwood._internal.adapters.folders import load_folder
from boxwood._internal.adapters.loaders import loaders_of
from boxwood._internal.adapters.perplexity import perplexity
from boxwood._internal.cli.progress import bar
from boxwood._internal.cli.shrink_notes import costs, notes
from boxwood._internal.cli.shrink_pretrained import is_causal, reading_of
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console, say
from boxwood.errors import InvalidInput


def shrink_experts(
    folder: Path,
    out: Path | None,
    count: int,
    *,
    merge: bool,
    text: Path | None,
    samples: int | None,
    length: int | None,
    as_json: bool,
) -> None:
    """Choose experts, write the folder without them, and say what that has cost.

    Args:
        folder: of a mixture.
        out: the new folder; None to only say which would go.
        count: how many go of every layer.
        merge: average what goes into what stays.
        text: decides; its last tenth is only measured on.
        samples: pieces of it.
        length: tokens of each.
        as_json: print JSON.

    Raises:
        InvalidInput: no text, or as `drop_experts_pretrained`.
    """
    begin = time.perf_counter()
    if text is None:
        raise InvalidInput(
            "Expected --text with --drop-experts, got none: a text says which experts matter; give "
            "--text FILE."
        )
    model = load_folder(folder)
    for layer in expert_layers(model).values():
        check_experts(experts_of(layer), count, model.config)
    reading = reading_of(folder, text, samples, length)
    with bar("layers of experts", quiet=as_json) as watch:
        options = {} if watch is None else {"watch": watch}
        scores = expert_scores(model, reading.calibration, **options)
    dropped = least_experts(model, scores, count)
    measured: dict[str, float] = {}
    if is_causal(model):
        measured["dense"] = perplexity(model, reading.test)
    report: dict[str, Any] = {"scores": scores, "dropped": dropped, "merged": merge}
    if out is not None:
        merged = reading.calibration if merge else ()
        small = drop_experts_pretrained(model, folder, out, dropped, merge=merged)
        if is_causal(model):
            measured["merged" if merge else "cut"] = perplexity(small, reading.test)
        report["parameters"] = [model.num_parameters(), small.num_parameters()]
        report["loads"] = loaders_of(out)
    report |= costs(measured, begin, reading)
    if as_json:
        say(json.dumps(report, indent=1))
        return
    show(_table(report))
    for line in notes(report, out):
        Console().print(line, soft_wrap=True)


def _table(report: Mapping[str, Any]) -> Table:
    table = Table("layer of experts")
    for heading in ("experts", "dropped", "share of the scores"):
        table.add_column(heading, justify="right")
    for name, scores in report["scores"].items():
        gone = report["dropped"][name]
        lost = sum(scores[place] for place in gone) / max(sum(scores), 1e-30)
        table.add_row(Text(name), f"{len(scores)}", ", ".join(map(str, gone)), f"{lost:.1%}")
    return table
