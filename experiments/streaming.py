"""A checkpoint larger than memory is meant to be pruned exactly, in little memory, through kills.

Generates a sharded checkpoint (bfloat16 and float32, values that repeat, so that ties are many),
prunes half of it globally in a process of its own, and checks the result with numpy: the count of
zeros, and that nothing kept is smaller than anything dropped. A small one is pruned again under
SIGKILL at random moments, and compared byte by byte. Both are deleted afterwards.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from boxwood._internal.files.mask_files import FOLDER, open_masks
from boxwood._internal.runs.provenance import provenance
from boxwood.files import open_checkpoint
from boxwood.oneshot import prune_checkpoint

SPARSITY = 0.5
BLOCK = 4_000_003  # values after which they repeat; odd, so that chunks never meet blocks
SHARDS, LARGEST = 8, 1 << 30  # at least this number of shards, each of this number of bytes at most


def main() -> None:
    """Check memory on a large checkpoint and resumption on a small one; write both down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=20, help="of the large checkpoint (20)")
    parser.add_argument("--small", type=float, default=2, help="of the one that is killed (2)")
    parser.add_argument("--kills", type=int, default=6, help="how often it is killed (6)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=Path("experiments/results/streaming.json"))
    given = parser.parse_args()
    found = {
        "sparsity": SPARSITY,
        "resumed": scratch(given.folder, lambda at: resumed(at, given.small, given.kills)),
        "large": scratch(given.folder, lambda at: measured(at, given.gigabytes)),
        "machine": {**provenance(), "memory_bytes": memory(), "cores": os.cpu_count()},
    }
    given.out.write_text(json.dumps(found, indent=1, default=str) + "\n")
    print(json.dumps(found, indent=1, default=str))


def scratch(folder: Path, work):
    """Do something in a folder that does not outlive it."""
    at = Path(tempfile.mkdtemp(prefix="boxwood-streaming-", dir=folder))
    try:
        return work(at)
    finally:
        shutil.rmtree(at)


def measured(at: Path, gigabytes: float) -> dict[str, object]:
    """Prune a checkpoint in a process of its own and check what came out."""
    size = make(at / "in", gigabytes)
    before = stamps(at / "in")
    begin = time.perf_counter()
    ended = json.loads(start(at, "out").communicate()[0])
    seconds = time.perf_counter() - begin
    return {
        "bytes": size,
        "shards": len(list((at / "in").glob("*.safetensors"))),
        "seconds": round(seconds, 1),
        "peak_rss_bytes": ended["peak_rss_bytes"],
        "peak_rss_after_imports_bytes": ended["imports_bytes"],
        "input_untouched": stamps(at / "in") == before,
        **checked(at),
    }


def resumed(at: Path, gigabytes: float, kills: int) -> dict[str, object]:
    """Prune undisturbed, then under kills, and compare the bytes of every file."""
    size = make(at / "in", gigabytes)
    begin = time.perf_counter()
    start(at, "calm").communicate()
    seconds = time.perf_counter() - begin
    chance, moments = random.Random(0), []
    for _ in range(kills):
        process = start(at, "storm")
        # Later moments each time: earlier ones would only ever meet the first shards.
        wait = chance.uniform(0, seconds)
        try:
            process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            shards = sum(1 for _ in (at / "storm").glob("[!.]*.safetensors"))
            moments.append({"after_seconds": round(wait, 2), "shards_finished": shards})
    start(at, "storm").communicate()
    calm, storm = digests(at / "calm"), digests(at / "storm")
    return {
        "bytes": size,
        "seconds_undisturbed": round(seconds, 1),
        "kills": moments,
        "files": len(calm),
        "bytes_equal": calm == storm,
        **checked(at, "storm"),
    }


def make(folder: Path, gigabytes: float) -> int:
    """Write shards like those of a language model; returns their bytes."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(BLOCK, generator=generator)
    where, size, shard = {}, 0, 0
    wanted = int(gigabytes * 1e9)
    largest = min(LARGEST, wanted // SHARDS)
    while size < wanted:
        dtype = torch.float32 if shard % 4 == 3 else torch.bfloat16
        rows = max(1, min(largest, wanted - size) // (4 * 4096 * dtype.itemsize))
        tensors = {"norm.weight": torch.ones(4096, dtype=dtype)}
        for part in range(4):
            scale = 0.02 * (1 + torch.rand((), generator=generator))
            long = (block * scale).to(dtype).repeat(rows * 4096 // BLOCK + 1)
            tensors[f"mlp.{part}.weight"] = long[: rows * 4096].view(rows, 4096)
        tensors = {f"layers.{shard}.{name}": tensor for name, tensor in tensors.items()}
        name = f"model-{shard:05d}.safetensors"
        save_file(tensors, folder / name, {"format": "pt"})
        where |= dict.fromkeys(tensors, name)
        size += (folder / name).stat().st_size
        shard += 1
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return size


def start(at: Path, out: str) -> subprocess.Popen[bytes]:
    """Prune in a process of its own."""
    command = [sys.executable, __file__, "--child", str(at / "in"), str(at / out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603


def child(source: Path, out: Path) -> None:
    """Prune, and print the peak of this process's memory."""
    torch.set_num_threads(1)
    imports = peak()
    prune_checkpoint(source, out, SPARSITY)
    print(json.dumps({"peak_rss_bytes": peak(), "imports_bytes": imports}))


def checked(at: Path, out: str = "out") -> dict[str, object]:
    """Compare with the input in numpy: counts, order, and what was left alone."""
    before, after = open_checkpoint(at / "in"), open_checkpoint(at / out)
    weights = zeros = 0
    smallest_kept, largest_dropped, copied = np.inf, 0.0, True
    for old, new in zip(before.shards, after.shards, strict=True):
        masks = open_masks(at / out / FOLDER / new.name)
        for was, now in zip(old.tensors(), new.tensors(), strict=True):
            if was.name not in masks:
                copied &= all(a == b for a, b in zip(was.chunks(), now.chunks(), strict=True))
                continue
            chunks = zip(was.chunks(), now.chunks(), masks[was.name].chunks(), strict=True)
            for piece, pruned, mask in chunks:
                values, left = (floats(p, was.entry.dtype) for p in (piece, pruned))
                weights += len(values)
                zeros += len(left) - int(np.count_nonzero(left))
                copied &= bool(np.array_equal(left, np.where(mask, values, 0)))
                size = np.abs(values)
                smallest_kept = min(smallest_kept, float(size[mask].min(initial=np.inf)))
                largest_dropped = max(largest_dropped, float(size[~mask].max(initial=0)))
    return {
        "weights": weights,
        "zeros": zeros,
        "exactly_half": zeros == weights - round((1 - SPARSITY) * weights),
        "smallest_kept": smallest_kept,
        "largest_dropped": largest_dropped,
        "kept_values_untouched": copied,
    }


def floats(piece: memoryview, dtype: str) -> np.ndarray:
    """Read float32 or bfloat16 in numpy."""
    if dtype == "F32":
        return np.frombuffer(piece, "<f4")
    return (np.frombuffer(piece, "<u2").astype("<u4") << 16).view("<f4")


def digests(folder: Path) -> dict[str, str]:
    """Hash every file of a folder."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        found[str(path.relative_to(folder))] = digest
    return found


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Say when every file was last changed, and how large it is."""
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()}


def peak() -> int:
    """Peak resident bytes of this process alone: rusage would pass on those of its parent."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
