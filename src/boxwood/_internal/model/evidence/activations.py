"""Evidence from the inputs and outputs of layers: hooks for one pass, removed afterwards."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.model.evidence.calibration import Calibration, wide
from boxwood._internal.model.evidence.layers import filtered_kinds, layer_kinds, weight_sums
from boxwood._internal.model.layer_kinds import layouts_of, linear_kinds
from boxwood._internal.model.unpruned import leaving_out
from boxwood.errors import InvalidInput

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def input_norm(seen: Calibration) -> dict[str, Tensor]:
    """‖X_j‖₂ of what each weight is multiplied with, over all examples and positions.

    [1, in] for linear layers, or [in, 1] where the weight lies that way; of the weight's shape for
    convolutions, where a weight meets the inputs under its place in the kernel, and only those of its group.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> batches = [torch.tensor([[3.0, 1.0]]), torch.tensor([[4.0, 0.0]])]
        >>> input_norm(Calibration(net, {"weight": net.weight}, batches))
        {'weight': tensor([[5., 1.]])}

    Source: Sun, Liu, Bair and Kolter (2024), equation 1.
    """
    sums: dict[str, Tensor] = {}
    modules = seen.modules(*layer_kinds())

    def add(layer: nn.Module, inputs: Tensor) -> None:
        found = weight_sums(layer, wide(inputs.detach()).square())
        sums[modules[layer]] = sums.get(modules[layer], 0) + found

    with seen.at_rest(), watching_inputs(modules, add):
        seen.run()
    check_seen(modules, sums)
    sums, _ = seen.over_ranks({name: sums[name] for name in seen.weights}, 1)
    return {name: value.sqrt() for name, value in sums.items()}


def feature_rank(seen: Calibration) -> dict[str, Tensor]:
    """Mean rank over the examples of the feature map of each filter, [out].

    Example:
        >>> net = nn.Conv2d(1, 1, 1)
        >>> batches = [torch.stack([torch.eye(3), torch.ones(3, 3)]).unsqueeze(1)]
        >>> net.bias.data.zero_()
        tensor([0.])
        >>> feature_rank(Calibration(net, {"weight": net.weight}, batches))
        {'weight': tensor([2.])}

    Source: Lin, Ji, Wang, Zhang, Zhang, Tian and Shao (2020), equation 5.
    """
    sums: dict[str, Tensor] = {}
    modules = seen.modules(nn.Conv2d)

    def add(layer: nn.Module, args: Any, outputs: Tensor) -> None:  # noqa: ARG001
        ranks = torch.linalg.matrix_rank(wide(outputs.detach())).sum(0).float()
        sums[modules[layer]] = sums.get(modules[layer], 0) + ranks

    with seen.at_rest(), _hooked(modules, lambda m: m.register_forward_hook(add)):
        examples = seen.run()
    check_seen(modules, sums)
    sums, examples = seen.over_ranks({name: sums[name] for name in seen.weights}, examples)
    return {name: value / examples for name, value in sums.items()}


def norm_scale(seen: Calibration) -> dict[str, Tensor]:
    """γ of the batch norm that reads a layer's outputs, [out].

    Which norm follows which layer is seen by running the first batch.

    Raises:
        InvalidInput: no batch norm with a scale reads the outputs of one of the layers.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        >>> norm_scale(Calibration(net, {"0.weight": net[0].weight}, [torch.rand(1, 1, 2, 2)]))
        {'0.weight': tensor([1., 1.])}

    Source: Liu, Li, Shen, Huang, Yan and Zhang (2017), section 3.
    """
    with seen.at_rest():
        follows = norm_after(seen)
    scales: dict[str, Tensor] = {}
    for name in seen.weights:
        scale = follows[name].weight if name in follows else None
        if not isinstance(scale, Tensor):
            raise InvalidInput(
                f"Expected a batch norm with a scale right after every layer for its γ, got none "
                f"after {name!r}; {leaving_out([name], seen.weights)}."
            )
        scales[name] = scale.detach()
    return scales


def gate_gradient_square(seen: Calibration) -> dict[str, Tensor]:
    """Mean over the batches of ``(∂E_b/∂gate)²`` for a gate of 1 on each output channel, [out].

    The gate sits after the batch norm that reads the layer's outputs, or after the layer where
    none does.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> net.weight.data.fill_(3.0)
        tensor([[3.]])
        >>> loss = lambda outputs, targets: outputs.mean()
        >>> gate_gradient_square(
        ...     Calibration(net, {"weight": net.weight}, [(torch.ones(2, 1), None)], loss)
        ... )
        {'weight': tensor([9.])}

    Source: Molchanov, Mallya, Tyree, Frosio and Kautz (2019), section 3.1.
    """
    outputs = outputs_of(seen)
    gates = {
        name: wide(weight.detach()).new_ones(outputs[name]).requires_grad_()
        for name, weight in seen.weights.items()
    }
    sums: dict[str, Tensor] = {}
    batches = 0
    with seen.at_rest(), gated(seen, norm_after(seen), gates.__getitem__):
        for loss, _ in seen.losses():
            batches += 1
            found = torch.autograd.grad(loss, list(gates.values()), materialize_grads=True)
            for name, value in zip(gates, found, strict=True):
                sums[name] = sums.get(name, 0) + value.square()
            del loss
    sums, batches = seen.over_ranks({name: sums[name] for name in seen.weights}, batches)
    return {name: value / batches for name, value in sums.items()}


def outputs_of(seen: Calibration) -> dict[str, int]:
    """Count the outputs of the layer of each weight.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> outputs_of(Calibration(net, {"weight": net.weight}))
        {'weight': 3}
    """
    layouts = layouts_of(seen.model, seen.weights)
    return {n: weight.shape[1 if n in layouts else 0] for n, weight in seen.weights.items()}


@contextmanager
def gated(
    seen: Calibration, follows: Mapping[str, nn.Module], gate: Callable[[str], Tensor]
) -> Iterator[None]:
    """Multiply every output channel by a gate: after the batch norm that reads it, if there is one.

    Args:
        seen: what the weights are of.
        follows: the norms, from `norm_after`.
        gate: from the name of a weight to numbers [outputs], asked for in every forward pass.

    Example:
        >>> net = nn.Linear(1, 2, bias=False)
        >>> seen = Calibration(net, {"weight": net.weight}, [torch.ones(1, 1)])
        >>> with gated(seen, {}, lambda name: torch.tensor([0.0, 1.0])):
        ...     bool(net(torch.ones(1, 1))[0, 0] == 0)
        True
    """
    with ExitStack() as stack:
        for layer, name in seen.modules(*filtered_kinds()).items():
            place = follows.get(name, layer)
            linear = isinstance(layer, linear_kinds()) and place is layer
            handle = place.register_forward_hook(_gate(gate, name, last=linear))
            stack.callback(handle.remove)
        yield


def sharing_input(seen: Calibration) -> list[list[str]]:
    """Group linear layers that read the very same tensor, as those of queries, keys and values do.

    The first batch decides. Layers of other kinds are alone.

    Returns:
        Names of the weights in the order given, each group at the place of its first one.

    Example:
        >>> class Gated(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.gate, self.down = (nn.Linear(2, 2) for _ in range(3))
        ...     def forward(self, x):
        ...         return self.down(self.up(x) * self.gate(x))
        >>> net = Gated()
        >>> weights = {name: p for name, p in net.named_parameters() if p.dim() == 2}
        >>> sharing_input(Calibration(net, weights, [torch.ones(1, 2)]))
        [['up.weight', 'gate.weight'], ['down.weight']]
    """
    read: dict[str, list[Tensor]] = {}
    modules = seen.modules(*layer_kinds())

    def note(layer: nn.Module, inputs: Tensor) -> None:
        if isinstance(layer, linear_kinds()):
            # Kept, so that no other tensor takes its place in memory.
            read.setdefault(modules[layer], []).append(inputs)

    with seen.at_rest(), torch.no_grad(), watching_inputs(modules, note):
        seen.call(next(seen.inputs()))
    groups: dict[Any, list[str]] = {}
    for name in seen.weights:
        calls = [(x.data_ptr(), x.shape, x.stride(), x._version) for x in read.get(name, ())]
        groups.setdefault(tuple(calls) or name, []).append(name)
    return list(groups.values())


@contextmanager
def watching_inputs(
    modules: dict[nn.Module, str], watch: Callable[[nn.Module, Tensor], None]
) -> Iterator[None]:
    """Show every input of some modules to a function while they run."""

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        watch(module, args[0] if args else next(iter(kwargs.values())))

    with _hooked(modules, lambda m: m.register_forward_pre_hook(before, with_kwargs=True)):
        yield


def check_seen(modules: dict[nn.Module, str], found: dict[str, Tensor]) -> None:
    """Refuse to go on where a layer was never called.

    Raises:
        InvalidInput: a layer did not run as a module, as inside ``nn.MultiheadAttention``.
    """
    for name in modules.values():
        if name not in found:
            raise InvalidInput(
                f"Expected every layer to run on the batches, got no activations for {name!r}, "
                f"whose module is never called; {leaving_out([name], modules.values())}."
            )


@contextmanager
def _hooked(modules: dict[nn.Module, str], register: Callable[[nn.Module], Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for module in modules:
            stack.callback(register(module).remove)
        yield


def norm_after(seen: Calibration) -> dict[str, nn.Module]:
    """Find which norm reads which layer's outputs: the very tensor, in a run of the first batch.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        >>> seen = Calibration(net, {"0.weight": net[0].weight}, [torch.rand(1, 1, 2, 2)])
        >>> norm_after(seen)["0.weight"] is net[1]
        True
    """
    modules = seen.modules(*filtered_kinds())
    made: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept, so that its id stays its own
    follows: dict[str, nn.Module] = {}

    def after(layer: nn.Module, args: Any, outputs: Tensor) -> None:  # noqa: ARG001
        made[id(outputs)] = (modules[layer], outputs)

    def before(norm: nn.Module, args: Any) -> None:
        name, _ = made.get(id(args[0]), (None, None))
        if name is not None:
            follows[name] = norm

    norms: dict[nn.Module, str] = {
        module: "" for module in seen.model.modules() if isinstance(module, _NORMS)
    }
    with (
        torch.no_grad(),
        _hooked(modules, lambda m: m.register_forward_hook(after)),
        _hooked(norms, lambda m: m.register_forward_pre_hook(before)),
    ):
        seen.call(next(seen.inputs()))
    return follows


def _gate(
    gate: Callable[[str], Tensor], name: str, *, last: bool
) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, args: Any, outputs: Tensor) -> Tensor:  # noqa: ARG001
        shape = (-1,) if last else (-1, *(1,) * (outputs.dim() - 2))
        return outputs * gate(name).view(shape).to(outputs.dtype)

    return hook
