"""Exact global selection against a sort-free peer: concatenate, kthvalue, compare."""

import json
import resource
import subprocess
import sys

import torch
from measuring import Row, compare, main
from torch import Tensor

from boxwood._internal.core.allocation import allocate
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.selection import select
from boxwood._internal.core.timing import by_turns

SPARSITY = 0.9
TENSORS = 10
COLUMNS = 1000
PEER = "cat + kthvalue"


def measure(quick: bool) -> list[Row]:
    """Measure time here, and memory in a process for each way."""
    each = 2_000_000 if quick else 10_000_000
    # Memory first: a process inherits the peak of the one that starts it.
    grown = {way: growth(way, each) for way in ("ours", "theirs")}
    weights = scores(each)
    steps = {"ours": lambda: ours(weights), "peer": lambda: theirs(weights)}
    times = by_turns(steps, turns=5 if quick else 7, warm_up=1)
    grouped = {"ours": lambda: in_blocks(weights), "peer": lambda: ours(weights)}
    blocks = by_turns(grouped, turns=5 if quick else 7, warm_up=1)
    name = f"{TENSORS} x {each / 1e6:.0f} M"
    rows = [compare(f"{name}: time", times["ours"], times["peer"], PEER, unit="s")]
    rows.append(
        compare(
            f"{name} in 1x4 blocks: time",
            blocks["ours"],
            blocks["peer"],
            "single weights",
            unit="s",
        )
    )
    kinds = ("working memory", "with the masks")
    for kind, mine, peers in zip(kinds, grown["ours"], grown["theirs"], strict=True):
        rows.append(compare(f"{name}: {kind}", [mine], [peers], PEER, unit="weights' bytes"))
    return rows


def scores(each: int) -> dict[str, Tensor]:
    """Absolute values of normal random numbers; in place, so that the peak is the weights alone."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"w{i}": torch.randn(each, generator=generator).abs_().view(-1, COLUMNS)
        for i in range(TENSORS)
    }


def ours(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Exact counts, and ties in order."""
    return select(weights, allocate(weights, SPARSITY))


def in_blocks(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same share of blocks of four."""
    blocks = Blocks(1, 4)
    pooled = {name: blocks.pool(weight) for name, weight in weights.items()}
    return select(weights, allocate(pooled, SPARSITY), blocks)


def theirs(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Find the threshold over everything, then compare; ties at it are all pruned."""
    everything = torch.cat([weight.view(-1) for weight in weights.values()])
    limit = everything.kthvalue(round(SPARSITY * everything.numel())).values
    return {name: weight > limit for name, weight in weights.items()}


def growth(way: str, each: int) -> tuple[float, float]:
    """Rise of the peak memory of a fresh process, over the bytes of the weights.

    Returns:
        Without the masks that it returns, and with them.
    """
    command = [sys.executable, __file__, "--grow", way, str(each)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    extra = json.loads(done.stdout)
    weights, masks = 4 * TENSORS * each, TENSORS * each
    return max(extra - masks, 0) / weights, extra / weights


def grow(way: str, each: int) -> None:
    """Print the bytes by which the peak of this process rises."""
    torch.set_num_threads(1)
    run = {"ours": ours, "theirs": theirs}[way]
    run({"w": torch.rand(1000)})  # loads what is loaded once
    weights = scores(each)
    before = peak()
    kept = run(weights)
    print(peak() - before)
    del kept


def peak() -> int:
    """Peak resident bytes of this process."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    if sys.argv[1:2] == ["--grow"]:
        grow(sys.argv[2], int(sys.argv[3]))
    else:
        main(measure, f"Masks of sparsity {SPARSITY} over all tensors together")
