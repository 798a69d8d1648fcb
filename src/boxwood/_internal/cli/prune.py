"""``boxwood prune``: a checkpoint of any size by magnitude, or a pretrained model block by block."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from rich.text import Text

from boxwood._internal.cli import checks
from boxwood._internal.cli.models import Length, Samples
from boxwood._internal.cli.patterns import check_pattern
from boxwood._internal.cli.progress import byte_bar
from boxwood._internal.cli.prune_blocks import Uneven, decision, prune_blocks
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console, say, stoppable
from boxwood._internal.files.checkpoint import open_checkpoint
from boxwood._internal.files.streaming import PrunedTensor, prune_checkpoint
from boxwood._internal.files.thresholds import NamePatterns, global_thresholds, uniform_thresholds
from boxwood.errors import InvalidInput

Links = Annotated[
    bool,
    typer.Option("--follow-links", help="Follow links from shards to other folders, as in caches."),
]


def _no_keep(given: str | None) -> None:
    """Refuse what `--pattern` was called before; `--keep` is a fraction of units everywhere."""
    if given is not None:
        raise InvalidInput(
            f"Expected --sparsity or --pattern, got --keep {given}, which is a fraction of the units "
            f"that `boxwood shrink` keeps; did you mean --pattern {given if ':' in given else '2:4'}?"
        )


def prune(
    checkpoint: Annotated[
        Path, typer.Argument(help="safetensors file, index of shards, or a folder with either.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="New folder for the pruned checkpoint.", callback=checks.new_folder),
    ],
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="Fraction of zeros, in [0, 1).",
            callback=checks.fraction(of_what="zeros", one=False),
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Method for the linear layers of a Hugging Face model: magnitude, "
            "wanda, ria, sparsegpt, alps or dsnot. All layers get the same "
            "sparsity, and one block is in memory at a time. Default: one "
            "ranking by magnitude over the whole checkpoint."
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="With --by: 2:4 keeps 2 of every 4 consecutive inputs. With "
            "--sparsity, 1x4 keeps or prunes four consecutive inputs of an "
            "output together.",
            callback=check_pattern,
        ),
    ] = None,
    _keep: Annotated[str | None, typer.Option("--keep", hidden=True, callback=_no_keep)] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="With --by dsnot: method whose masks it refines: magnitude, wanda, "
            "ria or sparsegpt. Default: wanda."
        ),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="With --by: refit the remaining weights by least squares."),
    ] = False,
    tune: Annotated[
        int,
        typer.Option(
            help="With --by: number of Adam steps on each block's outputs. Start with 32.",
            callback=checks.whole(0, 100_000),
        ),
    ] = 0,
    owl: Annotated[
        bool,
        typer.Option("--owl", help="With --by: give blocks with more outliers a lower sparsity."),
    ] = False,
    alpha: Annotated[
        bool,
        typer.Option(
            "--alpha",
            help="With --by: give blocks whose spectra have heavier tails a lower sparsity.",
        ),
    ] = False,
    text: Annotated[
        Path | None,
        typer.Option(help="Calibration text. Needed by every method that uses activations."),
    ] = None,
    lines: Annotated[
        bool,
        typer.Option("--lines", help="Use every line of the text as an example (for encoders)."),
    ] = False,
    samples: Samples = None,
    length: Length = None,
    blocks: Annotated[
        str | None,
        typer.Option(
            help="With --by: dotted name of the list of blocks, if the model has several."
        ),
    ] = None,
    per_tensor: Annotated[
        bool, typer.Option("--per-tensor", help="Prune every tensor to the same sparsity.")
    ] = False,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Names to prune, such as '*.weight'. Repeatable. Default: all matrices."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Names not to prune, such as '*embed*'. Repeatable.")
    ] = None,
    follow_links: Links = False,
    threads: Annotated[
        int, typer.Option(help="Number of torch threads.", callback=checks.whole(1, 1024))
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Prune a checkpoint to an exact sparsity.

    Without --by it prunes any checkpoint by magnitude, in memory that does not grow with the
    checkpoint. After an interruption, run the same command again to resume.

    With --by it prunes a pretrained transformer, with the activations that a calibration text
    causes. OUT appears when it is complete.

    The input is never changed. OUT has the same files, and the masks as bits in masks/.

    Example: boxwood prune model/ --sparsity 0.5 --out pruned/ --skip '*embed*' --skip 'lm_head*'

    Example: boxwood prune llama/ --by wanda --sparsity 0.5 --text wiki.txt --out pruned/

    Example: boxwood prune llama/ --by sparsegpt --pattern 2:4 --text wiki.txt --out pruned/

    Example: boxwood prune llama/ --by alps --alpha --sparsity 0.7 --text wiki.txt --out pruned/

    Example: boxwood prune llama/ --by dsnot --start magnitude --refit --sparsity 0.6 --text wiki.txt --out pruned/

    Example: boxwood prune bert/ --by wanda --sparsity 0.8 --pattern 1x4 --text wiki.txt --out pruned/
    """
    torch.set_num_threads(threads)
    if by is not None:
        if layers or per_tensor:
            raise InvalidInput(
                "Expected no --layers and no --per-tensor with --by, which prunes every linear "
                "layer of the blocks to the same sparsity, got one; leave layers out with --skip."
            )
        wanted, decide = decision(by, sparsity, pattern, start=start, refit=refit, tune=tune)
        uneven = _uneven(owl=owl, alpha=alpha, pattern=pattern, sparsity=sparsity)
        # The first that applies is named where there is no text.
        asking = {by: by != "magnitude", "--owl": owl, "--refit": refit, "--tune": tune > 0}
        needing = [name for name, needs in asking.items() if needs]
        if needing and text is None:
            raise InvalidInput(
                f"Expected calibration text for {needing[0]}, got none; give --text FILE."
            )
        prune_blocks(
            checkpoint,
            out,
            wanted,
            decide,
            uneven=uneven,
            text=text if needing else None,
            lines=lines,
            samples=samples,
            length=length,
            skip=tuple(skip or ()),
            blocks=blocks,
            follow_links=follow_links,
            as_json=as_json,
        )
        return
    if sparsity is None or pattern or text or lines or blocks:
        raise InvalidInput(
            "Expected --sparsity, and --pattern, --text, --lines and --blocks only with --by, "
            "got one of them without; add --by magnitude, wanda, ria or sparsegpt for a "
            "pretrained transformer."
        )
    if start or refit or tune or owl or alpha:
        raise InvalidInput(
            "Expected --start, --refit, --tune, --owl and --alpha only with --by, got one of "
            "them without; add "
            "--by magnitude, wanda, ria or sparsegpt for a pretrained transformer."
        )
    chosen = NamePatterns(tuple(layers or ()), tuple(skip or ()))
    opened = open_checkpoint(checkpoint, follow_links=follow_links)
    chosen.check([tensor.name for tensor in opened.tensors()])
    again = f"What is finished is kept in {out}; run the same command again to resume."
    with stoppable(again), byte_bar(quiet=as_json) as watch:
        rows = prune_checkpoint(
            checkpoint,
            out,
            sparsity,
            allocation=uniform_thresholds if per_tensor else global_thresholds,
            tensors=chosen,
            follow_links=follow_links,
            watch=watch,
        )
    weights, kept = sum(row.weights for row in rows), sum(row.kept for row in rows)
    total = {"weights": weights, "kept": kept, "sparsity": 1 - kept / max(weights, 1)}
    if as_json:
        found = {"out": str(out), "total": total, "tensors": [asdict(row) for row in rows]}
        say(json.dumps(found, indent=1))
        return
    show(_table(rows))
    Console().print(
        f"Kept {kept:,} of {weights:,} weights (sparsity {total['sparsity']:.4f}) in {out}; "
        f"masks in {out / 'masks'}.",
        soft_wrap=True,
    )


def _uneven(*, owl: bool, alpha: bool, pattern: str | None, sparsity: float | None) -> Uneven:
    given = [name for name, is_given in (("--owl", owl), ("--alpha", alpha)) if is_given]
    if len(given) == 2:
        raise InvalidInput(
            "Expected --owl or --alpha, which both choose a sparsity for each block, got both; "
            "leave one out."
        )
    if given and sparsity is None:
        raise InvalidInput(
            f"Expected no {given[0]} with --pattern {pattern}, which gives every block the same "
            f"sparsity, got both; leave one out."
        )
    return Uneven.OUTLIERS if owl else Uneven.HEAVY_TAILS if alpha else Uneven.NOT


def _table(rows: tuple[PrunedTensor, ...]) -> Table:
    table = Table("tensor")
    for heading in ("weights", "kept", "sparsity", "threshold"):
        table.add_column(heading, justify="right")
    for row in rows:
        limit = "" if row.threshold is None else f"{row.threshold:.4g}"
        sparsity = f"{1 - row.kept / max(row.weights, 1):.4f}"
        table.add_row(Text(row.name), f"{row.weights:,}", f"{row.kept:,}", sparsity, limit)
    return table
