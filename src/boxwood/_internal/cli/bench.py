"""``boxwood bench``: which engine runs a network and its pruned variants fastest on this machine."""

import copy
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from boxwood._internal.cli import checks
from boxwood._internal.cli.agreement import (
    Agreement,
    BenchData,
    agreement,
    first_outputs,
    read_bench_data,
)
from boxwood._internal.cli.bench_results import (
    Entry,
    absent_lines,
    fastest,
    size_lines,
    table,
    verdict,
)
from boxwood._internal.cli.models import (
    Inputs,
    ModelName,
    Settings,
    Sparsity,
    Threads,
    Weights,
    check_takes,
    example_of,
    read_network,
)
from boxwood._internal.cli.patterns import Pattern, prune_magnitudes_, read_pattern
from boxwood._internal.cli.progress import bar
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.core.timing import Run
from boxwood._internal.engine.backends import (
    Backend,
    Calibration,
    Forward,
    boxwood_engine,
    onnx_runtime,
    openvino,
    time_backends,
    torch_compiled,
    torch_eager,
)
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood.errors import InvalidInput

DENSE = "dense"
OURS = "Boxwood's engine"


def bench(
    model: ModelName,
    inputs: Inputs = None,
    weights: Weights = None,
    sparsity: Sparsity = 0.0,
    pattern: Pattern = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help="Also time the network with only this fraction of its units.",
            callback=checks.fraction(of_what="units", one=True),
        ),
    ] = None,
    settings: Settings = None,
    threads: Threads = 1,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set, or file.py:function that returns one or a list of "
            "batches. It calibrates int8, and adds accuracy and agreement with "
            "the dense network to the table."
        ),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(
            help="With --data: number of examples to measure accuracy on.", callback=checks.whole(1)
        ),
    ] = 500,
    turns: Annotated[
        int, typer.Option(help="Number of timed runs of each.", callback=checks.whole(1))
    ] = 21,
    torch_compile: Annotated[bool, typer.Option(help="Also time torch.compile.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Time only entries with this text in their name, such as onnx, zeros "
            "or 'torch, dense'. Dense torch always runs. Repeatable."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Time a network in every engine on this machine, and show which is fastest.

    It times the dense network, the pruned one (--sparsity), the one with fewer units (--keep), and
    the one with both. Each runs in torch, and in ONNX Runtime, OpenVINO and Boxwood's engine in
    float32 and int8, if they are installed.

    Example: boxwood bench torchvision.models:resnet50 --input 1x3x224x224 --sparsity 0.9 --keep 0.5

    Example: boxwood bench nets.py:lenet --weights pruned.safetensors --data fashion-mnist
    """
    batch = example_of(inputs)[0].shape[0] if inputs else None
    shown = None if data is None else read_bench_data(data, batch, examples)
    shapes = inputs or (shown.shapes() if shown is not None else ())
    dense, example = read_network(model, shapes, settings or (), weights)
    if shown is not None:
        example = shown.like(example)
    check_takes(dense, example)
    torch.set_num_threads(threads)
    networks = _networks(dense, example, sparsity, pattern, keep)
    calibration = () if shown is None else shown.calibration
    makers = _entries(networks, example, threads, calibration, compiled=torch_compile)
    entries = _chosen(makers, only or ())
    runs: dict[str, Run] = {}
    forwards: dict[Entry, Forward] = {}
    absent: dict[Entry, str] = {}
    with bar("preparing", quiet=False) as report:
        for done, entry in enumerate(entries):
            if report is not None:
                report(done, len(entries))
            backend = entry.make()
            if backend.run is None or backend.forward is None:
                absent[entry] = backend.why_not
            else:
                runs[entry.name], forwards[entry] = backend.run, backend.forward
    with bar("racing, turn", quiet=False) as report:
        results = time_backends(runs, turns=turns, progress=report or (lambda done, whole: None))  # noqa: ARG005
    by_entry = {
        entry: result for entry in entries for result in results if result.name == entry.name
    }
    judged = {} if shown is None else _judged(forwards, shown)
    winner, sizes = fastest(by_entry), _sizes(networks)
    said = verdict(by_entry, judged)
    if as_json:
        found = {
            "machine": {
                "cpu": platform.processor(),
                "threads": threads,
                "torch": torch.__version__,
            },
            "networks": sizes,
            "results": [
                _facts(entry)
                | asdict(result)
                | ({"judged": asdict(judged[entry])} if judged else {})
                for entry, result in by_entry.items()
            ],
            "absent": {entry.name: why for entry, why in absent.items()},
            "winner": {"name": winner.name} | _facts(winner),
            "verdict": said,
        }
        say(json.dumps(found, indent=1))
        return
    Console().print(table(by_entry, judged))
    for line in size_lines(sizes, by_entry, judged):
        say(line)
    for line in absent_lines(absent, len(networks)):
        say(line)
    say(said)


def _networks(
    dense: nn.Module,
    example: Sequence[Tensor],
    sparsity: float,
    pattern: str | None,
    keep: float | None,
) -> dict[str, nn.Module]:
    """Return the network and what is made of it, by name."""
    share = sparsity if pattern is None else read_pattern(pattern, sparsity or None)[0]
    zeros = f"{100 * share:.4g}% zeros" + (f" in {pattern}" if pattern else "")
    found = {DENSE: dense}
    if share:
        found[zeros] = _pruned(dense, sparsity, pattern)
    if keep is not None:
        name = f"{100 * keep:.4g}% of units"
        found[name] = shrink(dense, select_units(find_units(dense, tuple(example)), keep))
        if share:
            found[f"{name}, {zeros}"] = _pruned(found[name], sparsity, pattern)
    return found


def _pruned(model: nn.Module, sparsity: float, pattern: str | None) -> nn.Module:
    model = copy.deepcopy(model)
    prune_magnitudes_(model, sparsity, pattern)
    return model


def _entries(
    networks: Mapping[str, nn.Module],
    example: Sequence[Tensor],
    threads: int,
    calibration: Calibration,
    *,
    compiled: bool,
) -> list[Entry]:
    makers: list[tuple[str, bool, Callable[..., Backend]]] = [
        ("torch", False, partial(torch_eager, "torch")),
        *([("torch.compile", False, torch_compiled)] if compiled else []),
        ("ONNX Runtime", False, onnx_runtime),
        ("OpenVINO", False, openvino),
        (OURS, False, boxwood_engine),
        ("ONNX Runtime", True, partial(onnx_runtime, int8=True, calibration=calibration)),
        ("OpenVINO", True, partial(openvino, int8=True, calibration=calibration)),
        (OURS, True, partial(boxwood_engine, int8=True, calibration=calibration)),
    ]
    return [
        Entry(engine, name, int8, partial(make, network, example, threads))
        for name, network in networks.items()
        for engine, int8, make in makers
    ]


def _chosen(entries: Sequence[Entry], only: Sequence[str]) -> list[Entry]:
    """Return the first entry, dense torch, and those whose name has one of the texts in it."""
    for text in only:
        if not any(text.lower() in entry.name.lower() for entry in entries):
            engines = ", ".join(dict.fromkeys(entry.engine for entry in entries))
            networks = "; ".join(dict.fromkeys(entry.network for entry in entries))
            raise InvalidInput(
                f"Expected --only to be part of the name of an engine ({engines}), of a network "
                f"({networks}) or int8, got {text!r}; give a part of one of these names."
            )
    wanted = [text.lower() for text in only] or [""]
    return [
        entry
        for place, entry in enumerate(entries)
        if place == 0 or any(text in entry.name.lower() for text in wanted)
    ]


def _judged(forwards: Mapping[Entry, Forward], data: BenchData) -> dict[Entry, Agreement]:
    """Hold every network in every engine to the first, the dense one in torch."""
    found: dict[Entry, Agreement] = {}
    dense: list[Tensor] = []
    with bar("judging", quiet=False) as report:
        for done, (entry, forward) in enumerate(forwards.items()):
            if report is not None:
                report(done, len(forwards))
            outputs = first_outputs(forward, data.judged)
            dense = dense or outputs
            found[entry] = agreement(outputs, dense, data.judged)
    return found


def _sizes(networks: Mapping[str, nn.Module]) -> dict[str, dict[str, int]]:
    return {
        name: {
            "parameters": sum(each.numel() for each in network.parameters()),
            "nonzero": sum(int(each.count_nonzero()) for each in network.parameters()),
        }
        for name, network in networks.items()
    }


def _facts(entry: Entry) -> dict[str, Any]:
    return {"engine": entry.engine, "network": entry.network, "int8": entry.int8}
