"""Sparse kernels for the layers of a model that stays a PyTorch model."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwood._internal.core.arguments import check_network
from boxwood._internal.engine.accelerated_layers import CLASSES, AcceleratedLayer
from boxwood._internal.engine.kernels import bitmask
from boxwood._internal.engine.linear_plans import linear_plans
from boxwood._internal.engine.product_choice import speedup
from boxwood._internal.engine.sparse_convolutions import ConvolutionPlan, ConvolutionSettings
from boxwood._internal.engine.sparse_products import FewPositions
from boxwood._internal.engine.sparse_recurrence import RecurrentPlan, RecurrentSettings
from boxwood._internal.engine.targets import Target, host
from boxwood._internal.engine.thread_team import ThreadTeam

SMALLEST = 4096
"""Weights of the smallest layers that are looked at: less is over sooner than a call."""

DENSE = 0.2
"""Share of zeros below which a convolution is not worth a measurement."""

MANY = 65
"""Positions that the report calls many."""

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.LSTM | nn.GRU
"""What can be replaced."""

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class LayerReport:
    """What `accelerate_` found for a layer.

    Args:
        name: of the layer.
        sparsity: fraction of its weights that are zero.
        one: how many times as fast as torch it runs for one position, as measured; None for
            convolutions and recurrence, which are measured when they are called.
        many: the same for many positions.
        why: why the layer stays as it is; empty if it was replaced.
    """

    name: str
    sparsity: float
    one: float | None = None
    many: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Acceleration:
    """What `accelerate_` did, layer by layer; prints as a table."""

    layers: tuple[LayerReport, ...]

    @property
    def replaced(self) -> int:
        """How many layers run sparse kernels."""
        return sum(not layer.why for layer in self.layers)

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines = [f"{'layer'.ljust(width)}   zeros  one position  many positions"]
        lines += [
            f"{each.name.ljust(width)}  {100 * each.sparsity:4.0f} %  {_factors(each)}"
            for each in self.layers
        ]
        return "\n".join([*lines, f"{self.replaced} of {len(self.layers)} layers replaced."])


def _factors(layer: LayerReport) -> str:
    if layer.why:
        return layer.why
    if layer.one is None or layer.many is None:
        return "measured at each shape"
    return f"{layer.one:11.2f}×  {layer.many:13.2f}×"


def accelerate_(model: nn.Module) -> Acceleration:
    """Make the layers of a network run sparse kernels, each layer only if that is faster.

    A linear layer ``y = x Wᵀ + b`` is replaced in place. It reads only the nonzero weights. A few
    positions (as in decoding) and many positions (as in prefill) have different kernels. For each
    number of positions, the fastest of these and torch is chosen by measurement on this machine. A
    layer that is never faster is not changed.

    Convolutions over sequences and images, LSTMs and GRUs measure each input shape when they first
    see it, up to eight shapes, which takes a moment. Channels-last images, and recurrence with
    gradients or over packed sequences, run in torch. So does everything else: control flow, caches,
    ``torch.compile`` around the model. Results differ from torch's by rounding, because sums are
    computed in a different order.

    Names, parameters, ``state_dict`` and hooks do not change, and copies are accelerated too.
    Gradients are torch's. If weights have changed, the layer warns once and runs in torch until you
    call `accelerate_` again; writes through ``weight.data`` are not noticed. A pickled network is
    dense after unpickling. `restore_` undoes the change. The packed weights take memory in
    addition to the dense ones: at 80 % zeros a quarter of them for few positions, a third for many.

    Args:
        model: a network with weights on the CPU, in float32, bfloat16 or float16; other weights are
            not changed. It uses torch's current number of threads.

    Returns:
        A report of what was done, layer by layer, with the measured speedups. Print it.

    Raises:
        InvalidInput: the model is no module.
        MissingDependency: llvmlite is missing.

    Example:
        >>> net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).eval()
        >>> x = torch.ones(1, 256)
        >>> with torch.no_grad():
        ...     before = net(x)
        ...     report = accelerate_(net)
        ...     torch.allclose(net(x), before, atol=1e-5)
        True
        >>> restore_(net)
        >>> type(net[0]) is nn.Linear
        True
    """
    check_network(model)
    restore_(model)
    target, team = host(), ThreadTeam(torch.get_num_threads())
    reports, groups = {}, dict[object, list[tuple[str, nn.Linear]]]()
    for name, layer in _candidates(model):
        why = _why_not(layer, target)
        if why:
            reports[name] = LayerReport(name, _sparsity(layer), why=why)
        elif isinstance(layer, nn.Linear):
            groups.setdefault(_kind(layer), []).append((name, layer))
        else:
            reports[name] = LayerReport(name, _sparsity(layer))
            _replace_(layer, _plan(layer, target, team))
    for group in groups.values():
        plans, times = linear_plans([layer for _, layer in group], target, team)
        one, many = (max(1.0, speedup(times, positions)) for positions in (1, MANY))
        for (name, layer), plan in zip(group, plans, strict=True):
            why = "" if plan else "torch is faster"
            reports[name] = LayerReport(name, _sparsity(layer), one, many, why)
            if plan:
                _replace_(layer, plan)
    return Acceleration(
        tuple(reports[name] for name, _ in model.named_modules() if name in reports)
    )


def restore_(model: nn.Module) -> None:
    """Undo `accelerate_`: give every layer its original class again.

    Args:
        model: accelerated or not.
    """
    for module in model.modules():
        if isinstance(module, AcceleratedLayer):
            for name in ("plan", "plan_number"):
                module.__dict__.pop(name, None)
            module.__class__ = module.dense_class()  # type: ignore[assignment]


def _replace_(layer: nn.Module, plan: object) -> None:
    layer.__class__ = CLASSES[type(layer)]
    layer.take_(plan)  # type: ignore[operator]


def _candidates(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Find the layers whose weights are parameters, and not worked out when they are called."""
    for name, module in model.named_modules():
        if isinstance(module, Layer) and type(module) in CLASSES:
            own = {id(each) for each in module._parameters.values() if each is not None}
            if all(id(weight) in own for weight in _weights(module)):
                yield name, module


def _weights(layer: Layer) -> list[Tensor]:
    """A layer's weights and biases, in the order of its plan."""
    if isinstance(layer, nn.RNNBase):
        return [weight for weight in layer._flat_weights if weight is not None]
    weight = layer._parameters.get("weight", layer.weight)
    return [each for each in (weight, layer.bias) if each is not None]


def _matrices(layer: Layer) -> list[Tensor]:
    return [weight for weight in _weights(layer) if weight.ndim > 1]


def _sparsity(layer: Layer) -> float:
    kept = sum(int(weight.count_nonzero()) for weight in _matrices(layer))
    return 1 - kept / max(1, sum(weight.numel() for weight in _matrices(layer)))


def _why_not(layer: Layer, target: Target) -> str:
    """Say why a layer stays as it is whatever is faster; empty if nothing speaks against it."""
    if sum(weight.numel() for weight in _matrices(layer)) < SMALLEST:
        return "small"
    types = _TYPES if isinstance(layer, nn.Linear) else _TYPES[:1]
    for tensor in _weights(layer):
        if type(tensor) not in (nn.Parameter, Tensor) or tensor.layout is not torch.strided:
            return f"a {type(tensor).__name__} of layout {tensor.layout}"
        if tensor.device.type != "cpu" or tensor.dtype not in types or tensor.is_inference():
            return f"{tensor.dtype} on {tensor.device}".removeprefix("torch.")
    if isinstance(layer, nn.Linear):
        fits = FewPositions.is_supported(layer.weight.shape, target)
        return "" if fits else "sizes that are no multiples of 16"
    if isinstance(layer, nn.RNNBase):
        if layer.proj_size or not bitmask.is_supported(target):
            return "projected outputs" if layer.proj_size else "no kernel for this processor"
    elif isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return f"padding by {layer.padding_mode}, {layer.padding}"
    return "" if _sparsity(layer) >= DENSE else f"fewer than {100 * DENSE:.0f} % zeros"


def _plan(layer: Layer, target: Target, team: ThreadTeam) -> ConvolutionPlan | RecurrentPlan:
    """Return the plan of a layer that looks at each shape when it first comes."""
    if isinstance(layer, nn.RNNBase):
        settings = RecurrentSettings(
            4 if isinstance(layer, nn.LSTM) else 3, layer.bias, layer.num_layers,
            layer.bidirectional, layer.batch_first,
        )  # fmt: skip
        return RecurrentPlan(_weights(layer), settings, target, team)
    moves = ConvolutionSettings(layer.stride, layer.padding, layer.dilation, layer.groups)  # type: ignore[arg-type]
    return ConvolutionPlan(layer.weight, layer.bias, moves, target, team)


def _kind(layer: nn.Linear) -> object:
    """What layers have in common that are as fast as each other."""
    weight = layer.weight
    return weight.shape, weight.dtype, layer.bias is None, round(20 * _sparsity(layer))
