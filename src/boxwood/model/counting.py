"""Weights, multiply-adds and activities of a network, layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from boxwood.core.errors import BoxwoodError
from boxwood.model.evaluation import evaluating
from boxwood.model.named_masks import by_parameter

_Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_Recurrent = nn.RNN | nn.LSTM | nn.GRU
_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | _Transposed | _Recurrent | nn.Embedding


@dataclass(frozen=True)
class LayerCount:
    """What one weight layer holds and does for one example.

    Args:
        name: dotted name of the module.
        kind: name of its class.
        weights: entries of its weight, biases apart.
        kept: those that its mask keeps.
        multiply_adds: of the dense layer; twice as many FLOPs.
        effective_multiply_adds: of the kept weights alone.
        input_activity: fraction of non-zero activations that enter, in [0, 1].
        output_activity: fraction of non-zero activations that leave, as the next weight layer
            receives them (the activity column, "Act%", of Han et al. 2015).
        han_flops_kept: kept fraction times the fraction of non-zero inputs ("FLOP%" in the
            tables of Han et al. 2015), in [0, 1].

    Example:
        >>> (layer,) = count(nn.Linear(4, 3), torch.ones(1, 4))
        >>> layer.weights, layer.multiply_adds, layer.han_flops_kept
        (12, 12, 1.0)
    """

    name: str
    kind: str
    weights: int
    kept: int
    multiply_adds: int
    effective_multiply_adds: int
    input_activity: float
    output_activity: float
    han_flops_kept: float


def count(
    model: nn.Module, example: Tensor, masks: Mapping[str, Tensor] | None = None
) -> tuple[LayerCount, ...]:
    """Count every linear, convolution, recurrent and embedding layer in one pass of the masked network.

    A weight does one multiply-add at each position: at each output position of a convolution, at
    each input position of a transposed one, once per row that enters a linear layer, once per step
    that enters a recurrent one, whose weight matrices are counted together. Looking up a row of an
    embedding is none. Padding counts like the rest, groups as the smaller weights that they are.

    ``output_activity`` of a layer is ``input_activity`` of the weight layer that runs next, so it
    is measured behind the non-linearity and whatever pooling follows; for the last layer it is
    that of its own output. ``han_flops_kept`` is ``kept / weights · input_activity``, where the
    layer that runs first has 1 for the activity, because the paper takes the network's own input
    as dense. Hence, in a chain, FLOP%(i) = weights%(i) · Act%(i - 1), as in its tables. A
    layer that is called several times adds up.

    Args:
        model: any module; layers that the pass does not call are left out, and so are the
            projections inside ``nn.MultiheadAttention``, which it reads without calling.
        example: one batch, its first axis the examples; counts are per example, activities
            averages over the batch.
        masks: bool masks by parameter name, True keeps; the pass runs with the others at zero.

    Raises:
        BoxwoodError: no weight layer ran, the example has no batch axis, or a mask does not fit.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 20, 5), nn.Flatten(), nn.Linear(20 * 24 * 24, 10))
        >>> [layer.multiply_adds for layer in count(net, torch.zeros(1, 1, 28, 28))]
        [288000, 115200]

    Reference: Han et al. 2015, arXiv:1506.02626, tables 2 to 5.
    """
    mask_of = by_parameter(model, masks or {})
    masked = {
        name: parameter.masked_fill(~mask_of[parameter].to(parameter.device), 0)
        for name, parameter in model.named_parameters()
        if parameter in mask_of
    }
    layers = {module: name for name, module in model.named_modules() if isinstance(module, _Layer)}
    tallies: dict[_Layer, _Tally] = {}

    def record(module: _Layer, args: Any, kwargs: Any, outputs: Any) -> None:
        entering = args[0] if args else kwargs["input"]
        leaving = outputs[0] if isinstance(module, _Recurrent) else outputs
        tally = tallies.setdefault(module, _Tally())
        tally.positions += _positions(layers[module], module, entering, leaving)
        tally.entering += _active(entering)
        tally.leaving += _active(leaving)

    hooks = [module.register_forward_hook(record, with_kwargs=True) for module in layers]
    try:
        with evaluating(model), torch.no_grad():
            functional_call(model, masked, (example,))
    finally:
        for hook in hooks:
            hook.remove()
    if not tallies:
        raise BoxwoodError(
            "Expected a model that runs a linear or convolution layer, got one that runs none; "
            "give the network whose layers are to be counted."
        )
    activities = [_fraction(tally.entering) for tally in tallies.values()]
    activities.append(_fraction(list(tallies.values())[-1].leaving))
    counts: list[LayerCount] = []
    for module, tally, (entering, leaving) in zip(
        tallies, tallies.values(), pairwise(activities), strict=True
    ):
        matrices = _weights(module)
        weights = sum(weight.numel() for weight in matrices)
        kept = sum(
            int(mask_of[weight].sum()) if weight in mask_of else weight.numel()
            for weight in matrices
        )
        counts.append(
            LayerCount(
                name=layers[module],
                kind=type(module).__name__,
                weights=weights,
                kept=kept,
                multiply_adds=weights * tally.positions // len(example),
                effective_multiply_adds=kept * tally.positions // len(example),
                input_activity=entering,
                output_activity=leaving,
                han_flops_kept=kept / weights * (entering if counts else 1.0),
            )
        )
    return tuple(counts)


def parameters(model: nn.Module) -> int:
    """Count all parameters, biases and normalisations among them; tied ones once.

    Example:
        >>> parameters(nn.Linear(4, 3))
        15
    """
    return sum(parameter.numel() for parameter in model.parameters())


def nonzero(model: nn.Module, masks: Mapping[str, Tensor]) -> int:
    """Count the parameters that masks keep, and all of those without a mask.

    Zeros are not searched for: a bias that happens to be zero is a parameter still.

    Raises:
        BoxwoodError: a mask that does not fit.

    Example:
        >>> nonzero(nn.Linear(2, 1), {"weight": torch.tensor([[True, False]])})
        2
    """
    return parameters(model) - sum(
        int((~mask).sum()) for mask in by_parameter(model, masks).values()
    )


@dataclass
class _Tally:
    """What the calls of one layer add up to: positions, and (non-zero, all) activations."""

    positions: int = 0
    entering: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))
    leaving: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))


def _active(activations: Tensor) -> Tensor:
    return torch.tensor([int(activations.count_nonzero()), activations.numel()])


def _fraction(active: Tensor) -> float:
    nonzeros, total = active.tolist()
    return nonzeros / total if total else 0.0


def _weights(module: _Layer) -> list[Tensor]:
    if isinstance(module, _Recurrent):
        return [p for name, p in module.named_parameters() if name.startswith("weight")]
    return [module.weight]


def _positions(name: str, module: _Layer, entering: Tensor, leaving: Tensor) -> int:
    """Return how often one call uses each weight, over the whole batch."""
    if isinstance(module, nn.Embedding):
        return 0
    fewest = 2 if isinstance(module, nn.Linear | _Recurrent) else module.weight.ndim
    if entering.ndim < fewest:
        raise BoxwoodError(
            f"Expected a batch to enter {name!r}, got a tensor of shape {tuple(entering.shape)}; "
            "give an example whose first axis counts examples, as in `x.unsqueeze(0)`."
        )
    if isinstance(module, nn.Linear):
        return leaving.numel() // module.out_features
    if isinstance(module, _Recurrent):
        return entering.numel() // module.input_size
    if isinstance(module, _Transposed):
        return entering.numel() // module.in_channels
    return leaving.numel() // module.out_channels
