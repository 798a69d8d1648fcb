"""Weights, multiply-adds and activities of a network, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from boxwood._internal.core.placement import on_device_of
from boxwood._internal.model.evaluation import evaluating, without_fused_encoders
from boxwood._internal.model.layer_kinds import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, matrices_in
from boxwood._internal.model.named_masks import by_parameter
from boxwood.errors import InvalidInput

_Layer = Any  # of a kind in `layer_kinds`, or an embedding; torch types attributes as modules

_INPUTS = ("input", "query", "key", "value")  # in the order in which layers take them


@dataclass(frozen=True)
class LayerCount:
    """The weights, multiply-adds and activities of one layer, for one example.

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
        >>> (layer,) = count_layers(nn.Linear(4, 3), torch.ones(1, 4))
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


def count_layers(
    model: nn.Module, example: Tensor, masks: Mapping[str, Tensor] | None = None
) -> tuple[LayerCount, ...]:
    """Count every layer with matrices or kernels, and every embedding, in one pass of the masked network.

    A weight does one multiply-add at each position: at each output position of a convolution, at
    each input position of a transposed one, once per row that enters a linear layer, once per step
    that enters a recurrent one. The matrices of a recurrent layer are counted together; so are the
    four projections of ``nn.MultiheadAttention``, whose products of queries, keys and values have
    no weights and are not counted. Looking up a row of an embedding costs none. Padding counts like
    other positions, and grouped layers count by their smaller weights.

    ``output_activity`` of a layer is ``input_activity`` of the weight layer that runs next, so it
    is measured after the non-linearity and whatever pooling follows; for the last layer it is
    that of its own output. ``han_flops_kept`` is ``kept / weights · input_activity``, with an
    activity of 1 for the layer that runs first, because the paper treats the network's input as
    dense. So in a chain, FLOP%(i) = weights%(i) · Act%(i - 1), as in its tables. The counts of a
    layer that is called several times are added up.

    Args:
        model: any module; layers that the pass does not call are left out.
        example: one batch, on any device, its first axis the examples; counts are per example,
            activities averages over the batch.
        masks: bool masks by parameter name, True keeps; the pass runs with pruned weights at zero.

    Raises:
        InvalidInput: no weight layer ran, the example has no batch axis, or a mask does not fit.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 20, 5), nn.Flatten(), nn.Linear(20 * 24 * 24, 10))
        >>> [layer.multiply_adds for layer in count_layers(net, torch.zeros(1, 1, 28, 28))]
        [288000, 115200]

    Reference: Han et al. 2015, arXiv:1506.02626, tables 2 to 5.
    """
    mask_of = by_parameter(model, masks or {})
    masked = {
        name: parameter.masked_fill(~mask_of[parameter].to(parameter.device), 0)
        for name, parameter in model.named_parameters()
        if parameter in mask_of
    }
    layers = {
        module: name
        for name, module in model.named_modules()
        if matrices_in(module) or isinstance(module, nn.Embedding)
    }
    tallies: dict[_Layer, _Tally] = {}

    def record(module: _Layer, args: Any, kwargs: Any, outputs: Any) -> None:
        given = [*args, *(kwargs[name] for name in _INPUTS if name in kwargs), *kwargs.values()]
        entering, leaving = given[0], outputs[0] if isinstance(outputs, tuple) else outputs
        tally = tallies.setdefault(module, _Tally())
        for part, positions in _positions(layers[module], module, given, leaving):
            tally.positions[part] = tally.positions.get(part, 0) + positions
        tally.entering += _active(entering)
        tally.leaving += _active(leaving)

    hooks = [module.register_forward_hook(record, with_kwargs=True) for module in layers]
    try:
        with evaluating(model), without_fused_encoders(), torch.no_grad():
            functional_call(model, masked, (on_device_of(example, list(model.parameters())),))
    finally:
        for hook in hooks:
            hook.remove()
    if not tallies:
        raise InvalidInput(
            "Expected a model that runs a linear or convolution layer, got one that runs none; "
            "give a network with such layers."
        )
    activities = [_fraction(tally.entering) for tally in tallies.values()]
    activities.append(_fraction(list(tallies.values())[-1].leaving))
    counts: list[LayerCount] = []
    for module, tally, (entering, leaving) in zip(
        tallies, tallies.values(), pairwise(activities), strict=True
    ):
        every = [_sizes(module, part, mask_of) for part in tally.positions]
        weights, kept = (sum(sizes) for sizes in zip(*every, strict=True))
        work = [
            sum(
                size * positions
                for size, positions in zip(sizes, tally.positions.values(), strict=True)
            )
            for sizes in zip(*every, strict=True)
        ]
        counts.append(
            LayerCount(
                name=layers[module],
                kind=type(module).__name__,
                weights=weights,
                kept=kept,
                multiply_adds=work[0] // len(example),
                effective_multiply_adds=work[1] // len(example),
                input_activity=entering,
                output_activity=leaving,
                han_flops_kept=kept / weights * (entering if counts else 1.0),
            )
        )
    return tuple(counts)


def kept_multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Count the multiply-adds of the weights that are not zero, for one example.

    Args:
        model: as for `count_layers`.
        example: likewise.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.eye(2))
        >>> kept_multiply_adds(net, torch.ones(1, 2))
        2
    """
    masks = {name: p.detach() != 0 for name, p in model.named_parameters() if p.dim() > 1}
    return sum(layer.effective_multiply_adds for layer in count_layers(model, example, masks))


def count_parameters(model: nn.Module) -> int:
    """Count all parameters, including biases and normalisations; tied ones count once.

    Example:
        >>> count_parameters(nn.Linear(4, 3))
        15
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_nonzero(model: nn.Module, masks: Mapping[str, Tensor]) -> int:
    """Count the parameters that masks keep, and all of those without a mask.

    Zeros are not looked for: a bias that happens to be zero still counts as a parameter.

    Raises:
        InvalidInput: a mask that does not fit.

    Example:
        >>> count_nonzero(nn.Linear(2, 1), {"weight": torch.tensor([[True, False]])})
        2
    """
    return count_parameters(model) - sum(
        int((~mask).sum()) for mask in by_parameter(model, masks).values()
    )


@dataclass(frozen=True)
class _Part:
    """A matrix of a layer, or the rows of it that read one of several inputs."""

    matrix: str
    rows: tuple[int, int] | None = None


@dataclass
class _Tally:
    """What the calls of one layer add up to: positions, and (non-zero, all) activations."""

    positions: dict[_Part, int] = field(default_factory=dict)
    entering: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))
    leaving: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))


def _active(activations: Tensor) -> Tensor:
    return torch.tensor([int(activations.count_nonzero()), activations.numel()])


def _fraction(active: Tensor) -> float:
    nonzeros, total = active.tolist()
    return nonzeros / total if total else 0.0


def _sizes(module: _Layer, part: _Part, mask_of: Mapping[Tensor, Tensor]) -> tuple[int, int]:
    """Count the weights of a part of a layer, and those that its mask keeps."""
    weight = (
        module.get_parameter(part.matrix) if "." in part.matrix else getattr(module, part.matrix)
    )
    rows = slice(*part.rows) if part.rows is not None else slice(None)
    size = weight[rows].numel()
    return size, int(mask_of[weight][rows].sum()) if weight in mask_of else size


def _positions(
    name: str, module: _Layer, given: Sequence[Tensor], leaving: Tensor
) -> list[tuple[_Part, int]]:
    """Return how often one call uses each weight, over the whole batch."""
    entering = given[0]
    if isinstance(module, nn.Embedding):
        return [(_Part("weight"), 0)]
    fewest = module.weight.ndim if isinstance(module, CONVOLUTIONS) else 2
    if entering.ndim < fewest:
        raise InvalidInput(
            f"Expected a batch to enter {name!r}, got a tensor of shape {tuple(entering.shape)}; "
            "give an example whose first axis counts examples, as in `x.unsqueeze(0)`."
        )
    if isinstance(module, nn.MultiheadAttention):
        return _positions_of_attention(module, given, leaving)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        times = entering.numel() // module.input_size
    elif isinstance(module, TRANSPOSED_CONVOLUTIONS):
        times = entering.numel() // module.in_channels
    elif isinstance(module, CONVOLUTIONS):
        times = leaving.numel() // module.out_channels
    else:
        times = leaving.numel() // leaving.shape[-1]
    return [(_Part(matrix), times) for matrix in matrices_in(module)]


def _positions_of_attention(
    module: nn.MultiheadAttention, given: Sequence[Tensor], leaving: Tensor
) -> list[tuple[_Part, int]]:
    """Queries, keys and values may be of different lengths; the projection that leaves is inside."""
    times = [each.numel() // each.shape[-1] for each in given[:3]]
    matrices, wide = matrices_in(module), module.embed_dim
    parts = [_Part(matrix) for matrix in matrices]
    if len(matrices) == 1:
        parts = [_Part(matrices[0], (wide * place, wide * (place + 1))) for place in range(3)]
    leaves = _Part("out_proj.weight"), leaving.numel() // wide
    return [*zip(parts, times, strict=True), leaves]
