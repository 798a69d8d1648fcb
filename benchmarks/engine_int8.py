"""Whole networks in int8: our engine with 1x4 blocks of zeros against the fastest dense engines.

The peers run the dense weights, in float32 and in int8 (ONNX Runtime by static quantisation,
OpenVINO by NNCF), and each row is against the fastest of its precision. Ours are pruned layer by
layer to the stated share of blocks of four inputs, the smallest first, and run in int8 where our
engine chooses to. All run by turns in one process; with one thread the clock is the processor's
time. The same inputs calibrate all. Weights are random but for the pretrained sentence encoder,
recogniser and EfficientNet-Lite0, which need the packages that `engine` names and are left out
without; the peers need onnx, onnxruntime, openvino and nncf. Networks come in order of importance;
none is begun once --minutes are over, and --out holds what is done, with the bytes of each network
and, at 80 %, a roofline for each layer. BOXWOOD_NETWORKS=name;name narrows it down.

On a processor with VNNI, ATEN_CPU_CAPABILITY=avx2 makes our engine and torch use AVX2 alone, and
ONEDNN_MAX_CPU_ISA=AVX2 torch's oneDNN. ONNX Runtime has no such switch, and a released OpenVINO
none for its own kernels: compare with what they reach on a processor without VNNI.

    python benchmarks/engine_int8.py --out experiments/results/engine_int8.json
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
from kernels import PER_FLOAT
from measuring import Row, compare, machine, main
from torch import Tensor, nn

from boxwood._internal.core.replacing import replacing
from boxwood._internal.core.timing import by_turns
from boxwood._internal.engine import costs
from boxwood._internal.engine.backends import (
    onnx_runtime,
    openvino,
    time_backends,
    torch_eager,
)
from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.kernels import conv, peak
from boxwood._internal.engine.llvm.jit import default_cache, load_codes
from boxwood._internal.engine.targets import host
from boxwood.granularity import Blocks
from engine import Network, built, networks

ORDER = (
    "ResNet-50", "encoder, 128 tokens", "MobileNet-v1", "sentences, 128 tokens", "recogniser",
    "VGG-16", "EfficientNet-Lite0",
)  # fmt: skip
SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9)
SHOWN = 0.8  # whose layers are held to the roofline
CALLS = 8  # that calibrate
ROUNDS = 20_000


@dataclass(frozen=True)
class Layer:
    """One layer in a kernel, and the least time that this core needs for it.

    Args:
        name: the operation, with its weight.
        place: what runs it.
        ms: measured.
        multiply_adds: of weights that are not zero.
        bytes: of packed weights, inputs and outputs.
        ms_of_multiply_adds: at this core's peak.
        ms_of_bytes: at the speed at which this core reads 4 MB.
    """

    name: str
    place: str
    ms: float
    multiply_adds: int
    bytes: int
    ms_of_multiply_adds: float
    ms_of_bytes: float


@dataclass(frozen=True)
class Size:
    """What a network takes in our engine.

    Args:
        sparsity: of its blocks.
        weights: that are not zero, in kernels.
        packed: bytes of these, with scales, biases and all tables.
        other: bytes of all other constants.
        file: bytes of the `.bxw` file, with the machine code.
    """

    sparsity: float
    weights: int
    packed: int
    other: int
    file: int

    @classmethod
    def of(cls, session: object, example: Sequence[Tensor], sparsity: float) -> "Size":
        """Look at a compiled network, and save it."""
        found = session.explain(*example, repeats=1)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.bxw"
            session.save(path)
            file = path.stat().st_size
        return cls(sparsity, found.nonzero, found.kernel_bytes, found.kept_bytes, file)

    def __str__(self) -> str:
        each = max(self.weights, 1)
        return f"{self.packed / each:.2f} in memory and {self.file / each:.2f} on disk at {self.sparsity:.0%}"


@dataclass(frozen=True)
class Roofs:
    """What this core does at most: multiply-adds of bytes, and bytes read, a second."""

    multiply_adds: float
    bytes: float

    @classmethod
    def measured(cls) -> "Roofs":
        """The peak of float32, times what bytes gain; and a sum over 4 MB, some network's weights."""
        kernel, problem = peak.build(ROUNDS, host()), conv.linear(16, 16, 16)
        library = load_codes([kernel.code], host(), default_cache())
        near = torch.zeros(1 << 20)
        timed = by_turns(
            {
                "peak": costs.TimedKernel(kernel, problem.source, problem.target, library),
                "read": lambda: near.sum(),
            },
            turns=9, calls=8, clock=time.thread_time, warm_up=1,
        )  # fmt: skip
        floats = ROUNDS * peak.multiply_adds(host()) / median(timed["peak"])
        return cls(
            floats * PER_FLOAT[host().dots], near.numel() * near.itemsize / median(timed["read"])
        )


def layers(
    session: object, model: nn.Module, example: Sequence[Tensor], roofs: Roofs
) -> list[Layer]:
    """Hold each layer with a weight to the roofs; activations count as bytes where the layer is int8."""
    sizes: dict[str, tuple[int, int]] = {}

    def seen(name: str) -> Callable[..., None]:
        def note(_: nn.Module, given: tuple[Tensor, ...], made: object) -> None:
            if isinstance(made, Tensor):
                sizes[f"{name}.weight"] = (given[0].numel(), made.numel())

        return note

    handles = [m.register_forward_hook(seen(n)) for n, m in model.named_modules() if hasattr(m, "weight")]  # fmt: skip
    with torch.inference_mode():
        model(*example)
    for handle in handles:
        handle.remove()
    weights = dict(model.named_parameters())
    found = []
    for line in session.explain(*example).lines:
        name = next((n for n in sizes if n in line.name.split()), None)
        if name is None or name not in weights or weights[name].dim() < 2:
            continue
        read, made = sizes[name]
        each = 1 if "int8" in line.place else 4
        count = int(weights[name].count_nonzero()) * (made // len(weights[name]))
        moved = line.nbytes + each * (read + made)
        found.append(
            Layer(
                line.name,
                line.place,
                1e3 * line.seconds,
                count,
                moved,
                1e3 * count / roofs.multiply_adds,
                1e3 * moved / roofs.bytes,
            )
        )
    return found


def rows_of(
    network: Network, sparsities: Sequence[float], turns: int, roofs: Roofs | None
) -> tuple[list[Row], list[Layer], list[Size]]:
    """One network: all peers, and ours at each sparsity, by turns."""
    threads = torch.get_num_threads()
    network = replace(network, granularity=Blocks(1, 4))
    example = network.example()
    shown = [example, *calibration(network)]
    dense = built(network, 0.0)
    peers = {
        "float32": [
            onnx_runtime(dense, example, threads),
            openvino(dense, example, threads),
            torch_eager("torch", dense, example, threads),
        ],
        "int8": [
            onnx_runtime(dense, example, threads, int8=True, calibration=shown),
            openvino(dense, example, threads, int8=True, calibration=shown),
        ],
    }
    runs = {}
    for peer in (*peers["float32"], *peers["int8"]):
        if peer.run is None:
            print(f"{network.name}: {peer.name} did not take part: {peer.why_not}", file=sys.stderr)
        else:
            runs[peer.name] = peer.run
    del dense
    gc.collect()
    found: list[Layer] = []
    sizes: list[Size] = []
    for sparsity in sparsities:
        model = built(network, sparsity)
        session = compile_(model, example, threads=threads, precision="int8", calibration=shown)
        runs[f"{sparsity:.0%}"] = lambda session=session: session(*example)
        sizes.append(Size.of(session, example, sparsity))
        if sparsity == SHOWN and roofs is not None:
            found = layers(session, model, example, roofs)
    clock = time.process_time if threads == 1 else time.perf_counter
    results = {each.name: each for each in time_backends(runs, turns=turns, clock=clock)}
    rows = []
    for precision, every in peers.items():
        there = [results[each.name] for each in every if each.name in results]
        if there:
            best = min(there, key=lambda each: each.median)
            for sparsity in sparsities:
                name = f"{network.name}, {sparsity:.0%} in 1x4 blocks, against dense {precision}"
                ours, theirs = (
                    [1e3 * s for s in each.seconds] for each in (results[f"{sparsity:.0%}"], best)
                )
                rows.append(compare(name, ours, theirs, best.name, unit="ms"))
    return rows, found, sizes


def calibration(network: Network) -> list[tuple[Tensor, ...]]:
    """Seeded inputs besides the example."""
    generator = torch.Generator().manual_seed(1)
    return [
        tuple(
            torch.randint(1000, 30_000, shape, generator=generator)
            if len(shape) == 2
            else torch.randn(shape, generator=generator)
            for shape in network.shapes
        )
        for _ in range(CALLS - 1)
    ]


def summary(name: str, found: Sequence[Layer]) -> str:
    """Say in one line how near a network's layers are to the roofline."""
    taken = sum(each.ms for each in found)
    least = sum(max(each.ms_of_multiply_adds, each.ms_of_bytes) for each in found)
    by_bytes = sum(each.ms_of_bytes > each.ms_of_multiply_adds for each in found)
    return (
        f"{name} at {SHOWN:.0%}: its {len(found)} layers with weights take {taken:.2f} ms; the roofline "
        f"is {least:.2f} ms, of bytes for {by_bytes} of them and of multiply-adds for the others"
    )


def write(out: Path, report: Mapping[str, object]) -> None:
    """Write what has been measured, whole or not at all."""
    with replacing(out) as new:
        new.write_text(json.dumps(report, indent=1) + "\n")


def options() -> argparse.ArgumentParser:
    """What this benchmark adds to those that all have."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--minutes", type=float, default=6.0, help="no network begins after them (6)"
    )
    parser.add_argument("--out", type=Path, help="a JSON file, written again after every network")
    return parser


def measure(quick: bool) -> list[Row]:
    """Measure all networks, as long as there is time; or MobileNet at one sparsity."""
    begun = time.monotonic()
    given, _ = options().parse_known_args()
    wanted = list(filter(None, os.environ.get("BOXWOOD_NETWORKS", "").split(";")))
    there = {each.name: each for each in networks(1)}
    names = [name for name in wanted or (["MobileNet-v1"] if quick else ORDER) if name in there]
    turns = int(os.environ.get("BOXWOOD_TURNS", "5" if quick else "11"))
    roofs = None if quick else Roofs.measured()
    report: dict[str, object] = {"machine": machine(), "target": str(host().cpu) + host().features}
    report |= {} if roofs is None else {"roofs": asdict(roofs)}
    every: list[Row] = []
    for name in names:
        minutes = (time.monotonic() - begun) / 60
        if minutes >= given.minutes:
            print(
                f"{name} and what follows is left out after {minutes:.1f} minutes", file=sys.stderr
            )
            break
        rows, found, sizes = rows_of(there[name], (SHOWN,) if quick else SPARSITIES, turns, roofs)
        every += rows
        said = "; ".join(map(str, sizes))
        print(f"{name}: bytes for each weight that is not zero: {said}", file=sys.stderr)
        if found:
            print(summary(name, found), file=sys.stderr)
        report[name] = {
            "rows": [asdict(row) for row in rows],
            "layers": [asdict(each) for each in found],
            "bytes": [asdict(each) for each in sizes],
        }
        if given.out is not None:
            write(given.out, report)
        gc.collect()
    return every


if __name__ == "__main__":
    main(measure, __doc__, options=options())
