"""Requests per second of concurrent callers: one compiled network, against ONNX Runtime.

1, 4 and 16 threads call the same session, each again and again with one example, for a fixed time;
both sides take turns and have the same number of threads for a call (``--threads``). Weights are
random and pruned layer by layer to 80 %; the peer runs them dense. Where ONNX Runtime is not installed
(the extra ``peers``), torch is the peer. A network accelerated in place is compared with torch too.
"""

import copy
import itertools
import threading
import time
from collections.abc import Callable

import torch
from measuring import Row, compare, main
from torch import Tensor, nn

import boxwood
from boxwood._internal.engine.backends import onnx_runtime, torch_eager
from boxwood._internal.zoo.cifar_nets import resnet_20

SPARSITY = 0.8
CALLERS = (1, 4, 16)


def perceptron() -> nn.Module:
    """Three layers, as rank and recommend."""
    sizes = (512, 1024, 1024, 64)
    layers = [
        layer
        for inputs, outputs in itertools.pairwise(sizes)
        for layer in (nn.Linear(inputs, outputs), nn.ReLU())
    ]
    return nn.Sequential(*layers[:-1])


def encoder() -> nn.Module:
    """Six layers of the size of a small sentence encoder."""
    layer = nn.TransformerEncoderLayer(384, 12, 1536, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, (1, 512)),
    "ResNet-20": (resnet_20, (1, 3, 32, 32)),
    "encoder, 64 tokens": (encoder, (1, 64, 384)),
}


def rate(run: Callable[[], object], callers: int, seconds: float) -> float:
    """Return the requests per second of a number of threads that do nothing else."""
    counts, start = [0] * callers, threading.Barrier(callers + 1)
    end = [0.0]

    def call(number: int) -> None:
        run()
        start.wait()
        while time.perf_counter() < end[0]:
            run()
            counts[number] += 1

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    end[0] = float("inf")
    start.wait()
    begin = time.perf_counter()
    end[0] = begin + seconds
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begin)


def rows_of(
    name: str, ours: Callable[[], object], peer: Callable[[], object], peer_name: str, quick: bool
) -> list[Row]:
    """Let both serve by turns."""
    seconds, turns = (0.2, 3) if quick else (1.0, 7)
    found = []
    for callers in CALLERS:
        rates: tuple[list[float], list[float]] = ([], [])
        for turn in range(turns):
            for which in (0, 1) if turn % 2 else (1, 0):
                rates[which].append(rate((ours, peer)[which], callers, seconds))
        who = f"{name}, {callers} caller{'s' * (callers > 1)}"
        found.append(compare(who, *rates, peer_name, unit="requests/s"))
    return found


def measure(quick: bool) -> list[Row]:
    """All networks."""
    found, threads = [], torch.get_num_threads()
    for name, (make, shape) in NETWORKS.items():
        torch.manual_seed(0)
        net, x = make().eval(), torch.randn(shape)
        boxwood.prune_(net, SPARSITY, allocation=boxwood.allocation.uniform)
        session = boxwood.compile(net, x, threads=threads)
        peer = onnx_runtime(net, (x,), threads)
        if peer.run is None:
            peer = torch_eager("torch", net, (x,), threads)
        found += rows_of(name, lambda run=session, x=x: run(x), peer.run, peer.name, quick)
        if name == "perceptron":
            found += rows_of(f"{name} by accelerate_", *_in_place(net, x), "torch", quick)
    return found


def _in_place(net: nn.Module, x: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    fast = copy.deepcopy(net)
    boxwood.accelerate_(fast)

    def call(each: nn.Module) -> Tensor:
        with torch.inference_mode():
            return each(x)

    return lambda: call(fast), lambda: call(net)


if __name__ == "__main__":
    main(measure, __doc__)
