"""``boxwood shrink --drop-blocks`` on a Hugging Face folder: fewer blocks, chosen by a text."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from boxwood._internal.adapters.calibration_text import Tokens, continuations
from boxwood._internal.adapters.depth import (
    block_influences,
    block_perplexities,
    check_count,
    greedy_blocks,
    without_blocks,
)
from boxwood._internal.adapters.depth_folders import drop_blocks_pretrained
from boxwood._internal.adapters.folders import load_folder
from boxwood._internal.adapters.loaders import loaders_of
from boxwood._internal.adapters.perplexity import perplexity
from boxwood._internal.adapters.pretrained import Watch
from boxwood._internal.adapters.resident import open_resident
from boxwood._internal.cli.progress import bar
from boxwood._internal.cli.shrink_notes import costs, notes
from boxwood._internal.cli.shrink_pretrained import Reading, is_causal, reading_of
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.files.checkpoint import open_checkpoint
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class DepthOptions:
    """What was asked for.

    Args:
        count: of blocks that go.
        by: a name out of `BY`.
        blocks: the list, where there are several.
        repair: fold what the dropped blocks did into those before them.
        dry_run: only say which would go.
    """

    count: int
    by: str
    blocks: str | None
    repair: bool
    dry_run: bool


Scores = dict[str, float]
Score = Callable[[Path, DepthOptions, list[Tokens], Watch], tuple[Scores, list[str]]]
"""A folder to scores of its blocks, and which of them go."""


def by_influence(
    folder: Path, options: DepthOptions, batches: list[Tokens], watch: Watch
) -> tuple[Scores, list[str]]:
    """Drop what turns hidden states least; one block is in memory at a time."""
    return _least(options, block_influences(folder, batches, blocks=options.blocks, watch=watch))


def by_perplexity(
    folder: Path, options: DepthOptions, batches: list[Tokens], watch: Watch
) -> tuple[Scores, list[str]]:
    """Drop what leaves the lowest perplexity when it alone is gone."""
    model = load_folder(folder)
    return _least(options, block_perplexities(model, batches, blocks=options.blocks, watch=watch))


def greedily(
    folder: Path, options: DepthOptions, batches: list[Tokens], watch: Watch
) -> tuple[Scores, list[str]]:
    """Drop one block after the other, measuring perplexity again each time."""
    model = load_folder(folder)
    scores = greedy_blocks(model, options.count, batches, blocks=options.blocks, watch=watch)
    return scores, list(scores)


BY: Mapping[str, Score] = {
    "influence": by_influence,
    "perplexity": by_perplexity,
    "greedy": greedily,
}


def shrink_depth(
    folder: Path,
    out: Path | None,
    options: DepthOptions,
    *,
    text: Path | None,
    samples: int | None,
    length: int | None,
    as_json: bool,
) -> None:
    """Choose blocks, write the folder without them, and say what that has cost.

    Raises:
        InvalidInput: an unknown criterion, no text, or as `drop_blocks_pretrained`.
    """
    begin = time.perf_counter()
    if options.by not in BY:
        raise InvalidInput(
            f"Expected --by {', '.join(BY)} with --drop-blocks, got {options.by!r}; choose one."
        )
    if text is None:
        raise InvalidInput(
            "Expected --text with --drop-blocks, got none: a text says which blocks matter; give "
            "--text FILE."
        )
    opened = open_resident(folder, blocks=options.blocks)
    model: Any = opened.model
    check_count(options.count, len(opened.blocks), len(opened.blocks), type(model).__name__)
    pairs = model.config.is_encoder_decoder
    predicts = is_causal(model) or pairs
    if options.by != "influence" and not predicts:
        raise InvalidInput(
            f"Expected a language model for --by {options.by}, got {type(model).__name__}, "
            f"which does not predict tokens; use --by influence."
        )
    reading = reading_of(folder, text, samples, length)
    if pairs:
        reading = Reading(continuations(reading.calibration), continuations(reading.test))
    with bar("blocks", quiet=as_json) as watch:
        scores, dropped = BY[options.by](folder, options, reading.calibration, watch or _nobody)
    measured: dict[str, float] = {}
    if predicts:
        with opened.block_by_block():
            measured["dense"] = perplexity(model, reading.test)
            with without_blocks(model, dropped):
                measured["cut"] = perplexity(model, reading.test)
    report: dict[str, Any] = {"by": options.by, "scores": scores, "dropped": dropped}
    if out is not None and not options.dry_run:
        with bar("repair", quiet=as_json) as watch:
            repair = reading.calibration if options.repair else ()
            done = drop_blocks_pretrained(
                folder, out, dropped, repair=repair, watch=watch or _nobody
            )
        report["folds"] = [asdict(fold) for fold in done.folds]
        if predicts and done.folds:
            again = open_resident(out, blocks=options.blocks)
            with again.block_by_block() as small:
                measured["repaired"] = perplexity(small, reading.test)  # type: ignore[arg-type]
        report["parameters"] = [_parameters(folder), _parameters(out)]
        report["loads"] = loaders_of(out)
    report |= costs(measured, begin, reading)
    if as_json:
        say(json.dumps(report, indent=1))
        return
    show(_table(report))
    console = Console()
    folds = [
        f"Folded into {fold['layer']}: relative squared error {fold['before']:.3g} before, "
        f"{fold['after']:.3g} after"
        for fold in report.get("folds", ())
    ]
    for line in notes(report, out, *folds):
        console.print(line, soft_wrap=True)


def _least(options: DepthOptions, scores: Scores) -> tuple[Scores, list[str]]:
    check_count(options.count, len(scores), len(scores) + 1, "the model")
    return scores, sorted(scores, key=lambda name: scores[name])[: options.count]


def _parameters(folder: Path) -> int:
    return sum(tensor.entry.count for tensor in open_checkpoint(folder).tensors())


def _nobody(done: int, total: int) -> None:
    """Show no progress."""


def _table(report: Mapping[str, Any]) -> Table:
    table = Table("block")
    table.add_column(
        report["by"] if report["by"] == "influence" else "perplexity without it", justify="right"
    )
    table.add_column("")
    for name, score in report["scores"].items():
        gone = "dropped" if name in report["dropped"] else ""
        table.add_row(Text(name), f"{score:.4g}", gone)
    return table
