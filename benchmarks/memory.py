"""Resident memory of a pruned network: a compiled file that is loaded, against torch's dense weights.

Each is loaded in a process of its own, which runs it once and says by how much its resident memory
has grown since it had loaded and run a small one. Weights are random and pruned to the stated sparsity.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import Row, compare, main
from torch import nn

import boxwood

_CHILD = """
import resource, sys, torch, boxwood
from pathlib import Path
which, path, small, shape = sys.argv[1:4] + [[int(n) for n in sys.argv[4].split("x")]]
torch.set_num_threads(1)
x = torch.zeros(shape)
def grown(path, x):
    pages = lambda: int(Path("/proc/self/statm").read_text().split()[1])
    before = pages()
    net = boxwood.load(path) if which == "ours" else torch.load(path, weights_only=False)
    net(x)
    return resource.getpagesize() * (pages() - before)
with torch.inference_mode():
    grown(small, torch.zeros(1, 8))  # what is loaded once for any network
    print(grown(path, x))
"""


def layers(width: int, depth: int) -> nn.Module:
    """A perceptron of equal layers."""
    parts = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*parts)


def encoder(depth: int) -> nn.Module:
    """Layers of the size of BERT-base."""
    layer = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


def written(net: nn.Module, shape: tuple[int, ...], folder: Path) -> dict[str, Path]:
    """Write a network as either side loads it."""
    folder.mkdir()
    paths = {"ours": folder / "net.bxw", "dense": folder / "net.pt"}
    boxwood.compile(net, torch.zeros(shape)).save(paths["ours"])
    torch.save(net, paths["dense"])
    return paths


def grown(which: str, path: Path, small: Path, shape: tuple[int, ...]) -> float:
    """Megabytes that a process grows by, which has loaded and run a small network before."""
    size = "x".join(map(str, shape))
    command = [sys.executable, "-c", _CHILD, which, str(path), str(small), size]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return int(found.stdout) / 1e6


def measure(quick: bool) -> list[Row]:
    """All networks."""
    found = []
    networks: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        "perceptron 8 × 2048²": (lambda: layers(2048, 8), (1, 2048)),
        "BERT-base layers, 32 tokens": (lambda: encoder(2 if quick else 12), (1, 32, 768)),
    }
    for name, (make, shape) in networks.items():
        for sparsity in (0.8,) if quick else (0.5, 0.8, 0.9):
            torch.manual_seed(0)
            net = make().eval()
            boxwood.prune_(net, sparsity, allocation=boxwood.allocation.uniform)
            with tempfile.TemporaryDirectory() as folder:
                paths = written(net, shape, Path(folder) / "net")
                small = written(nn.Linear(8, 8).eval(), (1, 8), Path(folder) / "small")
                pairs = [
                    tuple(grown(which, path, small[which], shape) for which, path in paths.items())
                    for _ in range(1 if quick else 3)
                ]
            who = f"{name}, {100 * sparsity:.0f} %"
            found.append(compare(who, *zip(*pairs, strict=True), "torch, dense", unit="MB"))
    return found


if __name__ == "__main__":
    main(measure, __doc__)
