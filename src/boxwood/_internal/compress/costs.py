"""What a network costs: multiply-adds, bytes of its file, or time on this machine."""

import re
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from boxwood._internal.compress.journal import Fact, unremembered
from boxwood._internal.compress.knobs import DENSITIES, masks_at, prunable
from boxwood._internal.compress.layer_times import LayerUse, layer_uses, zero_multiply_adds
from boxwood._internal.core.masks import apply_
from boxwood._internal.core.timing import Clock, Run, by_turns, calls_lasting, clock_for
from boxwood._internal.engine.compiling import Precision, compile  # noqa: A004
from boxwood._internal.graph.examples import as_arguments
from boxwood._internal.graph.ranking import best_units
from boxwood._internal.graph.rebuild import rebuilt
from boxwood._internal.graph.surgery import cut
from boxwood._internal.graph.units import Units, find_units
from boxwood.errors import BoxwoodError, InvalidInput

Kept = NDArray[np.bool_]
TURNS = 9
"""Of the dense network and another, to measure the time of the other."""


@dataclass(frozen=True)
class Costs:
    """How a network's cost is forecast and measured.

    Args:
        unit: of the numbers.
        whole: of the dense network.
        of_units: what is left of the units to a forecast.
        of_weights: a network to a forecast from the share of each of its matrices that stays.
        measure: of a network in a precision, as exactly as this machine can.
        precisions: in which networks are tried, and what the dense network costs in each as a share
            of its cost in float32.
    """

    unit: str
    whole: float
    of_units: Callable[[Kept], float]
    of_weights: Callable[[nn.Module], Callable[[Mapping[str, float]], float]]
    measure: Callable[[nn.Module, Precision], float]
    precisions: Mapping[Precision, float]


def multiply_add_costs(
    model: nn.Module,
    units: Units,
    example: Any,
    calibration: Sequence[Any] = (),
    fact: Fact = unremembered,
) -> Costs:
    """Count multiply-adds for one call; those with a weight of zero are none.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.ones(1, 4)
        >>> multiply_add_costs(net, find_units(net, x), x).measure(net, "float32")
        48.0
    """
    del model, calibration, fact

    def measure(network: nn.Module, precision: Precision) -> float:  # noqa: ARG001
        uses = layer_uses(network, example, repeats=1)
        return float(_all_multiply_adds(network, example, uses) - zero_multiply_adds(network, uses))

    def of_weights(network: nn.Module) -> Callable[[Mapping[str, float]], float]:
        uses = layer_uses(network, example, repeats=1)
        whole = float(_all_multiply_adds(network, example, uses))
        return _by_share(whole, _multiply_adds_by_matrix(network, uses), curve)

    curve = [(1.0, 1.0), (0.0, 0.0)]  # one multiply-add for each weight that stays
    return Costs(
        "multiply-adds",
        float(units.multiply_adds()),
        lambda kept: float(units.multiply_adds(kept)),
        of_weights,
        measure,
        {"float32": 1.0},
    )


def size_costs(
    model: nn.Module,
    units: Units,
    example: Any,
    calibration: Sequence[Any],
    fact: Fact = unremembered,
) -> Costs:
    """Count the bytes of the compiled file.

    The forecast is four bytes for each weight that is not zero, and a bit for each place in a
    matrix that has zeros; a file also holds machine code, which no forecast knows.
    """

    def measure(network: nn.Module, precision: Precision) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.bxw"
            compiled(network, example, precision, calibration).save(path)
            return float(path.stat().st_size)

    def of_weights(network: nn.Module) -> Callable[[Mapping[str, float]], float]:
        bytes_of = {name: 4.0 * each.numel() for name, each in prunable(network).items()}
        everything = 4.0 * sum(each.numel() for each in network.parameters())
        return _by_share(everything, bytes_of, curve)

    curve = [(1.0, 1.0), (31 / 32, 1.0), (0.0, 1 / 32)]
    whole = fact("bytes of the dense network", lambda: measure(model, "float32"))
    return Costs(
        "bytes",
        whole,
        lambda kept: whole * units.parameters(kept) / units.parameters(),
        of_weights,
        measure,
        {"float32": 1.0, "int8": fact("bytes in int8", lambda: measure(model, "int8")) / whole},
    )


def latency_costs(
    model: nn.Module,
    units: Units,
    example: Any,
    calibration: Sequence[Any],
    fact: Fact = unremembered,
) -> Costs:
    """Measure seconds for one call of the compiled network, on one thread.

    The forecast is a + b Σ t: of each layer ``t`` is the time that torch takes, times the share of
    its weights that is left with the units; a and b are fitted to the dense network and to networks
    with half and a quarter of all units. Where weights are zero, a layer takes as much less as whole
    networks with equal shares of zeros do.
    """
    dense = compile(model, example)
    args, kwargs = as_arguments(example)
    clock = clock_for(1)

    def ratio(session: Any) -> float:
        runs = {"dense": lambda: dense(*args, **kwargs), "other": lambda: session(*args, **kwargs)}
        found = by_turns(runs, TURNS, calls=_calls(runs, clock), clock=clock)
        return statistics.median(
            other / whole for whole, other in zip(found["dense"], found["other"], strict=True)
        )

    def alone() -> float:
        runs = {"dense": lambda: dense(*args, **kwargs)}
        found = by_turns(runs, TURNS, calls=_calls(runs, clock), clock=clock)
        return statistics.median(found["dense"])

    def curve_of_weights() -> list[tuple[float, float]]:
        curve = [(1.0, 1.0)]
        for density in DENSITIES[1:]:
            thinned = rebuilt(model, lambda _, tensor: tensor.clone())
            with torch.no_grad():
                shares = dict.fromkeys(prunable(thinned), density)
                apply_(dict(thinned.named_parameters()), masks_at(thinned, shares))
            curve.append((density, min(curve[-1][1], ratio(compile(thinned, example)))))
        return curve

    def seconds_by_matrix(network: nn.Module) -> dict[str, float]:
        """Share a layer's time among its matrices."""
        return {
            name: use.seconds / len(use.matrices)
            for use in layer_uses(network, example).values()
            for name in use.matrices
        }

    def layers_left(kept: Kept) -> float:
        """Return the share of the layers' time that is left, as torch has it."""
        left = _share_left(units, kept)
        total = sum(each * left.get(name, 1.0) for name, each in seconds.items())
        return total / max(sum(seconds.values()), 1e-12)

    def line_of_units() -> tuple[float, float]:
        """Fit constant and slope of the time over the share of the layers' time, both at least 0."""
        from scipy.optimize import nnls  # slow to import, as `import boxwood` is not

        points = [(1.0, 1.0)]
        for share in (0.5, 0.25) if len(units) else ():
            chosen = best_units(units, np.zeros(len(units)), share)
            points.append(
                (layers_left(chosen.kept), ratio(compile(cut(model, chosen)[0].eval(), example)))
            )
        rows = np.array([[1.0, x] for x, _ in points])
        constant, slope = nnls(rows, np.array([y for _, y in points]))[0]
        return float(constant), float(slope)

    whole = fact("seconds of the dense network", alone)
    seconds = fact("seconds of its layers", lambda: seconds_by_matrix(model))
    curve = fact("seconds by share of the weights", curve_of_weights)
    constant, slope = fact("constant and slope of the seconds over the units", line_of_units)

    def of_units(kept: Kept) -> float:
        return whole * (constant + slope * layers_left(kept))

    def of_weights(network: nn.Module) -> Callable[[Mapping[str, float]], float]:
        inner = seconds_by_matrix(network)
        now = whole * ratio(compile(network, example))
        scale = now / max(sum(inner.values()), 1e-12)
        return _by_share(now, {name: scale * each for name, each in inner.items()}, curve)

    def measure(network: nn.Module, precision: Precision) -> float:
        return whole * ratio(compiled(network, example, precision, calibration))

    precisions: dict[Precision, float] = {
        "float32": 1.0,
        "int8": fact("seconds in int8", lambda: measure(model, "int8")) / whole,
    }
    return Costs("seconds", whole, of_units, of_weights, measure, precisions)


def compiled(
    network: nn.Module, example: Any, precision: Precision, calibration: Sequence[Any]
) -> Any:
    """Compile a network in a precision.

    Example:
        >>> import torch
        >>> compiled(nn.Linear(4, 2), torch.ones(1, 4), "float32", ())(torch.ones(1, 4)).shape
        torch.Size([1, 2])
    """
    given = calibration if precision == "int8" else None
    return compile(network, example, precision=precision, calibration=given)


def _calls(runs: Mapping[str, Run], clock: Clock) -> dict[str, int]:
    return {name: calls_lasting(run, 0.005, most=200, clock=clock) for name, run in runs.items()}


def _by_share(
    whole: float, by_matrix: Mapping[str, float], curve: Sequence[tuple[float, float]]
) -> Callable[[Mapping[str, float]], float]:
    """Forecast a network of which each matrix keeps a share of its weights."""
    shares, lefts = (np.array(each)[::-1] for each in zip(*curve, strict=True))

    def forecast(settings: Mapping[str, float]) -> float:
        saved = sum(
            by_matrix.get(name, 0.0) * (1 - float(np.interp(share, shares, lefts)))
            for name, share in settings.items()
        )
        return whole - saved

    return forecast


def _share_left(units: Units, kept: Kept) -> dict[str, float]:
    """Return for each parameter the share of its entries that is left."""
    left: dict[str, float] = {}
    for axis in units.axes:
        mine = axis.units[axis.units >= 0]
        share = 1 - (1 - float(kept[mine].mean())) * len(mine) / len(axis.units)
        for name in axis.names:
            left[name] = left.get(name, 1.0) * share
    return left


def _multiply_adds_by_matrix(network: nn.Module, uses: Mapping[str, LayerUse]) -> dict[str, float]:
    weights = dict(network.named_parameters(remove_duplicate=False))
    return {
        name: float(positions * weights[name].numel())
        for use in uses.values()
        for name, positions in use.matrices.items()
        if name in weights
    }


def _all_multiply_adds(network: nn.Module, example: Any, uses: Mapping[str, LayerUse]) -> float:
    """Count those of attention too, where the network can be traced."""
    try:
        return float(find_units(network, example, freeze_unknown=True).multiply_adds())
    except BoxwoodError:
        return sum(_multiply_adds_by_matrix(network, uses).values())


def cost_of(given: str | float, whole: float, unit: str) -> float:
    """Read a cost: a fraction of the dense network's, or a number with its unit.

    Args:
        given: such as 0.5, ``"0.5"``, ``"8ms"``, ``"5MB"`` or ``"1.5G"``.
        whole: cost of the dense network.
        unit: of the target.

    Raises:
        InvalidInput: it is neither, or the unit is another target's.

    Example:
        >>> cost_of("8ms", 0.02, "seconds"), cost_of(0.5, 0.02, "seconds")
        (0.008, 0.01)
    """
    found = re.fullmatch(r"([0-9.]+(?:e-?[0-9]+)?)\s*([a-zA-Z]*)", str(given).strip())
    scales = {"seconds": _SECONDS, "bytes": _BYTES, "multiply-adds": _COUNTS}[unit]
    try:
        number, suffix = float(found[1]), found[2]  # type: ignore[index]
        scale = whole if not suffix and number < 1 else scales[suffix]
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidInput(
            f"Expected at most a fraction in (0, 1) or a number with one of {', '.join(scales)}, "
            f"got {given!r}; give such as 0.5 or {'8ms' if unit == 'seconds' else '5' + list(scales)[1]}."
        ) from error
    if not number > 0:
        raise InvalidInput(f"Expected a cost above 0, got {given!r}; give such as 0.5.")
    return number * scale


_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_BYTES = {"B": 1.0, "MB": 1e6, "kB": 1e3, "KB": 1e3, "GB": 1e9, "MiB": 2.0**20, "KiB": 2.0**10}
_COUNTS = {"": 1.0, "M": 1e6, "G": 1e9, "k": 1e3}
