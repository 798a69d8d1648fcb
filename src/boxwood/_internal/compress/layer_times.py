"""What each layer of a network does and how long it takes, on this machine."""

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.compress.scores import run
from boxwood._internal.graph.examples import tensors_of
from boxwood._internal.model.evaluation import evaluating, without_fused_encoders
from boxwood._internal.model.layer_kinds import (
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    matrices_in,
)


@dataclass(frozen=True)
class LayerUse:
    """One layer with matrices, in one call of the network.

    Args:
        kind: name of its class; "depthwise" of a convolution whose groups have one channel.
        matrices: positions at which each of its parameters is used, by its name in the network.
        seconds: that it takes in torch, the median.
    """

    kind: str
    matrices: Mapping[str, int]
    seconds: float


def layer_uses(model: nn.Module, example: Any, repeats: int = 7) -> dict[str, LayerUse]:
    """Run a network a few times, and say of each of its layers what it does and how long it takes.

    Args:
        model: the network.
        example: of its inputs.
        repeats: calls that are timed, after one that is not.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> [dict(use.matrices) for use in layer_uses(net, torch.ones(3, 4), repeats=1).values()]
        [{'0.weight': 3}, {'2.weight': 3}]
    """
    layers: dict[nn.Module, str] = {m: n for n, m in model.named_modules() if matrices_in(m)}
    begun: dict[nn.Module, float] = {}
    taken: dict[nn.Module, list[float]] = defaultdict(list)
    positions: dict[nn.Module, dict[str, int]] = defaultdict(dict)

    def enter(module: nn.Module, *_: Any) -> None:
        begun[module] = time.perf_counter()

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        now = time.perf_counter()
        taken[module][-1] += now - begun[module]
        for name in _matrices(module):
            full = f"{layers[module]}.{name}" if layers[module] else name
            positions[module].setdefault(full, 0)
            positions[module][full] += _positions(module, args, kwargs, output)

    hooks = [
        hook
        for module in layers
        for hook in (
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, with_kwargs=True),
        )
    ]
    try:
        with evaluating(model), torch.no_grad(), without_fused_encoders():
            for _ in range(repeats + 1):
                positions.clear()
                for module in layers:
                    taken[module].append(0.0)
                run(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: LayerUse(_kind(module), positions[module], statistics.median(taken[module][1:]))
        for module, name in layers.items()
        if module in positions
    }


def zero_multiply_adds(model: nn.Module, uses: Mapping[str, LayerUse]) -> int:
    """Count the multiply-adds with weights that are zero, which a sparse kernel leaves out.

    Args:
        model: the network, pruned.
        uses: of its layers, by `layer_uses`.

    Example:
        >>> net = nn.Linear(4, 2)
        >>> _ = nn.init.zeros_(net.weight[0])
        >>> zero_multiply_adds(net, layer_uses(net, torch.ones(3, 4), repeats=1))
        12
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    return sum(
        positions * int((weights[name] == 0).sum())
        for use in uses.values()
        for name, positions in use.matrices.items()
        if name in weights
    )


def _matrices(module: nn.Module) -> tuple[str, ...]:
    inner = ("out_proj.weight",) if isinstance(module, nn.MultiheadAttention) else ()
    return (*matrices_in(module), *inner)


def _positions(module: Any, args: Any, kwargs: Any, output: Any) -> int:
    """Return how often one call uses each weight, over the whole batch."""
    entering: Tensor = next(tensors_of((*args, *kwargs.values())))
    leaving: Tensor = next(tensors_of(output))
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return entering.numel() // module.input_size
    if isinstance(module, TRANSPOSED_CONVOLUTIONS):
        return entering.numel() // module.in_channels
    if isinstance(module, CONVOLUTIONS):
        return leaving.numel() // module.out_channels
    return leaving.numel() // leaving.shape[-1]


def _kind(module: Any) -> str:
    if isinstance(module, CONVOLUTIONS) and 1 < module.groups == module.in_channels:
        return "depthwise"
    return type(module).__name__
