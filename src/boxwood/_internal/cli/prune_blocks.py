"""``boxwood prune --by``: a pretrained Hugging Face model, block by block."""

import json
import time
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from boxwood._internal.cli.patterns import read_pattern
from boxwood._internal.cli.progress import bar
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.call import Call
from boxwood._internal.core.criteria.activations import ria, wanda
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.granularity import Elements, NofM, PerRow
from boxwood._internal.core.memory import peak_memory
from boxwood._internal.core.spec import encode
from boxwood._internal.model.block_methods import (
    by_alps,
    by_dsnot,
    with_least_squares,
    with_tuning,
)
from boxwood._internal.model.blockwise import by_criterion, by_sparse_gpt
from boxwood.errors import InvalidInput

# Each with the weights that its paper, or its authors' code, compares within a layer.
_CRITERIA = {
    "magnitude": (magnitude, Elements()),
    "wanda": (wanda, PerRow()),
    "ria": (ria, Elements()),
}
_SOLVERS = {"sparsegpt": by_sparse_gpt, "alps": by_alps}
METHODS = (*_CRITERIA, *_SOLVERS, "dsnot")
_STARTS = (*_CRITERIA, "sparsegpt")


def decision(
    by: str,
    sparsity: float | None,
    pattern: str | None,
    *,
    start: str | None = None,
    refit: bool = False,
    tune: int = 0,
) -> tuple[float, Call]:
    """Say how a block is pruned, in the words of the command line.

    Args:
        by: one of `METHODS`.
        sparsity: fraction of zeros in every linear layer.
        pattern: ``n:m`` in its place, or ``1x4`` as well.
        start: the method whose masks dsnot refines; wanda by default.
        refit: solve for the weights that stay.
        tune: steps of tuning each block; 0 for none.

    Raises:
        InvalidInput: another method or pattern, or no sparsity, or two; or settings that do not go
            together.

    Example:
        >>> sparsity, how = decision("sparsegpt", None, "2:4")
        >>> sparsity, how.settings
        (0.5, (('grouped', NofM(n=2, m=4)),))
    """
    if by not in METHODS:
        raise InvalidInput(f"Expected --by {', '.join(METHODS)}, got {by!r}; choose one.")
    if start is not None and (by != "dsnot" or start not in _STARTS):
        raise InvalidInput(
            f"Expected --start {', '.join(_STARTS)} with --by dsnot, which refines the masks of "
            f"another method, got --start {start} with --by {by}; correct one of the two."
        )
    grouped = None
    if pattern is not None:
        wanted, grouped = read_pattern(pattern, sparsity)
    elif sparsity is not None:
        wanted = sparsity
    else:
        raise InvalidInput(
            "Expected --sparsity or --pattern, got neither; --pattern n:m is a sparsity of 1 - n/m."
        )
    decide = _method(by, grouped, start or "wanda")
    if refit:
        decide = Call.of(with_least_squares, decide=decide)
    if tune:
        decide = Call.of(with_tuning, decide=decide, steps=tune)
    return wanted, decide


def _method(by: str, grouped: NofM | Blocks | None, start: str) -> Call:
    if by == "dsnot":
        if isinstance(grouped, Blocks):
            raise InvalidInput(
                "Expected --pattern n:m or --sparsity alone with --by dsnot, which exchanges single "
                "weights, got blocks; choose another --by."
            )
        return Call.of(by_dsnot, start=_method(start, grouped, ""), grouped=grouped)
    if by in _SOLVERS:
        return Call.of(_SOLVERS[by], grouped=grouped)
    criterion, alone = _CRITERIA[by]
    return Call.of(by_criterion, criterion=criterion, granularity=grouped or alone)


class Uneven(Enum):
    """What decides which blocks are pruned more than others."""

    NOT = ""
    OUTLIERS = "outliers"
    HEAVY_TAILS = "spectra"


def prune_blocks(
    folder: Path,
    out: Path,
    sparsity: float,
    decide: Call,
    *,
    uneven: Uneven,
    text: Path | None,
    lines: bool,
    samples: int | None,
    length: int | None,
    skip: tuple[str, ...],
    blocks: str | None,
    follow_links: bool,
    as_json: bool,
) -> None:
    """Prune, and print what was kept, how long it took and how much memory."""
    # Only here: transformers takes seconds to import.
    from boxwood._internal.adapters.calibration_text import Tokens, batches_for
    from boxwood._internal.adapters.heavy_tails import heavy_tail_sparsities
    from boxwood._internal.adapters.outliers import outlier_sparsities
    from boxwood._internal.adapters.pretrained import prune_pretrained

    begin = time.perf_counter()
    batches: list[Tokens] = []
    if text is not None:
        batches = batches_for(folder, read_text(text), lines=lines, samples=samples, length=length)
    wanted: float | dict[str, float] = sparsity
    where: dict[str, Any] = {"blocks": blocks, "follow_links": follow_links}
    if uneven is not Uneven.NOT:
        with bar(uneven.value, quiet=as_json) as watch:
            options = {**where, "skip": skip} | ({} if watch is None else {"watch": watch})
            if uneven is Uneven.OUTLIERS:
                wanted = outlier_sparsities(folder, sparsity, batches, **options)
            else:
                wanted = heavy_tail_sparsities(folder, sparsity, **options)
    with bar("blocks", quiet=as_json) as watch:
        options = where if watch is None else {**where, "watch": watch}
        rows = prune_pretrained(
            folder, out, wanted, decide=decide, batches=batches, skip=skip, **options
        )
    weights, kept = sum(row.weights for row in rows), sum(row.kept for row in rows)
    total = {"weights": weights, "kept": kept, "sparsity": 1 - kept / weights}
    cost = {
        "seconds": time.perf_counter() - begin,
        "peak_memory_bytes": peak_memory(),
        "calibration_tokens": sum(batch["input_ids"].numel() for batch in batches),
    }
    if as_json:
        tensors = [asdict(row) for row in rows]
        found = {"out": str(out), "by": encode(decide), "total": total, **cost, "tensors": tensors}
        say(json.dumps(found, indent=1))
        return
    Console().print(
        f"Kept {kept:,} of {weights:,} weights of {len(rows)} linear layers (sparsity "
        f"{total['sparsity']:.4f}) in {out}; masks in {out / 'masks'}. {cost['seconds']:.0f} s, at "
        f"most {cost['peak_memory_bytes'] / 1e9:.2f} GB of memory, {_said(batches)}.",
        soft_wrap=True,
    )


def _said(batches: list[dict[str, Any]]) -> str:
    if not batches:
        return "no calibration text"
    lengths = {batch["input_ids"].shape[1] for batch in batches}
    pieces = sum(len(batch["input_ids"]) for batch in batches)
    each = f"{min(lengths)} to {max(lengths)}" if len(lengths) > 1 else str(max(lengths))
    tokens = sum(batch["input_ids"].numel() for batch in batches)
    return f"{tokens:,} calibration tokens ({pieces} pieces of {each})"


def read_text(text: Path) -> str:
    """Read a text file, or say what is wrong with it."""
    try:
        return text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Expected UTF-8 text in {text}, got {error}; check it.") from error
