"""Time the dense network in every engine on this machine, in turn with the compressed one."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from boxwood._internal.compress.layer_times import LayerUse
from boxwood._internal.core.timing import Run
from boxwood._internal.engine.backends import (
    Backend,
    boxwood_engine,
    onnx_runtime,
    openvino,
    time_backends,
    torch_eager,
)

DENSE, OURS = "dense", "compressed"
TURNS = 15
_LARGE = 0.5
"""Share of the time above which a kind of layer is worth a sentence."""


def race(dense: nn.Module, small: nn.Module, session: Any, example: Any) -> dict[str, float]:
    """Return median seconds by engine and network; what cannot run is left out.

    Args:
        dense: the network.
        small: the compressed one.
        session: the compressed one as it was compiled, in its precision; or why it was not.
        example: of the inputs; engines other than torch and Boxwood's are left out where it is a dict.
    """
    given = positional(example)
    if given is None:
        return {}
    makers: list[tuple[str, Callable[..., Backend], bool]] = [
        ("torch", partial(torch_eager, "torch"), False),
        ("Boxwood", boxwood_engine, False),
        ("ONNX Runtime", onnx_runtime, False),
        ("OpenVINO", openvino, False),
        ("ONNX Runtime int8", partial(onnx_runtime, int8=True), True),
        ("OpenVINO int8", partial(openvino, int8=True), True),
    ]
    runs: dict[str, Run] = {}
    for title, make, of_int8 in makers:
        for name, network in ((DENSE, dense), (OURS, small)):
            if of_int8 and name == OURS:
                continue
            if (title, name) == ("Boxwood", OURS):
                if callable(session):  # without the engine's extra it is the reason
                    runs[f"{title}, {name}"] = lambda: session(*given)
                continue
            backend = make(network, given, 1)
            if backend.run is not None:
                runs[f"{title}, {name}"] = backend.run
    return {each.name: each.median for each in time_backends(runs, turns=TURNS)}


def positional(example: Any) -> Sequence[Tensor] | None:
    """Return the tensors that the network is called with, None where some are given by name.

    Example:
        >>> import torch
        >>> len(positional(torch.ones(1)))
        1
        >>> positional({"x": torch.ones(1)})
    """
    given = example if isinstance(example, tuple) else (example,)
    return given if all(isinstance(each, Tensor) for each in given) else None


def advice(seconds: Mapping[str, float], uses: Mapping[str, LayerUse], scored: str) -> list[str]:
    """Say where pruning is not the answer, as far as the times show it.

    Args:
        seconds: of the race.
        uses: of the dense network's layers.
        scored: what validation measures.

    Example:
        >>> advice({"Boxwood, compressed": 2.0, "OpenVINO int8, dense": 1.0}, {}, "accuracy")
        ['OpenVINO int8 runs the dense network 2.00 times as fast as the compressed one runs; its accuracy was not measured.']
    """
    found = []
    ours = min((each for name, each in seconds.items() if name.endswith(OURS)), default=None)
    if ours is not None:
        for name, each in sorted(seconds.items(), key=lambda item: item[1]):
            engine, network = name.rsplit(", ", 1)
            if network == DENSE and each < ours:
                last = f"; its {scored} was not measured" if "int8" in engine else ""
                found.append(
                    f"{engine} runs the dense network {ours / each:.2f} times as fast as the "
                    f"compressed one runs{last}."
                )
    whole = sum(use.seconds for use in uses.values())
    depthwise = sum(use.seconds for use in uses.values() if use.kind == "depthwise")
    if whole and depthwise / whole > _LARGE:
        found.append(
            f"Depthwise convolutions take {depthwise / whole:.0%} of the time of all layers, and "
            f"zeros in them save little; remove channels, or choose another architecture."
        )
    return found
