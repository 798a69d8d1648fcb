"""``boxwood bench``: what runs a network fastest on this machine, and the networks made of it."""

import copy
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.table import Table
from torch import Tensor, nn

from boxwood._internal.cli import checks
from boxwood._internal.cli.models import (
    Inputs,
    ModelName,
    Settings,
    Sparsity,
    Threads,
    Weights,
    check_takes,
    read_network,
)
from boxwood._internal.cli.patterns import Pattern, prune_magnitudes_, read_pattern
from boxwood._internal.cli.progress import bar
from boxwood._internal.cli.terminal import Console, say
from boxwood._internal.core.timing import Run, median_interval
from boxwood._internal.engine.backends import (
    Backend,
    BackendTimes,
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


@dataclass(frozen=True)
class Entry:
    """A network in an engine.

    Args:
        engine: that runs it.
        network: name of the network.
        int8: whether it runs in whole numbers of eight bits.
        make: prepares it.
    """

    engine: str
    network: str
    int8: bool
    make: Callable[[], Backend]

    @property
    def runner(self) -> str:
        """Engine and precision."""
        return self.engine + " int8" * self.int8

    @property
    def name(self) -> str:
        """Engine, network and what nobody checked."""
        return f"{self.engine}, {self.network}{', int8; accuracy not checked' * self.int8}"


def bench(
    model: ModelName,
    inputs: Inputs = None,
    weights: Weights = None,
    sparsity: Sparsity = 0.0,
    pattern: Pattern = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help="Race the network cut down to this fraction of its units as well.",
            callback=checks.fraction(of_what="units", one=True),
        ),
    ] = None,
    settings: Settings = None,
    threads: Threads = 1,
    turns: Annotated[int, typer.Option(help="How often each runs.", callback=checks.whole(1))] = 21,
    torch_compile: Annotated[bool, typer.Option(help="Race torch.compile as well.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Race only what has this in its name, as onnx, zeros or 'torch, dense', and "
            "dense torch. Repeat."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Run a network in every engine that this machine has, by turns, and say what is fastest.

    It races the network, the pruned one (--sparsity), the one with fewer units (--keep), and that one
    pruned, each in torch, in ONNX Runtime and OpenVINO (float32 and int8), and in Boxwood's engine.

    Example: boxwood bench torchvision.models:resnet50 --input 1x3x224x224 --sparsity 0.9 --keep 0.5
    """
    dense, example = read_network(model, inputs or (), settings or (), weights)
    check_takes(dense, example)
    torch.set_num_threads(threads)
    networks = _networks(dense, example, sparsity, pattern, keep)
    entries = _chosen(_entries(networks, example, threads, compiled=torch_compile), only or ())
    runs: dict[str, Run] = {}
    absent: dict[Entry, str] = {}
    with bar("preparing", quiet=False) as report:
        for done, entry in enumerate(entries):
            if report is not None:
                report(done, len(entries))
            backend = entry.make()
            if backend.run is None:
                absent[entry] = backend.why_not
            else:
                runs[entry.name] = backend.run
    with bar("racing, turn", quiet=False) as report:
        results = time_backends(runs, turns=turns, progress=report or (lambda done, whole: None))  # noqa: ARG005
    by_entry = {
        entry: result for entry in entries for result in results if result.name == entry.name
    }
    winner, said, sizes = _fastest(by_entry), verdict(by_entry), _sizes(networks)
    if as_json:
        found = {
            "machine": {
                "cpu": platform.processor(),
                "threads": threads,
                "torch": torch.__version__,
            },
            "networks": sizes,
            "results": [_facts(entry) | asdict(result) for entry, result in by_entry.items()],
            "absent": {entry.name: why for entry, why in absent.items()},
            "winner": {"name": winner.name} | _facts(winner),
            "verdict": said,
        }
        say(json.dumps(found, indent=1))
        return
    Console().print(_table(by_entry))
    for line in _size_lines(sizes, by_entry):
        say(line)
    for line in _absent_lines(absent, len(networks)):
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
    networks: Mapping[str, nn.Module], example: Sequence[Tensor], threads: int, *, compiled: bool
) -> list[Entry]:
    makers: list[tuple[str, bool, Callable[..., Backend]]] = [
        ("torch", False, partial(torch_eager, "torch")),
        *([("torch.compile", False, torch_compiled)] if compiled else []),
        ("ONNX Runtime", False, onnx_runtime),
        ("OpenVINO", False, openvino),
        (OURS, False, boxwood_engine),
        ("ONNX Runtime", True, partial(onnx_runtime, int8=True)),
        ("OpenVINO", True, partial(openvino, int8=True)),
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
                f"({networks}) or int8, got {text!r}; give such a part."
            )
    wanted = [text.lower() for text in only] or [""]
    return [
        entry
        for place, entry in enumerate(entries)
        if place == 0 or any(text in entry.name.lower() for text in wanted)
    ]


def verdict(results: Mapping[Entry, BackendTimes]) -> str:
    """Name the fastest; compare turn by turn, so that what slows a whole turn drops out.

    The first result is that of dense torch.
    """
    torch_dense, winner = next(iter(results)), _fastest(results)
    if winner is torch_dense:
        said = f"Nothing is measurably faster than {winner.name}."
    else:
        said = (
            f"Fastest: {winner.name}.\nIt is {_times(results, winner, torch_dense)} "
            f"{torch_dense.name}."
        )
    others = {entry: each for entry, each in results.items() if entry.engine != winner.engine}
    if others and (rival := _fastest(others)) is not torch_dense:
        said += (
            f"\nIt is {_times(results, winner, rival)} {rival.name}, the best of the other engines."
        )
    exact = {entry: each for entry, each in results.items() if not entry.int8}
    if winner.int8 and (best := _fastest(exact)) is not torch_dense:
        said += (
            f"\nFastest in float32: {best.name}, {_times(results, best, torch_dense)} "
            f"{torch_dense.name}."
        )
    return said


def _fastest(results: Mapping[Entry, BackendTimes]) -> Entry:
    return min(results, key=lambda entry: results[entry].median)


def _times(results: Mapping[Entry, BackendTimes], one: Entry, other: Entry) -> str:
    """Say how many times as fast one is as another, up to "as"."""
    pairs = zip(results[other].seconds, results[one].seconds, strict=True)
    median, low, high = median_interval([theirs / mine for theirs, mine in pairs])
    interval = f"95 % interval of the ratio {low:.2f} to {high:.2f}"
    if low <= 1 <= high:
        return f"not measurably faster or slower ({interval}) than"
    return f"{median:.2f} times as fast ({interval}) as"


def _sizes(networks: Mapping[str, nn.Module]) -> dict[str, dict[str, int]]:
    return {
        name: {
            "parameters": sum(each.numel() for each in network.parameters()),
            "nonzero": sum(int(each.count_nonzero()) for each in network.parameters()),
        }
        for name, network in networks.items()
    }


def _size_lines(
    sizes: Mapping[str, Mapping[str, int]], results: Mapping[Entry, BackendTimes]
) -> Iterator[str]:
    """A line for each network: how large it is, where it is fastest, and what nobody measured."""
    for name, size in sizes.items():
        raced = {entry: result for entry, result in results.items() if entry.network == name}
        if raced:
            best = _fastest(raced)
            yield (
                f"{name}: {size['parameters']:,} parameters, {size['nonzero']:,} not zero; fastest "
                f"in {best.runner}; accuracy not measured here."
            )


def _absent_lines(absent: Mapping[Entry, str], networks: int) -> Iterator[str]:
    """Say what did not take part and why, once for all networks where they have that in common."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry, why in absent.items():
        found.setdefault((entry.runner, why), []).append(entry.network)
    for (runner, why), without in found.items():
        which = "" if len(without) == networks else f" with {'; '.join(without)}"
        yield f"{runner} did not take part{which}: {why}."


def _facts(entry: Entry) -> dict[str, Any]:
    return {"engine": entry.engine, "network": entry.network, "int8": entry.int8}


def _table(results: Mapping[Entry, BackendTimes]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("engine")
    table.add_column("network")
    for title in ("ms", "95 % interval", "of torch"):
        table.add_column(title, justify="right")
    torch_median = next(iter(results.values())).median
    for entry in sorted(results, key=lambda each: results[each].median):
        result = results[entry]
        table.add_row(
            entry.runner,
            entry.network,
            _ms(result.median),
            f"{_ms(result.low)} – {_ms(result.high)}",
            f"{result.median / torch_median:.2f}",
        )
    return table


def _ms(seconds: float) -> str:
    """Three digits or more."""
    return f"{1e3 * seconds:.3f}" if seconds < 0.01 else f"{1e3 * seconds:.1f}"
