"""``boxwood pack``, ``unpack`` and ``info``: store sparse checkpoints in fewer bytes, and restore them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from boxwood._internal.cli import checks
from boxwood._internal.cli.progress import byte_bar
from boxwood._internal.cli.prune import Links
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.core.replacing import disk_errors
from boxwood._internal.files.checkpoint import (
    OnRead,
    companion_files,
    dense_name,
    find_files,
    packed_name,
)
from boxwood._internal.files.header import preamble, read_header
from boxwood._internal.files.layout import (
    TensorLayout,
    choose_layouts,
    is_packed,
    open_packed,
    packed_header,
)
from boxwood._internal.files.mask_files import masks_file_of, open_masks
from boxwood._internal.files.packed import dense_pieces, pack_file, unpack_file
from boxwood._internal.files.quantised import refuse_unprunable
from boxwood._internal.files.writing import copy_file, whole_file
from boxwood.errors import InvalidInput

Source = Annotated[
    Path, typer.Argument(help="safetensors file, index of shards, or a folder with either.")
]
Out = Annotated[
    Path,
    typer.Option(help="New file to write, or a new folder for shards.", callback=checks.new_place),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


_NOTE = "PACKED.txt"
_NOTE_TEXT = """The weights in this folder are packed by Boxwood: no other program can read them.
In Python: boxwood.load("this folder") makes the model. In a shell: boxwood unpack FOLDER --out DENSE
writes the dense checkpoint back, byte for byte, which from_pretrained loads.
"""


def pack(
    checkpoint: Source,
    out: Out,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="File with the masks, for a checkpoint in one file. Default: the "
            "file of the same name in masks/."
        ),
    ] = None,
    follow_links: Links = False,
    as_json: Json = False,
) -> None:
    """Pack a checkpoint: store only the values that are not zero, and a mask of their positions.

    A tensor that would not get smaller stays dense. Unpacking restores every byte. If the checkpoint's
    folder has masks in masks/, they decide what is kept, and they are stored too. Packed files in a
    folder are named packed-model.safetensors, so that no program takes them for dense ones. Load the
    model with boxwood.load(folder).

    Example: boxwood pack pruned/ --out packed/
    """
    if masks is not None and (len(find_files(checkpoint)[1]) > 1 or not masks.is_file()):
        raise InvalidInput(
            f"Expected --masks to name the file of masks of a checkpoint in one file, got {masks} "
            f"for {checkpoint}; for shards put theirs into masks/ of their folder."
        )
    # Of all shards, before the first is written.
    refuse_unprunable(checkpoint, find_files(checkpoint, follow_links=follow_links)[1])
    with byte_bar(quiet=as_json) as watch:
        sizes = _convert(
            checkpoint,
            out,
            lambda source, target, on_read: pack_file(
                source, target, masks or masks_file_of(source), on_read
            ),
            _counting(watch, "packing"),
            packed_name,
            follow_links=follow_links,
        )
    if out.is_dir():
        with whole_file(out / _NOTE) as file:
            file.write(_NOTE_TEXT.encode())
    _say(sizes, out, as_json=as_json)


def unpack(
    checkpoint: Source, out: Out, follow_links: Links = False, as_json: Json = False
) -> None:
    """Restore the dense checkpoint that was packed, byte for byte, and write its masks to masks/.

    Example: boxwood unpack packed/ --out dense/
    """
    with byte_bar(quiet=as_json) as watch:
        progress = _counting(watch, "unpacking")
        sizes = _convert(
            checkpoint, out, unpack_file, progress, dense_name, follow_links=follow_links
        )
    _say(sizes, out, as_json=as_json)


def info(
    checkpoint: Source,
    zstd: Annotated[
        bool, typer.Option(help="Also report the size after zstd -3, if zstandard is installed.")
    ] = True,
    follow_links: Links = False,
    as_json: Json = False,
) -> None:
    """List the tensors of a packed or dense checkpoint: sparsity, and bytes dense and packed.

    For a dense checkpoint it shows the size that packing would give.

    Example: boxwood info packed/
    """
    layouts: list[TensorLayout] = []
    total = {"dense": 0, "packed": 0}
    _, files = find_files(checkpoint, follow_links=follow_links)
    with byte_bar(quiet=as_json) as watch:
        on_read = _counting(watch, "reading")
        for file in files:
            found, dense, packed = _sizes(file, on_read)
            layouts += found
            total["dense"] += dense
            total["packed"] += packed
        compressed = [_zstd_bytes(file, on_read) for file in files] if zstd else [None]
    if None not in compressed:
        total["zstd"] = sum(size for size in compressed if size is not None)
    if as_json:
        rows = [_row(layout) for layout in layouts]
        say(json.dumps({"total": total, "tensors": rows}, indent=1))
        return
    show(_table(layouts))
    for name, size in total.items():
        share = f"{size / max(total['dense'], 1):.1%} of dense"
        say(f"{name:>6}  {size:>16,} bytes  {share}")


def _convert(
    source: Path,
    out: Path,
    convert: Callable[[Path, Path, OnRead], list[TensorLayout]],
    on_read: OnRead,
    renamed: Callable[[str], str],
    *,
    follow_links: bool,
) -> tuple[int, int]:
    """Convert a file, or every shard and the other texts of its folder; returns bytes before and after."""
    index, files = find_files(source, follow_links=follow_links)
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise InvalidInput(f"Expected a new place to write, got {out}; delete it or give another.")
    folder = source.is_dir() or index is not None
    targets = {file: out / renamed(file.name) if folder else out for file in files}
    if folder:
        with disk_errors(out):
            out.mkdir(parents=True, exist_ok=True)
    elif out.suffix != ".safetensors" or out.is_dir():
        raise InvalidInput(
            f"Expected a file to write whose name ends in .safetensors, got {out}; give such a "
            f"name."
        )
    for file, target in targets.items():
        convert(file, target, on_read)
    if folder:
        for text in companion_files(source, index, follow_links=follow_links):
            if text.name != _NOTE:
                copy_file(text, out / (renamed(text.name) if text == index else text.name))
    before, after = (
        sum(path.stat().st_size for path in paths) for paths in (files, targets.values())
    )
    return before, after


def _sizes(file: Path, on_read: OnRead) -> tuple[list[TensorLayout], int, int]:
    """Return the layouts of a file, and its bytes dense and packed, whichever of both it is."""
    header = read_header(file)
    size = file.stat().st_size
    if is_packed(header):
        _, inner, layouts = open_packed(file)
        dense = len(preamble(inner)) + sum(layout.entry.bytes for layout in layouts)
        return layouts, dense, size
    masks = masks_file_of(file)
    layouts = choose_layouts(file, header, {} if masks is None else open_masks(masks), on_read)
    packed = len(preamble(packed_header(header, layouts, file)))
    return layouts, size, packed + sum(layout.bytes for layout in layouts)


def _zstd_bytes(file: Path, on_read: OnRead) -> int | None:
    """Count the bytes that zstd makes of the dense file; None where it is not installed."""
    try:
        from zstandard import ZstdCompressor
    except ImportError:
        return None
    squeeze = ZstdCompressor(level=3).compressobj()
    size = 0
    for piece in dense_pieces(file):
        size += len(squeeze.compress(piece))
        on_read(memoryview(piece).nbytes)
    return size + len(squeeze.flush())


def _row(layout: TensorLayout) -> dict[str, Any]:
    return {
        "name": layout.name,
        "dtype": layout.entry.dtype,
        "shape": layout.entry.shape,
        "sparsity": layout.sparsity,
        "dense_bytes": layout.entry.bytes,
        "packed_bytes": layout.bytes,
        "mask": f"run lengths of {layout.index_bits} bits"
        if layout.index_bits
        else "bits" * layout.packed,
    }


def _table(layouts: list[TensorLayout]) -> Table:
    table = Table("tensor", "type", "shape")
    for heading in ("sparsity", "bytes\ndense", "bytes\npacked"):
        table.add_column(heading, justify="right")
    table.add_column("mask")
    for row in map(_row, layouts):
        sparsity = "" if row["sparsity"] is None else f"{row['sparsity']:.4f}"
        shape = " × ".join(map(str, row["shape"]))
        sizes = (f"{row[key]:,}" for key in ("dense_bytes", "packed_bytes"))
        table.add_row(Text(row["name"]), row["dtype"], shape, sparsity, *sizes, row["mask"])
    return table


def _counting(watch: Callable[[str, int, int], None], what: str) -> Callable[[int], None]:
    done = 0

    def on_read(size: int) -> None:
        nonlocal done
        done += size
        watch(what, done, 0)

    return on_read


def _say(sizes: tuple[int, int], out: Path, *, as_json: bool) -> None:
    before, after = sizes
    if as_json:
        text = json.dumps({"out": str(out), "bytes_before": before, "bytes_after": after})
        say(text)
        return
    share = f"{after / max(before, 1):.1%}"
    Console().print(f"{before:,} bytes became {after:,} ({share}) in {out}.", soft_wrap=True)
