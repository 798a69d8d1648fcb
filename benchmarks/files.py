"""Packed files against safetensors and zstd, and streamed pruning against pruning in memory."""

import shutil
import tempfile
from pathlib import Path

import torch
from measuring import Row, compare, main
from safetensors.torch import load_file, save_file
from torch import Tensor

from boxwood._internal.core.allocation import allocate
from boxwood._internal.core.masks import apply, pack
from boxwood._internal.core.selection import select
from boxwood._internal.core.timing import by_turns
from boxwood._internal.files.packed import pack_file, unpack_file
from boxwood._internal.files.streaming import prune_checkpoint

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
TYPES = (torch.float32, torch.bfloat16)
LEVEL = 3  # the default of zstd


def measure(quick: bool) -> list[Row]:
    """Sizes and times of packing at several sparsities, then pruning both ways."""
    each = 1_000_000 if quick else 4_000_000
    repeats = 3 if quick else 5
    at = Path(tempfile.mkdtemp(prefix="boxwood-files-"))
    try:
        rows = [
            row
            for dtype in TYPES
            for sparsity in SPARSITIES
            for row in packing(at, checkpoint(each, dtype), sparsity, repeats)
        ]
        return [*rows, *pruning(at, checkpoint(4 * each, torch.float32), repeats)]
    finally:
        shutil.rmtree(at)


def checkpoint(each: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Four matrices of normal random numbers."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"w{i}": torch.randn(each // 1000, 1000, generator=generator).to(dtype) for i in range(4)
    }


def packing(at: Path, weights: dict[str, Tensor], sparsity: float, repeats: int) -> list[Row]:
    """One sparsity: bytes against dense and zstd, and the times there and back."""
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    masks = select(scores := {n: w.abs() for n, w in weights.items()}, allocate(scores, sparsity))
    dense, packed, squeezed = (at / name for name in ("d.safetensors", "p.safetensors", "d.zst"))
    back = at / "b.safetensors"
    save_file(pruned := apply(weights, masks), dense)
    name = f"{dtype} {sparsity:.0%}"
    steps = {
        "pack": lambda: pack_file(dense, packed),
        "unpack": lambda: unpack_file(packed, back),
        # The same work without packing: read a file, write a file.
        "copy": lambda: save_file(load_file(dense), back),
        **zstd_steps(dense, squeezed, back),
    }
    del pruned
    times = by_turns(steps, turns=repeats, warm_up=1)
    size = dense.stat().st_size
    rates = {way: [size / 1e6 / seconds for seconds in each] for way, each in times.items()}
    rows = [sizes(f"{name}: bytes", packed, dense, "dense safetensors")]
    if squeezed.exists():
        peer = f"zstd -{LEVEL}"
        rows.append(sizes(f"{name}: bytes", packed, squeezed, peer))
        both = at / "p.zst"
        squeeze(packed, both)
        rows.append(sizes(f"{name}: bytes, then zstd -{LEVEL}", both, squeezed, peer))
        rows.append(compare(f"{name}: pack", rates["pack"], rates["zstd"], peer, unit="MB/s"))
        rows.append(compare(f"{name}: unpack", rates["unpack"], rates["unzstd"], peer, unit="MB/s"))
    peer = "safetensors load + save"
    rows.append(compare(f"{name}: pack", rates["pack"], rates["copy"], peer, unit="MB/s"))
    rows.append(compare(f"{name}: unpack", rates["unpack"], rates["copy"], peer, unit="MB/s"))
    return rows


def zstd_steps(dense: Path, squeezed: Path, back: Path) -> dict[str, object]:
    """Compress and decompress the dense file in a stream, where zstandard is installed."""
    try:
        from zstandard import ZstdDecompressor
    except ImportError:
        return {}

    def again() -> None:
        with squeezed.open("rb") as source, back.open("wb") as target:
            ZstdDecompressor().copy_stream(source, target)

    return {"zstd": lambda: squeeze(dense, squeezed), "unzstd": again}


def squeeze(source: Path, target: Path) -> None:
    """Compress a file in a stream."""
    from zstandard import ZstdCompressor

    with source.open("rb") as opened, target.open("wb") as written:
        ZstdCompressor(level=LEVEL).copy_stream(opened, written)


def sizes(name: str, ours: Path, peers: Path, peer: str) -> Row:
    """Compare the sizes of two files."""
    return compare(name, [ours.stat().st_size], [peers.stat().st_size], peer, unit="bytes")


def pruning(at: Path, weights: dict[str, Tensor], repeats: int) -> list[Row]:
    """Prune half of a file: streamed, and loaded, pruned and saved as a whole."""
    source = at / "in.safetensors"
    save_file(weights, source)
    del weights

    def streamed() -> None:
        shutil.rmtree(at / "out", ignore_errors=True)
        prune_checkpoint(source, at / "out", 0.5)

    def in_memory() -> None:
        tensors = load_file(source)
        scores = {name: tensor.abs() for name, tensor in tensors.items()}
        masks = select(scores, allocate(scores, 0.5))
        save_file(apply(tensors, masks), at / "whole.safetensors")
        save_file(pack(masks), at / "bits.safetensors")

    times = by_turns({"ours": streamed, "memory": in_memory}, turns=repeats, warm_up=1)
    name = f"prune {source.stat().st_size / 1e6:.0f} MB"
    return [compare(f"{name}, streamed", times["ours"], times["memory"], "in memory", unit="s")]


if __name__ == "__main__":
    main(
        measure,
        "Packed files (float32 and bfloat16, normal weights), and pruning from disk to disk",
    )
