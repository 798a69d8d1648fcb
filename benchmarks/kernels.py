"""Single layers in float32 and int8: sparse kernels against the best dense kernel of torch.

Peers in float32 are torch's own kernels and oneDNN's with weights packed beforehand, in either
memory format, whichever is fastest; in int8, oneDNN's, which torch has for its quantised networks.
Layouts are what each side likes best. Int8 kernels, dense and in 1×4 blocks, are also held to our
float32 kernel of the same sparsity, and all kernels of layers to this core's peak of multiply-adds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from measuring import Row, compare, main
from torch.nn import functional

from boxwood._internal.core.timing import by_turns
from boxwood._internal.engine import costs
from boxwood._internal.engine.kernels import conv, int8_build, matvec, peak
from boxwood._internal.engine.kernels.contract import Kernel
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.int8_conv import Int8Conv
from boxwood._internal.engine.kernels.matvec import MatVec
from boxwood._internal.engine.kernels.quads import Quantisation, quad_count
from boxwood._internal.engine.layouts import padded
from boxwood._internal.engine.llvm.jit import default_cache, load_codes
from boxwood._internal.engine.targets import Dots, host

SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
ROUNDS = 20_000
PER_FLOAT = {Dots.VNNI: 4.0, Dots.PAIRS: 2.0, Dots.SIGNED: 4.0}
"""Products of bytes in the time of one of float32: four in a word. In pairs they take two
multiplications, and an addition that no multiplier does."""


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
    sparsities = (0.8,) if quick else SPARSITIES
    rows: list[Row] = []
    for name, problem in LAYERS.items():
        rows += layer(name, problem, sparsities, repeats)
    for name, (inputs, outputs) in MATRICES.items():
        rows += matrix(name, inputs, outputs, sparsities, repeats)
    return rows


def layer(name: str, problem: Conv, sparsities: tuple[float, ...], repeats: int) -> list[Row]:
    """One convolution or linear layer, in float32 and in int8."""
    positions = problem.target.height * problem.target.width
    kernels, useful = {}, {}
    for sparsity in sparsities:
        weight = pruned(problem.weight_shape, sparsity, 1)
        packing = costs.choose_packing(problem, weight, host())
        kernel = conv.build(problem, weight, None, host(), packing=packing)
        kernels[f"{sparsity:.0%}"] = (kernel, problem)
        useful[f"{sparsity:.0%}"] = np.count_nonzero(weight) * positions
    floats = Side(kernels, dense_peers(problem), useful)
    on_bytes = int8_problem(problem)
    kernels, useful = {}, {}
    for sparsity in sparsities:
        weight = in_blocks(on_bytes.weight_shape, sparsity)
        units = np.full((2, len(weight)), 1e-4, np.float32)
        packing = costs.choose_int8_packing(on_bytes, weight, units, host())
        kernel = int8_build.build(on_bytes, weight, units, host(), packing=packing)
        key = f"int8, {sparsity:.0%}{' in 1×4 blocks' if sparsity else ''}"
        kernels[key] = (kernel, on_bytes.shape)
        useful[key] = np.count_nonzero(weight) * positions
    bytes_ = Side(kernels, int8_peers(problem), useful, PER_FLOAT[host().dots], floats)
    return timed(name, [floats, bytes_], repeats, unit="ms")


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
    return timed(f"matrix {name}", [Side(kernels, peers)], repeats, unit="ms")


@dataclass(frozen=True)
class Side:
    """Kernels of one precision.

    Args:
        kernels: with the layouts that they read and write, by name.
        peers: dense ones, in the same precision.
        useful: multiply-adds of weights that are not zero, of kernels that are held to the peak.
        per_float: multiply-adds at this core's peak in the time of one in float32.
        floats: our kernels of the same sparsities in float32, in the same order.
    """

    kernels: Mapping[str, tuple[Kernel, Conv | MatVec]]
    peers: Mapping[str, Callable[[], object]]
    useful: Mapping[str, int] = field(default_factory=dict)
    per_float: float = 1.0
    floats: "Side | None" = None


def timed(name: str, sides: Sequence[Side], repeats: int, *, unit: str) -> list[Row]:
    """Time everything by turns; the peer of every row is the one of its side with the least median."""
    roof = peak.build(ROUNDS, host()), conv.linear(16, 16, 16)
    kernels = {"peak": roof} | {key: each for side in sides for key, each in side.kernels.items()}
    library = load_codes([kernel.code for kernel, _ in kernels.values()], host(), default_cache())
    ours = {
        key: costs.TimedKernel(kernel, problem.source, problem.target, library)
        for key, (kernel, problem) in kernels.items()
    }
    peers = {key: peer for side in sides for key, peer in side.peers.items()}
    with torch.inference_mode():
        times = by_turns(
            {**ours, **peers}, turns=repeats, calls=8, clock=time.thread_time, warm_up=1
        )
    milliseconds = {key: [1e3 * each for each in series] for key, series in times.items()}
    return [row for side in sides for row in _rows(name, side, milliseconds, unit)]


def _rows(name: str, side: Side, taken: Mapping[str, Sequence[float]], unit: str) -> list[Row]:
    best = min(side.peers, key=lambda peer: float(np.median(taken[peer])))
    rows = [
        compare(f"{name}, {key}", taken[key], taken[best], best, unit=unit) for key in side.kernels
    ]
    if side.floats is not None:
        rows += [
            compare(
                f"{name}, {key}", taken[key], taken[other], f"ours, float32, {other}", unit=unit
            )
            for key, other in zip(side.kernels, side.floats.kernels, strict=True)
        ]
    for key, count in side.useful.items():
        # As times, so that the pairs stay pairs: what the peak would take, over what it took.
        ideal = count / (ROUNDS * peak.multiply_adds(host()) * side.per_float)
        needed = [ideal * each for each in taken["peak"]]
        rows.append(compare(f"{name}, {key}", needed, taken[key], "at this core's peak", unit=unit))
    return rows


def int8_problem(problem: Conv) -> Int8Conv:
    """The same layer on bytes, which are in quads of channels, and to bytes."""
    (outputs, inputs, *_), source, target = problem.weight_shape, problem.source, problem.target
    shape = replace(
        problem,
        source=replace(source, channels=quad_count(source.channels)),
        target=replace(target, channels=quad_count(target.channels)),
    )
    return Int8Conv(shape, outputs, inputs, Quantisation(0.1, 0))


def in_blocks(shape: tuple[int, ...], sparsity: float) -> np.ndarray:
    """Bytes of which exactly the given share, in blocks of four inputs, is zero; pairs fit 16 bits."""
    rng = np.random.default_rng(0)
    weight = rng.choice(np.delete(np.arange(-63, 64), 63), shape).astype(np.int8)
    kept = np.ones((shape[0], shape[1] // 4, *shape[2:]), bool)
    kept.reshape(-1)[rng.permutation(kept.size)[: round(sparsity * kept.size)]] = False
    return np.where(np.repeat(kept, 4, 1), weight, 0).astype(np.int8)


def int8_peers(problem: Conv) -> dict[str, Callable[[], object]]:
    """OneDNN's dense int8 layer, as torch's own quantised networks use it: bytes in, bytes out."""
    weight = torch.from_numpy(in_blocks(problem.weight_shape, 0.0))
    units, zeros = torch.full((len(weight),), 0.01), torch.zeros(len(weight), dtype=torch.int64)
    x = torch.randint(0, 256, (1, *problem.source.shape), dtype=torch.uint8)
    x = x.to(memory_format=torch.channels_last)
    pad, once, to = list(problem.padding), [1, 1], (1.0, 0, torch.uint8, "none", [], "")
    ops = torch.ops.onednn
    packed = ops.qconv_prepack(weight, units, 0.01, 0, once, pad, once, 1, list(x.shape))
    peers: dict[str, Callable[[], object]] = {
        "oneDNN, int8": lambda: ops.qconv2d_pointwise(
            x, 0.01, 0, packed, units, zeros, None, once, pad, once, 1, *to
        )
    }
    if problem.source.height == 1:
        tokens = x[0, :, 0].T.contiguous()
        matrix = ops.qlinear_prepack(weight[:, :, 0, 0].contiguous(), list(tokens.shape))
        peers["oneDNN, int8, linear"] = lambda: ops.qlinear_pointwise(
            tokens, 0.01, 0, matrix, units, zeros, None, *to
        )
    return peers


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
