"""Single layers: sparse kernels against the best dense kernel of torch, and against this core's
peak of multiply-adds. Peers are torch's own kernels and oneDNN's with weights packed beforehand,
in either memory format, whichever is fastest; layouts are what each side likes best.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from measuring import Row, compare, main
from torch.nn import functional

from boxwood._internal.core.timing import by_turns
from boxwood._internal.engine import costs
from boxwood._internal.engine.kernels import conv, matvec, peak
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.matvec import MatVec
from boxwood._internal.engine.layouts import padded
from boxwood._internal.engine.llvm.jit import default_cache, load_codes
from boxwood._internal.engine.targets import host

SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
ROUNDS = 20_000


def one(inputs: int, outputs: int, size: int) -> Conv:
    """A 1×1 convolution of square planes, laid out as between 3×3 ones."""
    return Conv(padded(inputs, size, size, halo=1), padded(outputs, size, size, halo=1))


def three(channels: int, size: int) -> Conv:
    """A 3×3 convolution of square planes."""
    layout = padded(channels, size, size, halo=1)
    return Conv(layout, layout, (3, 3), padding=(1, 1))


LAYERS = {
    "1×1 64→256 @56": one(64, 256, 56),
    "1×1 256→1024 @14": one(256, 1024, 14),
    "1×1 1024→256 @14": one(1024, 256, 14),
    "1×1 512→2048 @7": one(512, 2048, 7),
    "linear 768→3072, 128 tokens": conv.linear(768, 3072, 128),
    "linear 3072→768, 128 tokens": conv.linear(3072, 768, 128),
    "3×3 64 @56": three(64, 56),
    "3×3 128 @28": three(128, 28),
    "3×3 256 @14": three(256, 14),
    "3×3 512 @7": three(512, 7),
}
MATRICES = {"1500→6000": (1500, 6000), "1024→1024": (1024, 1024), "3072→768": (3072, 768)}


def measure(quick: bool) -> list[Row]:
    """Every layer and matrix at every sparsity, ours and the peers by turns."""
    repeats = 5 if quick else 11
    sparsities = (0.8, 0.9) if quick else SPARSITIES
    rows: list[Row] = []
    for name, problem in LAYERS.items():
        rows += layer(name, problem, sparsities, repeats)
    for name, (inputs, outputs) in MATRICES.items():
        rows += matrix(name, inputs, outputs, sparsities, repeats)
    return rows


def layer(name: str, problem: Conv, sparsities: tuple[float, ...], repeats: int) -> list[Row]:
    """One convolution or linear layer."""
    peers = dense_peers(problem)
    kernels = {"peak": (peak.build(ROUNDS, host()), problem)}
    useful = {}
    for sparsity in sparsities:
        weight = pruned(problem.weight_shape, sparsity, 1)
        packing = costs.choose_packing(problem, weight, host())
        kernels[f"{sparsity:.0%}"] = (
            conv.build(problem, weight, None, host(), packing=packing),
            problem,
        )
        positions = problem.target.height * problem.target.width
        useful[f"{sparsity:.0%}"] = np.count_nonzero(weight) * positions
    return timed(name, kernels, peers, useful, repeats, unit="ms")


def matrix(
    name: str, inputs: int, outputs: int, sparsities: tuple[float, ...], repeats: int
) -> list[Row]:
    """One matrix times one vector, single zeros and 8×1 blocks."""
    problem = MatVec(inputs, outputs)
    dense = torch.from_numpy(pruned((outputs, inputs), 0.0, 1))
    x = torch.randn(inputs)
    peers = {
        "torch.mv": lambda: torch.mv(dense, x),
        "torch linear": lambda: functional.linear(x[None], dense),
    }
    kernels = {
        f"{sparsity:.0%} {kind}": (
            matvec.build(problem, pruned((outputs, inputs), sparsity, height), None, host()),
            problem,
        )
        for sparsity in sparsities
        for kind, height in (("single weights", 1), ("in 8×1 blocks", 8))
        if sparsity > 0 or height == 1
    }
    return timed(f"matrix {name}", kernels, peers, {}, repeats, unit="ms")


def timed(
    name: str,
    kernels: dict[str, tuple[object, object]],
    peers: dict[str, Callable[[], object]],
    useful: dict[str, int],
    repeats: int,
    *,
    unit: str,
) -> list[Row]:
    """Time everything by turns; the peer of every row is the one with the least median."""
    library = load_codes([kernel.code for kernel, _ in kernels.values()], host(), default_cache())
    ours = {
        key: costs.TimedKernel(kernel, problem.source, problem.target, library)
        for key, (kernel, problem) in kernels.items()
    }
    with torch.inference_mode():
        times = by_turns(
            {**ours, **peers}, turns=repeats, calls=8, clock=time.thread_time, warm_up=1
        )
    best = min(peers, key=lambda peer: float(np.median(times[peer])))
    milliseconds = {key: [1e3 * each for each in series] for key, series in times.items()}
    rows = [
        compare(f"{name}, {key}", milliseconds[key], milliseconds[best], best, unit=unit)
        for key in ours
        if key != "peak"
    ]
    for key, count in useful.items():
        # As times, so that the pairs stay pairs: what the peak would take, over what it took.
        ideal = count / (ROUNDS * peak.multiply_adds(host()))
        needed = [ideal * each for each in milliseconds["peak"]]
        rows.append(
            compare(f"{name}, {key}", needed, milliseconds[key], "at this core's peak", unit=unit)
        )
    return rows


def pruned(shape: tuple[int, ...], sparsity: float, height: int) -> np.ndarray:
    """Normal weights of which exactly the given share, in blocks of rows, is zero."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape, np.float32)
    blocks = np.ones((-(-shape[0] // height), int(np.prod(shape[1:]))), bool)
    zero = rng.permutation(blocks.size)[: round(sparsity * blocks.size)]
    blocks.ravel()[zero] = False
    mask = np.repeat(blocks, height, 0)[: shape[0]].reshape(shape)
    return np.where(mask, weight, np.float32(0))


def dense_peers(problem: Conv) -> dict[str, Callable[[], object]]:
    """Dense kernels of the same layer; a linear layer is also run as a 1×1 convolution."""
    weight = torch.from_numpy(pruned(problem.weight_shape, 0.0, 1))
    x = torch.randn(1, *problem.source.shape)
    last = torch.channels_last
    x_last, weight_last = (each.to(memory_format=last) for each in (x, weight))
    pad = list(problem.padding)
    packed = torch.ops.mkldnn._reorder_convolution_weight(
        weight, pad, [1, 1], [1, 1], 1, list(x.shape)
    )
    pointwise = torch.ops.mkldnn._convolution_pointwise
    peers: dict[str, Callable[[], object]] = {
        "torch": lambda: functional.conv2d(x, weight, padding=pad),
        "torch, channels last": lambda: functional.conv2d(x_last, weight_last, padding=pad),
        "oneDNN, packed": lambda: pointwise(
            x, packed, None, pad, [1, 1], [1, 1], 1, "none", [], ""
        ),
        "oneDNN, packed, channels last": lambda: pointwise(
            x_last, packed, None, pad, [1, 1], [1, 1], 1, "none", [], ""
        ),
    }
    if problem.source.height == 1:
        tokens, matrix = x[0, :, 0].T.contiguous(), weight[:, :, 0, 0].contiguous()
        peers["torch linear"] = lambda: functional.linear(tokens, matrix)
        features = x[0, :, 0].contiguous()
        peers["torch.mm"] = lambda: matrix @ features
    return peers


if __name__ == "__main__":
    main(measure, __doc__ or "")
