"""Steps under masks, selection and updates of masks on a GPU, against what PyTorch has for them."""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from functools import partial

import torch
from binding import resnet, ways
from measuring import Row, compare, machine, main
from selection import SPARSITY, ours, theirs
from torch import Tensor

from boxwood._internal.core.timing import Clock, by_turns
from boxwood.policies import RigL

TENSORS = 10
RIGL = RigL(sparsity=SPARSITY, until=1000, every=100)


def measure(device: str, quick: bool) -> list[Row]:
    """Measure on a GPU; on the CPU with sizes that only show that this runs."""
    on_gpu = device == "cuda"
    clock = settled if on_gpu else time.perf_counter
    turns = 5 if quick else 30
    torch.manual_seed(0)
    size = 224 if on_gpu else 32
    images, targets = torch.randn(32, 3, size, size), torch.randint(10, (32,))
    rows = ways(
        f"ResNet-18, {size} px, batch 32",
        resnet().to(device),
        images.to(device),
        targets.to(device),
        repeats=turns if on_gpu else 2,
        calls=10 if on_gpu else 1,
        clock=clock,
    )
    each = 5_000_000 if on_gpu else 20_000
    weights = {f"w{i}": torch.randn(1000, each // 1000, device=device) for i in range(TENSORS)}
    return [*rows, *selections(weights, turns, clock), updates(weights, turns, clock)]


def settled() -> float:
    """Seconds, once the device has done all that it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def selections(weights: Mapping[str, Tensor], turns: int, clock: Clock) -> list[Row]:
    """Find masks over all tensors together: exact ones, and by two thresholds of PyTorch."""
    scores = {name: weight.abs() for name, weight in weights.items()}
    peers = {"cat + topk": by_topk, "cat + kthvalue": theirs}
    runs = {way: partial(find, scores) for way, find in {"ours": ours, **peers}.items()}
    times = by_turns(runs, turns, clock=clock, warm_up=1)
    name = f"selection, {millions(weights)}"
    return [compare(name, times["ours"], times[peer], peer, unit="s") for peer in peers]


def by_topk(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Find the threshold among the largest; ties at it are all kept."""
    everything = torch.cat([score.view(-1) for score in scores.values()])
    kept = everything.numel() - round(SPARSITY * everything.numel())
    limit = everything.topk(kept, sorted=False).values.min()
    return {name: score >= limit for name, score in scores.items()}


def updates(weights: Mapping[str, Tensor], turns: int, clock: Clock) -> Row:
    """Decide new masks once, by `RigL` and by two calls of ``topk`` for each tensor."""
    masks = RIGL.init(weights)
    scores = {name: weight.abs() * masks[name] for name, weight in weights.items()}
    gradients = {name: torch.randn_like(weight) for name, weight in weights.items()}
    runs = {
        "ours": lambda: RIGL.update(0, masks, scores, gradients),
        "peer": lambda: {
            name: dropped_and_grown(mask, scores[name], gradients[name])
            for name, mask in masks.items()
        },
    }
    times = by_turns(runs, turns, clock=clock, warm_up=1)
    name = f"RigL update, {millions(weights)}"
    return compare(name, times["ours"], times["peer"], "topk per tensor", unit="s")


def dropped_and_grown(mask: Tensor, score: Tensor, gradient: Tensor) -> Tensor:
    """Keep the largest weights, then grow where gradients are largest."""
    alive = int(mask.sum())
    kept = alive - round(RIGL.fraction * alive)
    new = torch.zeros_like(mask).view(-1)
    new[score.masked_fill(~mask, -1).view(-1).topk(kept, sorted=False).indices] = True
    new[gradient.abs().view(-1).masked_fill(new, -1).topk(alive - kept).indices] = True
    return new.view_as(mask)


def millions(weights: Mapping[str, Tensor]) -> str:
    """Say how many weights there are."""
    return f"{sum(weight.numel() for weight in weights.values()) / 1e6:.1f} M weights"


if __name__ == "__main__":
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="cpu: small sizes, to try it out"
    )
    given, others = options.parse_known_args()
    device = given.device
    if device == "cuda" and not torch.cuda.is_available():
        if "--json" in others:
            print(json.dumps({"machine": machine(), "rows": []}))
        print("Nothing measured: PyTorch finds no CUDA device (try --device cpu).", file=sys.stderr)
        sys.exit(0)
    main(partial(measure, device), f"Masks on a device ({device})", options=options)
